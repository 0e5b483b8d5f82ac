"""What one slot may not sample, and what it is nudged towards: sparse, so kept per slot and applied per row."""

from dataclasses import dataclass

import torch

from engine.execution.staging import Staging
from engine.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class TokenConstraints:
    """The sparse parts of one slot's `SamplingParams`, on the device. An absent part is None.

    `allowed` is a promise and always holds. Bad words and the stop mask of `min_tokens` are wishes: where
    they would leave the row with no token at all, they are dropped for this token.
    """

    allowed: torch.Tensor | None
    """int64 [ids]."""
    stop_ids: torch.Tensor | None
    """int64 [ids], masked while fewer than `min_tokens` tokens were generated."""
    min_tokens: int
    bad_words: "BadWords | None"
    bias_ids: torch.Tensor | None
    """int64 [ids]."""
    bias_values: torch.Tensor | None
    """float32 [ids]."""

    @classmethod
    def build(cls, params: SamplingParams, staging: Staging) -> "TokenConstraints | None":
        """None where `params` constrain nothing."""
        masks_stops = params.min_tokens > 0 and params.stop_token_ids
        if not (params.allowed_token_ids or params.logit_bias or params.bad_words or masks_stops):
            return None

        def ids(values: tuple[int, ...]) -> torch.Tensor | None:
            return staging.numbers(values, torch.int64) if values else None

        biases = tuple(bias for _, bias in params.logit_bias)
        return cls(
            allowed=ids(params.allowed_token_ids),
            stop_ids=ids(params.stop_token_ids) if masks_stops else None,
            min_tokens=params.min_tokens,
            bad_words=BadWords.build(params.bad_words, staging) if params.bad_words else None,
            bias_ids=ids(tuple(token_id for token_id, _ in params.logit_bias)),
            bias_values=staging.numbers(biases, torch.float32) if biases else None,
        )

    def apply(
        self, row: torch.Tensor, history: torch.Tensor, position: torch.Tensor, num_prompt_tokens: torch.Tensor
    ) -> None:
        """Edit one row of logits (float32 [vocab]) in place, in vLLM's order: allowed ids, bans, bias.

        history: the slot's row of the token table; position and num_prompt_tokens: int64 scalars on the device.
        """
        if self.allowed is not None:
            kept = torch.full_like(row, float("-inf"))
            kept[self.allowed] = row[self.allowed]
            row.copy_(kept)
        if self.stop_ids is not None or self.bad_words is not None:
            banned = row.clone()
            if self.stop_ids is not None:
                early = (position - num_prompt_tokens < self.min_tokens).expand(self.stop_ids.shape)
                _ban(banned, self.stop_ids, early)
            if self.bad_words is not None:
                _ban(banned, self.bad_words.last, self.bad_words.begun(history, position, num_prompt_tokens))
            row.copy_(torch.where(banned.amax() > float("-inf"), banned, row))
        if self.bias_ids is not None and self.bias_values is not None:
            row.index_add_(0, self.bias_ids, self.bias_values)


@dataclass(frozen=True, slots=True)
class BadWords:
    """Id sequences that the output must not complete, padded to one length and aligned to the right."""

    last: torch.Tensor
    """int64 [words]: the id that would complete each."""
    prefixes: torch.Tensor
    """int64 [words, longest - 1]: the ids before it; -1 fills the left."""
    prefix_lengths: torch.Tensor
    """int64 [words]."""

    @classmethod
    def build(cls, words: tuple[tuple[int, ...], ...], staging: Staging) -> "BadWords":
        width = max(len(word) for word in words) - 1
        prefixes = [token_id for word in words for token_id in [-1] * (width - len(word) + 1) + list(word[:-1])]
        return cls(
            last=staging.numbers([word[-1] for word in words], torch.int64),
            prefixes=staging.numbers(prefixes, torch.int64).view(len(words), width),
            prefix_lengths=staging.numbers([len(word) - 1 for word in words], torch.int64),
        )

    def begun(self, history: torch.Tensor, position: torch.Tensor, num_prompt_tokens: torch.Tensor) -> torch.Tensor:
        """bool [words]: whether the generated tokens before `position` end with all but the last id of each."""
        width = self.prefixes.shape[1]
        fits = position - self.prefix_lengths >= num_prompt_tokens
        if width == 0:
            return fits
        at = position - width + torch.arange(width, device=history.device)
        recent = history.gather(0, at.clamp(min=0)).to(torch.int64)
        return fits & ((self.prefixes == recent) | (self.prefixes < 0)).all(dim=-1)


def _ban(row: torch.Tensor, ids: torch.Tensor, where: torch.Tensor) -> None:
    # A minimum rather than an assignment: an id may be named twice, with and without the condition.
    values = torch.where(where, float("-inf"), float("inf")).to(row.dtype)
    row.scatter_reduce_(0, ids, values, reduce="amin")
