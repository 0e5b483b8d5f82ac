"""Searches along the vocabulary in two levels: a reduction per chunk of ids, then a look into the chunk found.

A reduction over short contiguous chunks runs at memory speed on every device, where `argmax`, `topk` and
`cumsum` over a whole vocabulary do not; and its results are exact, so the two levels change no answer.
"""

import torch

WIDTH = 64
"""Ids per chunk; the last chunk of a vocabulary may be shorter."""

NO_ID = -1
"""In place of an id, where there is none to choose."""

_FIXED_POINT = 2.0**60


def best_ids(x: torch.Tensor) -> torch.Tensor:
    """The id of the largest value of each row of x [rows, vocab], the lowest among equals, int64 [rows].

    `NO_ID` where that value is not finite or the row has a NaN.
    """
    chunk = _maxima(x).argmax(dim=-1)
    ids, values = _inside(x, chunk[:, None], float("-inf"))
    offset = values.argmax(dim=-1, keepdim=True)
    # The largest value is NaN if any is. A chunk of -inf alone ties with the fill behind the vocabulary's end.
    best, found = values.gather(1, offset).squeeze(1), ids.gather(1, offset).squeeze(1)
    return torch.where(best.isfinite(), found, NO_ID)


def largest(x: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` largest values of each row of x [rows, vocab], falling. [rows, min(count, vocab)]."""
    vocab = x.shape[-1]
    count = min(count, vocab)
    # The largest values lie in the chunks with the largest maxima, one chunk for each at most.
    if count * WIDTH * 2 < vocab:
        chunks = _maxima(x).topk(count, dim=-1, sorted=False).indices
        x = _inside(x, chunks, float("-inf"))[1]
    return x.topk(count, dim=-1).values


def largest_ids(x: torch.Tensor, count: int) -> torch.Tensor:
    """Ids (int64) of the `count` largest values of each row of float32 x, falling, the lowest id first among equals."""
    vocab = x.shape[-1]
    count = min(count, vocab)
    maxima = _maxima(x)
    chunks = torch.arange(maxima.shape[-1], device=x.device)
    # Sound with ties too: chunks rank by (maximum, lowest id) exactly as their best ids do.
    best = _ranking_keys(maxima, chunks).topk(min(count, maxima.shape[-1]), dim=-1, sorted=False).indices
    ids, values = _inside(x, best, float("-inf"))
    order = _ranking_keys(values, ids).topk(count, dim=-1).indices
    return ids.gather(1, order)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution in id order: the first id at which the cumulated weight exceeds u * total.

    weights: float32 [rows, vocab] in [0, 1], a row's sum at most about 1 (not necessarily 1); overwritten.
    uniforms: float64 [rows] in [0, 1). Returns int64 [rows]; -1 where a row has no positive weight or a NaN.

    The weights are cumulated as 64-bit fixed-point numbers (60 fractional bits, every float32 at or above 2**-36
    exactly). Integer sums do not depend on their order, so the result is the same in any batch and on any device.
    """
    fixed = weights.mul_(_FIXED_POINT).to(torch.int64)
    sums = _sums(fixed)
    cumulated = sums.cumsum(dim=-1)
    total = cumulated[:, -1]
    # float64 rounds u * total to 53 bits, which may reach the total itself.
    target = torch.minimum((uniforms * total.to(torch.float64)).to(torch.int64), total - 1)[:, None]
    chunk = (cumulated <= target).sum(dim=-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)
    before = cumulated.gather(1, chunk) - sums.gather(1, chunk)
    ids, inside = _inside(fixed, chunk, 0)
    offset = (inside.cumsum(dim=-1) <= target - before).sum(dim=-1, keepdim=True).clamp_(max=WIDTH - 1)
    drawn = ids.gather(1, offset)
    return torch.where(inside.gather(1, offset) > 0, drawn, -1).squeeze(1)


def fixed_point(weights: torch.Tensor) -> torch.Tensor:
    """The int64 numbers that `draw` cumulates."""
    return (weights * _FIXED_POINT).to(torch.int64)


def _maxima(x: torch.Tensor) -> torch.Tensor:
    """[rows, chunks]."""
    whole = x.shape[-1] // WIDTH * WIDTH
    parts = [x[:, :whole].view(x.shape[0], -1, WIDTH).amax(dim=-1)] if whole else []
    if whole < x.shape[-1]:
        parts.append(x[:, whole:].amax(dim=-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _sums(x: torch.Tensor) -> torch.Tensor:
    """[rows, chunks]."""
    whole = x.shape[-1] // WIDTH * WIDTH
    parts = [x[:, :whole].view(x.shape[0], -1, WIDTH).sum(dim=-1)] if whole else []
    if whole < x.shape[-1]:
        parts.append(x[:, whole:].sum(dim=-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _inside(x: torch.Tensor, chunks: torch.Tensor, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and values of the given chunks [rows, n] of x, each [rows, n * WIDTH]; `fill` past the vocabulary's end.

    An id past the end reads as the last one of the vocabulary.
    """
    ids = (chunks[:, :, None] * WIDTH + torch.arange(WIDTH, device=x.device)).flatten(1)
    last = x.shape[-1] - 1
    past = ids > last
    ids = ids.clamp(max=last)
    return ids, x.gather(1, ids).masked_fill_(past, fill)


def _ranking_keys(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """int64 that rises with the float32 value and, among equal values, falls with the id."""
    bits = (values + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 turns -0.0 into 0.0, its equal
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered << 32) - ids
