"""Weights in the order in which the products read them: panels of 32 outputs, pairs of inputs side by side.

`source/isa/gemm.h` says why. A packed weight is a sixteenth longer at most, where its sizes are no multiples of 32.
"""

import torch
import torch.nn.functional as F

PANEL = 32
"""Outputs and inputs are padded to multiples of it, with zeros."""

_TILE = 16


def padded(size: int) -> int:
    return -(-size // PANEL) * PANEL


def row_stride(size: int) -> int:
    """From one row of a product's other factor to the next, in elements."""
    return padded(size) + PANEL


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """bfloat16 [padded outputs * padded inputs] of a weight [outputs, inputs]."""
    outputs, inputs = weight.shape
    weight = F.pad(weight.to(torch.bfloat16), (0, padded(inputs) - inputs, 0, padded(outputs) - outputs))
    tiles = weight.view(-1, 2, _TILE, weight.shape[1] // PANEL, _TILE, 2)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1)


def pack_bias(bias: torch.Tensor) -> torch.Tensor:
    """float32 [padded outputs]."""
    return F.pad(bias.float(), (0, padded(len(bias)) - len(bias)))


def interleave_gate_up(merged: torch.Tensor) -> torch.Tensor:
    """[2 * size, ...], all of gate then all of up, to panels of 16 rows of gate and the 16 of up that they multiply."""
    gate, up = (_padded_rows(part).unflatten(0, (-1, _TILE)) for part in merged.chunk(2))
    return torch.stack((gate, up), dim=1).flatten(0, 2)


def _padded_rows(rows: torch.Tensor) -> torch.Tensor:
    missing = -len(rows) % _TILE
    return torch.cat((rows, rows.new_zeros(missing, *rows.shape[1:])))
