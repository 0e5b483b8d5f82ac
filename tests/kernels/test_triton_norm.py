"""RMSNorm in Triton: as near to fp32 as torch's, over ragged sizes, strided rows and all activation types."""

import pytest
import torch
import torch.nn.functional as F

from kernels.triton.norm import add_rms_norm, rms_norm
from tests.kernels.triton_device import DEVICE, is_as_accurate

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 64), (3, 576), (2, 1000), (5, 1024), (1, 4096)]
EPS = 1e-6


def rows(num_tokens: int, size: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_tokens, size, generator=generator) * scale).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e-4, 200.0])
def test_the_norm_is_as_accurate_as_torchs(shape: tuple[int, int], dtype: torch.dtype, scale: float) -> None:
    x, weight = rows(*shape, dtype, 1, scale), rows(1, shape[1], dtype, 2)[0]
    exact = F.rms_norm(x.double(), (shape[1],), weight.double(), EPS)
    theirs = F.rms_norm(x, (shape[1],), weight, EPS)
    got = rms_norm(x, weight, EPS)
    assert got.dtype == dtype
    assert is_as_accurate(got, theirs, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_is_rounded_once_and_its_norm_is_as_accurate_as_torchs(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    x, residual, weight = rows(*shape, dtype, 3), rows(*shape, dtype, 4, 5.0), rows(1, shape[1], dtype, 5)[0]
    summed = residual + x
    exact = F.rms_norm(residual.double() + x.double(), (shape[1],), weight.double(), EPS)
    theirs = F.rms_norm(summed, (shape[1],), weight, EPS)
    got = add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(residual, summed), "in place, to the bit"
    assert is_as_accurate(got, theirs, exact)


def test_rows_may_be_strided_and_what_lies_between_them_is_left_alone() -> None:
    wide = rows(4, 96, torch.bfloat16, 6)
    before = wide.clone()
    weight = rows(1, 64, torch.bfloat16, 7)[0]
    x = rows(4, 80, torch.bfloat16, 8)[:, :64]
    assert torch.equal(rms_norm(wide[:, :64], weight, EPS), rms_norm(wide[:, :64].contiguous(), weight, EPS))
    got = add_rms_norm(x, wide[:, :64], weight, EPS)
    assert torch.equal(got, add_rms_norm(x.contiguous(), before[:, :64].contiguous(), weight, EPS))
    assert torch.equal(wide[:, 64:], before[:, 64:])


def test_a_row_has_the_same_bits_alone_and_in_any_batch() -> None:
    x, residual, weight = (rows(n, 576, torch.bfloat16, n) for n in (7, 7, 1))
    together = add_rms_norm(x, residual.clone(), weight[0], EPS)
    alone = [add_rms_norm(x[i : i + 1], residual[i : i + 1].clone(), weight[0], EPS) for i in range(7)]
    assert torch.equal(together, torch.cat(alone))


def test_a_row_of_nan_spoils_no_other() -> None:
    x, weight = rows(3, 64, torch.bfloat16, 9), rows(1, 64, torch.bfloat16, 10)[0]
    want = rms_norm(x, weight, EPS)
    x[1] = float("nan")
    got = rms_norm(x, weight, EPS)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], want[[0, 2]])


def test_no_rows_are_no_work() -> None:
    assert rms_norm(rows(0, 64, torch.bfloat16, 0), rows(1, 64, torch.bfloat16, 0)[0], EPS).shape == (0, 64)
