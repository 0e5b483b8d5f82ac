"""The codec of `e4m3.py` in few passes over the data, with torch's own operations; equal to it bit by bit.

On the CPU torch converts from float8 one element at a time (4 ns each, measured). An E4M3 byte shifted into a wider
float, sign to sign and exponent to the end of the exponent, is the same number times a power of two, subnormals
included: two integer passes at the speed of memory and one product, whose factor makes up for that power.
"""

import torch

from kernels.kv_codec.e4m3 import E4M3_MAX, MAX_SCALE, MIN_SCALE

_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
_EXPONENT_BIAS = {torch.bfloat16: 127, torch.float16: 15, torch.float32: 127}


class TorchE4m3:
    """Between rows of one computation dtype (bf16, fp16 or fp32) and E4M3 codes with their scales, on one device."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._integer = dtype, _INTEGERS[dtype]
        shift = _MANTISSA_BITS[dtype] - 3
        width = dtype.itemsize * 8

        # Tensors, since a Python number costs each operation a conversion, which counts in decode steps.
        def constant(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(value, dtype=dtype, device=device)

        self._magnitude = constant((1 << (width - 1)) - 1, self._integer)
        self._e4m3_max = constant(E4M3_MAX, torch.float32)
        self._high_half = constant(-(1 << 16), torch.int32)
        self._min_scale = constant(MIN_SCALE, torch.float32)
        self._shift = constant(1 << shift, self._integer)
        self._sign_and_code = constant((0x7F << shift) - (1 << (width - 1)), self._integer)
        # A factor in float16 has to be made in float32: small scales are none of its normal numbers.
        self._factor_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        self._power = constant(2.0 ** (_EXPONENT_BIAS[dtype] - 7), self._factor_dtype)

    def encode(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes float8_e4m3fn [..., head_dim] and scales bfloat16 [...] of contiguous rows."""
        # Magnitudes order as their bits do, which also puts NaN on top; torch's amax over bf16 is slow.
        magnitudes = rows.view(self._integer).bitwise_and(self._magnitude)
        largest = magnitudes.amax(dim=-1, keepdim=True).view(self._dtype)
        scales = largest.float().div_(self._e4m3_max)
        scales.view(torch.int32).bitwise_and_(self._high_half)
        scales.clamp_min_(self._min_scale)
        codes = (rows / scales).to(torch.float8_e4m3fn)
        return codes, scales.bfloat16()[..., 0]

    def decode(self, codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """out [..., head_dim], contiguous, = codes uint8 [..., head_dim] * scales bfloat16 [...]."""
        if out.device.type != "cpu":
            # Devices convert float8 at full speed; what the factors below do by overflowing is said here.
            usable = torch.where(scales <= MAX_SCALE, scales, torch.nan).to(self._dtype)
            torch.mul(codes.view(torch.float8_e4m3fn).to(self._dtype), usable[..., None], out=out)
            return
        bits = out.view(self._integer)
        # Sign-extended, so the sign is at the top already; the mask clears its copies between there and the exponent.
        bits.copy_(codes.view(torch.int8)).mul_(self._shift).bitwise_and_(self._sign_and_code)
        factors = (scales.to(self._factor_dtype) * self._power).to(self._dtype)
        out.mul_(factors[..., None])
