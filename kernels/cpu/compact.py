"""Weights of bfloat16 in 12 bits, to the bit: a code of four bits in place of the upper byte.

That byte is the sign and seven bits of the exponent; of a trained matrix's, sixteen are nearly all (DFloat11,
arXiv:2504.11651, codes all of the exponent in a variable number of bits, for GPUs). Memory then delivers a third more
weights in the same time, which is what a step of few tokens waits for. `source/isa/compact.h` makes them whole.
"""

from dataclasses import dataclass

import torch

_CODES = 16

_MOST_PATCHES = 1 / 512
"""Of all weights. With more, most steps would have some, which costs more than is saved."""

_STEP = 1024
"""Weights: of 32 inputs and 32 outputs."""

_CHUNK = 4096 * _STEP
"""Weights that are coded at a time: what lies between takes several times their memory."""


@dataclass(frozen=True, slots=True)
class CompactWeight:
    values: torch.Tensor
    """uint8 [steps * 1536]: of each step the lower bytes, then the codes."""
    upper_bytes: torch.Tensor
    """uint8 [64]: the sixteen that have codes, four times."""
    patches: torch.Tensor
    """int32 [number, 2]: a weight's place in its panel, and the weight's bits."""
    patch_starts: torch.Tensor
    """int64 [panels + 1]: where each panel's patches begin."""


def compact(packed: torch.Tensor, panel_size: int) -> CompactWeight | None:
    """Of what `packing.pack_weight` returns; a panel holds `panel_size` weights. None: its upper bytes are too many."""
    chunks = [chunk.view(torch.uint8).view(-1, 2) for chunk in torch.split(packed, _CHUNK)]
    counts = sum(torch.bincount(chunk[:, 1], minlength=256) for chunk in chunks)
    assert isinstance(counts, torch.Tensor)
    used = counts.argsort(descending=True, stable=True)[:_CODES]
    if len(packed) - int(counts[used].sum()) > _MOST_PATCHES * len(packed):
        return None
    codes = torch.full((256,), _CODES, dtype=torch.uint8)
    codes[used] = torch.arange(_CODES, dtype=torch.uint8)
    values, rare = [], []
    for number, chunk in enumerate(chunks):
        code = codes.index_select(0, chunk[:, 1].int())
        rare.append((code == _CODES).nonzero()[:, 0] + number * _CHUNK)
        values.append(_coded(chunk[:, 0], code % _CODES))
    places = torch.cat(rare)
    bits = packed.view(torch.int16)[places].int() & 0xFFFF
    return CompactWeight(
        torch.cat(values),
        used.to(torch.uint8).repeat(4),
        torch.stack((places % panel_size, bits), dim=1).int(),
        torch.searchsorted(places, torch.arange(len(packed) // panel_size + 1) * panel_size),
    )


def _coded(lower: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Values of whole steps."""
    lower = lower.view(-1, 2, 32).transpose(1, 2)
    first, second, third, fourth = codes.view(-1, 4, 32).unbind(1)
    pairs = torch.stack((second | fourth << 4, first | third << 4), dim=2)
    return torch.cat((lower.reshape(-1, _STEP), pairs.view(-1, _STEP // 2)), dim=1).view(-1)
