"""Compiles the kernels of layers and of sampling for Hopper, for the shapes of an 8B; see compile_for_hopper.py."""

import torch

from kernels.triton.activation import silu_mul
from kernels.triton.norm import add_rms_norm, rms_norm
from kernels.triton.nucleus import settle_nucleus
from kernels.triton.rope import rotate_heads
from tests.kernels.compile_for_hopper import report_what_is_launched


def main() -> None:
    report_what_is_launched()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x = torch.empty(4, 4096, dtype=dtype)
        rms_norm(x, x[0], 1e-5)
        add_rms_norm(x, x.clone(), x[0], 1e-5)
        silu_mul(torch.empty(4, 2 * 14336, dtype=dtype))
        heads, tables = torch.empty(4, 48, 128, dtype=dtype), torch.empty(4, 128)
        rotate_heads(heads[:, :40], 32, tables, tables)
        rotate_heads(heads[:, :40], 32, tables, tables, (x[0, :128], x[0, :128]), 1e-6)
    settle_nucleus(
        torch.empty(4, 128256), torch.empty(4, dtype=torch.int64), torch.empty(4, dtype=torch.bool), torch.empty(4)
    )


if __name__ == "__main__":
    main()
