"""Penalties on tokens that the sequence already holds, computed from the slot token table.

Nothing is counted along the way: the table is the only history, so a slot that was resumed, preempted or
rolled back is penalised like one that never was.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Penalties:
    """float32 [rows] each, with the meaning of the fields of `SamplingParams`."""

    presence: torch.Tensor
    frequency: torch.Tensor
    repetition: torch.Tensor


def penalised(
    logits: torch.Tensor,
    penalties: Penalties,
    history: torch.Tensor,
    num_tokens: torch.Tensor,
    num_prompt_tokens: torch.Tensor,
) -> torch.Tensor:
    """logits, float32 [rows, vocab], after the penalties; a new tensor.

    history: integers [rows, length], the tokens of each sequence from its first; entries at and after
    `num_tokens[row]` are ignored. Tokens before `num_prompt_tokens[row]` are the prompt: it counts for the
    repetition penalty (CTRL, arXiv:1909.05858, section 4.1) and not for the other two.
    """
    index = torch.arange(history.shape[1], device=history.device)
    known = (index < num_tokens[:, None]) & (history >= 0)
    ids = torch.where(known, history, 0).to(torch.int64)
    generated = (known & (index >= num_prompt_tokens[:, None])).to(logits.dtype)
    counts = torch.zeros_like(logits).scatter_add_(1, ids, generated)
    seen = torch.zeros_like(logits).scatter_add_(1, ids, known.to(logits.dtype)) > 0

    factor = penalties.repetition[:, None]
    repeated = torch.where(logits > 0, logits / factor, logits * factor)
    result = torch.where(seen, repeated, logits)
    result -= penalties.frequency[:, None] * counts
    result -= penalties.presence[:, None] * (counts > 0)
    return result
