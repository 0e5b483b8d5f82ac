"""Head norms and rotation in Triton, beside what the models compute with torch."""

import pytest
import torch
import torch.nn.functional as F

from engine.models.rope import rotate
from kernels.triton.rope import rotate_heads
from tests.kernels.triton_device import DEVICE, is_as_accurate

EPS = 1e-6
HEADS = [(1, 1, 64), (9, 3, 64), (6, 2, 96), (16, 8, 128), (32, 8, 128), (3, 1, 6)]
"""q heads, kv heads, head_dim."""
Norms = tuple[torch.Tensor, torch.Tensor]


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def tables(num_tokens: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `RotaryEmbedding.cos_sin` gives them, without the dimension of heads, in fp32."""
    angles = randn(num_tokens, head_dim // 2, seed=11) * 3
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)


def plain(
    heads: torch.Tensor, num_heads: int, cos: torch.Tensor, sin: torch.Tensor, norms: Norms | None
) -> torch.Tensor:
    """With torch's operations, in the dtype of `heads`."""
    if norms is not None:
        parts = zip(heads.split([num_heads, heads.shape[1] - num_heads], dim=1), norms, strict=True)
        heads = torch.cat(
            [F.rms_norm(part, part.shape[2:], weight.to(part.dtype), EPS) for part, weight in parts], dim=1
        )
    return rotate(heads.clone(), cos[:, None].to(heads.dtype), sin[:, None].to(heads.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("has_norm", [False, True], ids=["plain", "norms"])
def test_rotation_in_place_is_as_accurate_as_torchs(
    shape: tuple[int, int, int], dtype: torch.dtype, has_norm: bool
) -> None:
    num_heads, kv_heads, head_dim = shape
    num_tokens = 3
    merged = randn(num_tokens, num_heads + 2 * kv_heads, head_dim, seed=1).to(dtype)
    values = merged[:, num_heads + kv_heads :].clone()
    cos, sin = tables(num_tokens, head_dim)
    norms = (randn(head_dim, seed=2).to(dtype), randn(head_dim, seed=3).to(dtype)) if has_norm else None
    heads = merged[:, : num_heads + kv_heads]
    exact = plain(heads.double(), num_heads, cos.double(), sin.double(), norms)
    theirs = plain(heads, num_heads, cos, sin, norms)
    rotate_heads(heads, num_heads, cos, sin, norms, EPS)
    assert is_as_accurate(heads, theirs, exact)
    assert torch.equal(merged[:, num_heads + kv_heads :], values), "values are not touched"


def test_tables_in_the_models_dtype_will_do() -> None:
    heads = randn(2, 4, 64, seed=4).bfloat16()
    cos, sin = (table.bfloat16() for table in tables(2, 64))
    want = heads.clone()
    rotate_heads(want, 3, cos.float(), sin.float())
    rotate_heads(heads, 3, cos, sin)
    assert torch.equal(heads, want)


def test_a_token_has_the_same_bits_alone_and_in_any_batch() -> None:
    heads = randn(5, 12, 128, seed=5).bfloat16()
    cos, sin = tables(5, 128)
    norms = (randn(128, seed=6).bfloat16(), randn(128, seed=7).bfloat16())
    alone = heads.clone()
    for i in range(5):
        rotate_heads(alone[i : i + 1], 8, cos[i : i + 1], sin[i : i + 1], norms, EPS)
    rotate_heads(heads, 8, cos, sin, norms, EPS)
    assert torch.equal(heads, alone)
