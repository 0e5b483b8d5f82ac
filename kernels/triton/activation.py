"""The gate of SwiGLU (arXiv:2002.05202) over a merged projection."""

import torch
import triton
import triton.language as tl

_BLOCK = 1024


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up with silu(x) = x / (1 + exp(-x)), in fp32, rounded once; [tokens, size], a new tensor.

    gate_up: floats [tokens, 2 * size], rows perhaps strided: gate, then up.
    """
    num_tokens, width = gate_up.shape
    assert width % 2 == 0
    assert gate_up.stride(1) == 1
    size = width // 2
    out = torch.empty(num_tokens, size, dtype=gate_up.dtype, device=gate_up.device)
    if num_tokens:
        # Tokens are the first dimension of the grid, which alone may exceed 65535.
        grid = (num_tokens, triton.cdiv(size, _BLOCK))
        _silu_mul[grid](gate_up, out, gate_up.stride(0), size, BLOCK=_BLOCK, num_warps=4)
    return out


@triton.jit
def _silu_mul(gate_up_ptr, out_ptr, stride, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    at = gate_up_ptr + token * stride + columns
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + size, mask=inside, other=0.0).to(tl.float32)
    # A large negative gate gives exp(-gate) = inf and the quotient -0, which is right.
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + token * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)
