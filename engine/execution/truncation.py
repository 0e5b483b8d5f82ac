"""Top-k and top-p as one threshold per row: probabilities below it are out, equal ones stay together.

Keeping ties makes the kept set a function of the probabilities alone, whatever order a sort leaves equals in;
it may thus hold a few more tokens than k. (Top-k: Fan et al., arXiv:1805.04833. Top-p, the nucleus: Holtzman
et al., arXiv:1904.09751.)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from engine.execution import vocab_chunks

_NUCLEUS_GUESS = 256
"""Tokens looked at first for a nucleus. Models are mostly sure of themselves; if not, all are looked at."""

Settle = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Probabilities, limits, which rows are settled, and the thresholds to complete: `kernels/triton/nucleus.py`."""


def thresholds(
    probabilities: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    top_k_host: Sequence[int],
    settle: Settle | None = None,
) -> torch.Tensor:
    """float32 [rows]: the smallest probability that stays in each row.

    probabilities: float32 [rows, vocab], zero where a token is out already. top_k int64 [rows] (0: off) and
    `top_k_host`, the same on the host; top_p float32 [rows] (1: off). Top-p applies to what top-k leaves,
    renormalised. Where a row has top-p without top-k, `settle` looks further for those whose guess did not hold, or,
    without it, the host waits to see whether all did.
    """
    vocab = probabilities.shape[-1]
    width = min(max(k or _NUCLEUS_GUESS for k in top_k_host), vocab)
    k = torch.where(top_k > 0, top_k.clamp(max=vocab), vocab)
    total = vocab_chunks.fixed_point(probabilities).sum(dim=-1) if 0 in top_k_host else None
    found, enough, limits = _within(vocab_chunks.largest(probabilities, width), k, top_p, total)
    if width == vocab or 0 not in top_k_host:
        return found
    if settle is not None:
        settle(probabilities, limits.clamp(min=1), enough, found)
    elif not bool(enough.all()):
        short = (~enough).nonzero().squeeze(1)
        everything = _falling(probabilities[short])
        found[short], *_ = _within(everything, k[short], top_p[short], None if total is None else total[short])
    return found


def settling_on(device: torch.device) -> Settle | None:
    """What settles nuclei on a device without asking the host; None on the CPU, and where Triton is not there."""
    if device.type != "cuda":
        return None
    try:
        from kernels.triton.nucleus import settle_nucleus
    except ImportError:
        return None
    return settle_nucleus


def _within(
    candidates: torch.Tensor, k: torch.Tensor, top_p: torch.Tensor, total: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From the largest probabilities of each row [rows, width], falling: its threshold, whether these were enough, and
    the weight that its nucleus has to reach."""
    width = candidates.shape[-1]
    in_top_k = torch.arange(width, device=candidates.device) < k[:, None]
    weights = torch.where(in_top_k, vocab_chunks.fixed_point(candidates), 0)
    cumulated = weights.cumsum(dim=-1)
    mass = cumulated[:, -1]
    if total is not None:
        mass = torch.where(k > width, total, mass)
    limit = (mass.to(torch.float64) * top_p.to(torch.float64)).to(torch.int64)
    # A token stays if those before it have not yet reached the limit, so the first always does.
    before = cumulated - weights
    stays = in_top_k & ((before < limit[:, None]) | (top_p >= 1.0)[:, None])
    stays[:, 0].fill_(True)
    count = stays.sum(dim=-1, keepdim=True)
    enough = (k <= width) | (cumulated[:, -1] >= limit)
    return candidates.gather(1, count - 1).squeeze(1), enough, limit


def _falling(x: torch.Tensor) -> torch.Tensor:
    """Each row sorted. torch on the CPU sorts indices along, at ten times the cost of numpy's plain sort."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=-1)).flip(-1)
    return x.sort(dim=-1, descending=True).values
