"""Sampling parameters as the engine sees them: ids only, all defaults filled in.

The tokenizer service turns what a client sends into this (`services/tokenizer/validation.py` checks
every field at the door), so nothing past it refers to text. Names as in vLLM.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token of one sequence is chosen.

    Randomness is counter-based: the draw for the token at position `p` depends on `(seed, p)` alone, so a
    token does not depend on the rest of the batch, on the worker, or on preemption and replay.
    """

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    seed: int = 0
    """Unsigned 64 bits. Choice i of a request with n > 1 uses `seed + i` (mod 2**64)."""
    max_tokens: int = 16
    min_tokens: int = 0
    """Stop tokens are masked until this many tokens were generated."""
    presence_penalty: float = 0.0
    """Subtracted once from each token that occurs in the output so far."""
    frequency_penalty: float = 0.0
    """Subtracted per occurrence in the output so far."""
    repetition_penalty: float = 1.0
    """Divides positive, multiplies negative logits of tokens seen in prompt or output (CTRL, arXiv:1909.05858)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    """Empty: all are allowed."""
    stop_token_ids: tuple[int, ...] = ()
    """Includes the model's EOS ids unless the client ignores them."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Id sequences that the output must not complete."""
    logprobs: int | None = None
    """Number of alternatives reported with each sampled token; 0 reports the sampled token alone."""
    prompt_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0
