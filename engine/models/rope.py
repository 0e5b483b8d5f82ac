"""Rotary position embedding (RoFormer, arXiv:2104.09864) with every scaling that transformers knows for Llama."""

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.models.config import ModelConfig


class RotaryEmbedding:
    """Gives each token its cosines and sines.

    Two scalings depend on the length of the whole sequence: dynamic NTK, and LongRoPE (arXiv:2402.13753), which
    has one set of frequencies below and one above the original context. transformers takes the length of the
    forward pass, which under its `generate` is the prompt's length for prompt tokens and the position + 1 for
    generated ones. A token here uses `max(prompt length, position + 1)`, which is the same and does not depend on
    how the prompt is cut into chunks.
    """

    def __init__(self, config: ModelConfig, max_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        """Tables cover positions below `max_tokens`; they are in `dtype`, computed in fp32."""
        self._dtype = dtype
        self._device = device
        self._max_tokens = max_tokens
        self._rope_config = config.rope_config()
        self.length_dependent_from = length_dependent_from(config)
        """Prompt length, in tokens, above which K depends on it; 0: it never does."""
        self._is_dynamic = config.rope_type == "dynamic"
        if config.rope_type == "default":
            exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
            frequencies = [1.0 / (config.rope_parameters["rope_theta"] ** exponent)]
            self._attention_factor = 1.0
        else:
            compute = ROPE_INIT_FUNCTIONS[config.rope_type]
            lengths: list[int | None] = [None]
            if config.rope_type == "longrope":
                lengths = [self.length_dependent_from, self.length_dependent_from + 1]
            scaled = [compute(self._rope_config, torch.device("cpu"), seq_len=length) for length in lengths]
            frequencies = [inv_freq for inv_freq, _ in scaled]
            self._attention_factor = float(scaled[0][1])
        positions = torch.arange(max_tokens, dtype=torch.float)[:, None]
        angles = torch.cat([positions * inv_freq for inv_freq in frequencies])
        # LongRoPE: row p of the second half holds position p with the long frequencies.
        self._cos, self._sin = self._cos_sin(angles.to(device))

    def tables(
        self, positions: torch.Tensor, num_prompt_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `cos_sin` selects from, as tables `[rows, head_dim]`, and each token's row, int64 `[tokens]`."""
        if not self.length_dependent_from:
            return self._cos.squeeze(1), self._sin.squeeze(1), positions
        cos, sin = self.cos_sin(positions, num_prompt_tokens)
        return cos.squeeze(1), sin.squeeze(1), torch.arange(len(positions), device=self._device)

    def cos_sin(
        self, positions: torch.Tensor, num_prompt_tokens: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `[tokens, 1, head_dim]` for positions int64 `[tokens]`.

        The first half of the sines is negated, as `rotate` wants it. `num_prompt_tokens` int64 `[tokens]` is the
        prompt length of each token's sequence; it is needed where `length_dependent_from` is not 0.
        """
        if not self.length_dependent_from:
            return self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        assert num_prompt_tokens is not None
        lengths = torch.maximum(positions + 1, num_prompt_tokens)
        if self._is_dynamic:
            # The function broadcasts over a column of lengths: one row of frequencies per token. In float64, since the
            # last bit of powers and cosines depends on how many are computed at once, and is rounded off then.
            lengths = lengths[:, None].double()
            inv_freq, _ = ROPE_INIT_FUNCTIONS["dynamic"](self._rope_config, self._device, seq_len=lengths)
            return self._cos_sin((positions[:, None].float() * inv_freq.float()).double())
        rows = positions + (lengths > self.length_dependent_from) * self._max_tokens
        return self._cos.index_select(0, rows), self._sin.index_select(0, rows)

    def _cos_sin(self, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos = angles.cos() * self._attention_factor
        sin = angles.sin() * self._attention_factor
        return (
            torch.cat((cos, cos), dim=-1).to(self._dtype).unsqueeze(1),
            torch.cat((-sin, sin), dim=-1).to(self._dtype).unsqueeze(1),
        )


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `[tokens, heads, head_dim]` in place: x * cos + swap_halves(x) * sin, with sin from `cos_sin`."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return heads.mul_(cos).add_(swapped.mul_(sin))


def length_dependent_from(config: ModelConfig) -> int:
    """Prompt length in tokens above which the K of a sequence depends on that length; 0: it never does."""
    match config.rope_type:
        case "dynamic":
            return config.max_position_embeddings
        case "longrope":
            return int(config.rope_parameters["original_max_position_embeddings"])
        case _:
            return 0
