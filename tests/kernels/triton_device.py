"""Where Triton's kernels are tested: on the CUDA device, or in the interpreter where there is none."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kernels.attention.protocol import AttnBatch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _round_to_nearest_even() -> None:
    """Let the interpreter round float32 to bfloat16 as every device does; Triton 3.7.1's cuts the low bits off."""
    from triton import language as tl
    from triton.runtime import interpreter

    convert: Callable[..., Any] = interpreter._convert_float

    def converted(values: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(values, source, target, rounding_mode)
        bits = torch.from_numpy(np.array(values).view(np.float32)).bfloat16().view(torch.int16)
        return bits.numpy().view(np.uint16)

    interpreter._convert_float = converted


if os.environ.get("TRITON_INTERPRET") == "1":
    _round_to_nearest_even()


def moved(batch: AttnBatch, device: torch.device) -> AttnBatch:
    """The batch with its tensors on a device."""
    return replace(
        batch,
        block_table=batch.block_table.to(device),
        write_slots=batch.write_slots.to(device),
        positions=batch.positions.to(device),
        fresh_blocks=None if batch.fresh_blocks is None else batch.fresh_blocks.to(device),
    )


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest difference from what fp64 gives, relative to the largest value."""
    exact = exact.double()
    return float((got.double() - exact).abs().max() / exact.abs().max())


def is_as_accurate(got: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether `got` is about as near to the exact result as `theirs` is, to within one rounding of its dtype.

    In float32 the steps before the last are rounded as finely as that one, so a few roundings count there.
    """
    roundings = 3 if got.dtype == torch.float32 else 0.51
    return error(got, exact) <= 1.05 * error(theirs, exact) + roundings * torch.finfo(got.dtype).eps
