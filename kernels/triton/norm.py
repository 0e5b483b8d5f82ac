"""RMSNorm (arXiv:1910.07467) by one program per row, alone and with the residual added in the same pass."""

import torch
import triton
import triton.language as tl

_ELEMENTS_PER_WARP = 512
_MAX_WARPS = 16


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """y = weight * x / sqrt(mean(x²) + eps) over the last dimension, in fp32, rounded once; a new tensor.

    x: floats [tokens, size], rows perhaps strided; weight: [size].
    """
    num_tokens, size = x.shape
    assert x.stride(1) == 1
    out = torch.empty(num_tokens, size, dtype=x.dtype, device=x.device)
    if num_tokens:
        block = triton.next_power_of_2(size)
        _rms_norm[(num_tokens,)](x, weight, out, x.stride(0), size, eps, BLOCK=block, num_warps=_num_warps(block))
    return out


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """residual += x, in place, and RMSNorm of that sum, a new tensor.

    x, residual: floats [tokens, size], rows perhaps strided; weight: [size]. The sum is formed in fp32 and normalised
    before it is rounded to the residual's dtype.
    """
    num_tokens, size = residual.shape
    assert x.shape == residual.shape
    assert x.stride(1) == residual.stride(1) == 1
    out = torch.empty(num_tokens, size, dtype=residual.dtype, device=residual.device)
    if num_tokens:
        block = triton.next_power_of_2(size)
        _add_rms_norm[(num_tokens,)](
            x,
            residual,
            weight,
            out,
            x.stride(0),
            residual.stride(0),
            size,
            eps,
            BLOCK=block,
            num_warps=_num_warps(block),
        )
    return out


def _num_warps(block: int) -> int:
    """Each thread then holds 16 elements of a row: two wide loads in flight in 16-bit types."""
    return max(1, min(_MAX_WARPS, block // _ELEMENTS_PER_WARP))


@triton.jit
def _normalised(x, weight_ptr, columns, inside, size, eps):  # type: ignore[no-untyped-def]
    variance = tl.sum(x * x, axis=0) / size
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    return x * tl.rsqrt(variance + eps) * weight


@triton.jit
def _rms_norm(x_ptr, weight_ptr, out_ptr, x_stride, size, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    y = _normalised(x, weight_ptr, columns, inside, size, eps)
    tl.store(out_ptr + row * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _add_rms_norm(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, weight_ptr, out_ptr, x_stride, residual_stride, size, eps, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    at = residual_ptr + row * residual_stride + columns
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(at, mask=inside, other=0.0).to(tl.float32) + x
    tl.store(at, total.to(residual_ptr.dtype.element_ty), mask=inside)
    y = _normalised(total, weight_ptr, columns, inside, size, eps)
    tl.store(out_ptr + row * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)
