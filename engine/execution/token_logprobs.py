"""Log probabilities of chosen tokens and of the likeliest ones, from raw logits."""

from collections.abc import Sequence

import torch

from engine.execution import vocab_chunks
from engine.logprobs import Logprobs


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, num_top: Sequence[int]) -> Logprobs:
    """One entry per row of logits (floats [rows, vocab]) for its id in `token_ids` (int64 [rows]).

    The softmax is in fp32. Ranks and order are those of the logits themselves, which fp32 may map to equal log
    probabilities; among equal logits the lower id comes first. Waits for the device.
    """
    if not num_top:
        return Logprobs()
    raw = logits.to(torch.float32)
    ids = token_ids.clamp(min=0)[:, None]
    scores = torch.log_softmax(raw, dim=-1)
    chosen = raw.gather(1, ids)
    # Before the token come the likelier ids, and the lower ones of the equally likely.
    precedes = torch.arange(raw.shape[-1], device=raw.device) < ids
    ranks = 1 + ((raw > chosen) | ((raw == chosen) & precedes)).sum(dim=-1)
    most = max(num_top)
    top_ids = vocab_chunks.largest_ids(raw, most) if most else ids[:, :0]
    top_scores = scores.gather(1, top_ids)

    result = Logprobs()
    columns = zip(
        token_ids.tolist(),
        scores.gather(1, ids).squeeze(1).tolist(),
        ranks.tolist(),
        num_top,
        top_ids.tolist(),
        top_scores.tolist(),
        strict=True,
    )
    for token_id, logprob, rank, count, row_ids, row_scores in columns:
        result.append(token_id, logprob, rank, row_ids[:count], row_scores[:count])
    return result
