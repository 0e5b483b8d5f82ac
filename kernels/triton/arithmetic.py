"""E4M3 to and from its bits in registers, exactly as `kernels/kv_codec/e4m3.py` has it."""

import triton
import triton.language as tl


@triton.jit
def from_e4m3(codes, dtype: tl.constexpr, NATIVE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The numbers of uint8 codes in `dtype`, exactly: every E4M3 number is one in fp16 and bf16.

    `NATIVE`: by the device's own instruction (compute capability 8.9 and later). Else a code is shifted into fp16, sign
    to sign and exponent to the end of the exponent, where it is the number over 2^8. The code of NaN is then 480: it
    is written only beside a scale that is no number either.
    """
    if NATIVE:
        numbers = codes.to(tl.float8e4nv, bitcast=True).to(dtype)
    else:
        wide = codes.to(tl.int16)
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        numbers = (bits.to(tl.float16, bitcast=True).to(tl.float32) * 256.0).to(dtype)
    return numbers


@triton.jit
def to_e4m3(x):  # type: ignore[no-untyped-def]
    """uint8 codes of fp32 numbers, rounded to nearest even; |x| above 464, and NaN, become NaN."""
    bits = x.to(tl.uint32, bitcast=True)
    sign = (bits >> 24) & 0x80
    magnitude = bits & 0x7FFFFFFF
    # Exponent bias 7 in place of 127, then twenty bits of mantissa off, half to even.
    normal = (magnitude - (120 << 23) + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
    # Below 2^-6 codes are multiples of 2^-9, which is the last bit of a number between 2^14 and 2^15.
    shifted = magnitude.to(tl.float32, bitcast=True) + 16384.0
    subnormal = shifted.to(tl.uint32, bitcast=True) - (141 << 23)
    code = tl.where(magnitude < (121 << 23), subnormal, normal)
    return (tl.where(magnitude >= (1087 << 20), 0x7F, code) | sign).to(tl.uint8)


@triton.jit
def usable_scale(scales, MAX_SCALE: tl.constexpr):  # type: ignore[no-untyped-def]
    """fp32 of bf16 scales; what is no number, or above the largest scale, marks a broken row and becomes NaN."""
    wide = scales.to(tl.float32)
    return tl.where(wide <= MAX_SCALE, wide, float("nan"))
