"""FP8 K and V: E4M3 (arXiv:2209.05433) with one bfloat16 scale per row, a row being one head's K or V of one token.

    s    = max(trunc_bf16(max|x| / 448), 2^-100)        divisions in fp32
    code = RNE_E4M3(x / s)
    x'   = code * s                                     exact in fp32

* A row needs nothing but itself: it is written once, and never again when its block fills or a neighbour is larger.
* The scale is *truncated*, so `448 * s <= max|x|`: what is read back is never larger than the largest of the row
  (no fp16 row becomes infinite), the largest itself saturates at code 448 (it exceeds 448 * s by less than 2^-7), and
  encoding what was decoded gives the same bytes.
* The scale is bfloat16, not float16: `max|x| / 448` of ordinary V rows (1e-3 and less) lies in float16's subnormals,
  where it would have a few bits, and of large K rows of bf16 models may lie beyond what float16 holds. Eight bits of
  mantissa are enough, since the truncation costs only the largest element 2^-7 at most.
* Zeros stay zeros of either sign. An all-zero row, and one below 2^-100, has scale 2^-100; a cleared record (scale 0,
  codes 0) also reads as zeros.
* A row with NaN or infinity, or with a magnitude of 114 688 (448 * 256) or more, holds no number: its scale is NaN,
  infinite or above `MAX_SCALE`, and every element that is not hidden reads back as NaN or infinity, so that the request
  fails visibly, as it would with other blocks. The bound is what lets the decoders use a factor `s * 2^120`.

The functions here are the oracle that the fast paths are compared with.
"""

import torch

E4M3_MAX = 448.0
MIN_SCALE = 2.0**-100
MAX_SCALE = 255.0
"""The largest bfloat16 below 256."""


def encode(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes float8_e4m3fn [..., head_dim] and scales bfloat16 [...] of rows [..., head_dim] of any float type."""
    rows = rows.float()
    largest = rows.abs().amax(dim=-1)
    truncated = (largest / E4M3_MAX).view(torch.int32).bitwise_and(-(1 << 16)).view(torch.float32)
    scales = truncated.clamp_min(MIN_SCALE)
    codes = (rows / scales[..., None]).to(torch.float8_e4m3fn)
    return codes, scales.bfloat16()


def decode(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """float32 [..., head_dim] from float8_e4m3fn [..., head_dim] and bfloat16 [...]."""
    scales = scales.float()
    usable = torch.where(scales <= MAX_SCALE, scales, torch.nan)
    return codes.float() * usable[..., None]
