"""Weights in the order in which the products read them: panels of 32 outputs, pairs of inputs side by side, or fours.

`source/isa/gemm.h` says why. Sizes are filled up to multiples of 32, the inputs of int8 weights to 64, with zeros.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

PANEL = 32
"""Outputs that are computed together."""

QUANTIZED_STEP = 64
"""Inputs of an int8 weight that are multiplied at once; of a bfloat16 one half as many."""

_TILE = 16

_QUANTIZED_ROWS = 4096
"""Of a weight in fp32 at a time: a vocabulary's whole would be as large again as the model."""


_LIMIT = 127
"""Of an int8 weight: symmetric, so that no path's sums of two products overflow 16 bits."""


def padded(size: int, multiple: int = PANEL) -> int:
    return -(-size // multiple) * multiple


def row_stride(size: int) -> int:
    """From one row of a product's other factor to the next, in elements."""
    return padded(size) + PANEL


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """bfloat16 [padded outputs * padded inputs] of a weight [outputs, inputs]."""
    outputs, inputs = weight.shape
    weight = F.pad(weight.to(torch.bfloat16), (0, padded(inputs) - inputs, 0, padded(outputs) - outputs))
    return _panels(weight, PANEL)


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """W ≈ scale * q, a scale for each output (LLM.int8(), arXiv:2208.07339, without its outliers)."""

    values: torch.Tensor
    """int8 [padded outputs * padded inputs], -127 to 127, packed."""
    scales: torch.Tensor
    """float32 [padded outputs]: the largest magnitude of each output's weights, over 127."""
    sums: torch.Tensor
    """int32 [padded outputs]: of each output's values."""


def quantize_weight(weight: torch.Tensor) -> QuantizedWeight:
    """Round a weight [outputs, inputs] to int8, ties to even."""
    outputs, inputs = weight.shape
    missing = (0, padded(inputs, QUANTIZED_STEP) - inputs, 0, padded(outputs) - outputs)
    scales = F.pad(weight.abs().amax(dim=1).float() / _LIMIT, (0, missing[3]))
    values = torch.empty(outputs + missing[3], inputs + missing[1], dtype=torch.int8)
    for first in range(0, outputs, _QUANTIZED_ROWS):
        part = slice(first, min(first + _QUANTIZED_ROWS, outputs))
        divisors = scales[part, None].clamp(min=torch.finfo(torch.float32).tiny)
        values[part] = F.pad((weight[part].float() / divisors).round(), missing[:2]).to(torch.int8)
    values[outputs:] = 0
    sums = values.sum(dim=1, dtype=torch.int32)
    return QuantizedWeight(_panels(values, QUANTIZED_STEP), scales, sums)


def _panels(weight: torch.Tensor, step: int) -> torch.Tensor:
    """Panels of two tiles; a tile's rows hold the inputs that a product adds up at once, side by side."""
    tiles = weight.view(-1, 2, _TILE, weight.shape[1] // step, _TILE, step // _TILE)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1)


def pack_bias(bias: torch.Tensor) -> torch.Tensor:
    """float32 [padded outputs]."""
    return F.pad(bias.float(), (0, padded(len(bias)) - len(bias)))


def interleave_gate_up(merged: torch.Tensor) -> torch.Tensor:
    """[2 * size, ...], all of gate then all of up, to panels of 16 rows of gate and the 16 of up that they multiply."""
    gate, up = (_tiles_of_rows(part) for part in merged.chunk(2))
    return torch.stack((gate, up), dim=1).flatten(0, 2)


def _tiles_of_rows(rows: torch.Tensor) -> torch.Tensor:
    """[tiles, 16, ...], the last one filled up with zeros."""
    missing = -len(rows) % _TILE
    filled = torch.cat((rows, rows.new_zeros(missing, *rows.shape[1:])))
    return filled.view(-1, _TILE, *rows.shape[1:])
