"""SiLU(gate) * up in Triton, beside torch's two operations."""

import pytest
import torch
import torch.nn.functional as F

from kernels.triton.activation import silu_mul
from tests.kernels.triton_device import DEVICE, is_as_accurate


def merged(num_tokens: int, size: int, dtype: torch.dtype, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens + size)
    return (torch.randn(num_tokens, 2 * size, generator=generator) * scale).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("num_tokens", "size"), [(1, 8), (3, 1024), (2, 1025), (4, 1536)])
def test_the_product_is_as_accurate_as_torchs(num_tokens: int, size: int, dtype: torch.dtype) -> None:
    gate_up = merged(num_tokens, size, dtype)
    gate, up = gate_up.split(size, dim=1)
    exact = F.silu(gate.double()) * up.double()
    got = silu_mul(gate_up)
    assert got.shape == (num_tokens, size)
    assert got.is_contiguous()
    assert is_as_accurate(got, F.silu(gate) * up, exact)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_gates_far_from_zero_saturate() -> None:
    gates = torch.tensor([[-1000.0, -100.0, 0.0, 100.0, 1000.0]], device=DEVICE)
    got = silu_mul(torch.cat((gates, torch.full_like(gates, 2.0)), dim=1))
    assert got.tolist() == [[0.0, 0.0, 0.0, 200.0, 2000.0]]


def test_rows_may_be_strided() -> None:
    wide = merged(3, 100, torch.bfloat16)
    assert torch.equal(silu_mul(wide[:, :64]), silu_mul(wide[:, :64].contiguous()))
