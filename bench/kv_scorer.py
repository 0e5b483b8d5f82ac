"""Logits of a text with its K and V stored in a given format."""

import torch

from bench.kv_formats import BLOCK_SIZE, KvFormat, RoundedAttention
from engine.execution.loading import LoadedModel
from kernels.attention.choice import choose_attention
from kernels.attention.protocol import AttentionBackend, AttnBatch
from kvstore.layout import BlockLayout

_CPU = torch.device("cpu")
_BACKENDS = {False: None, True: "torch"}


class Scorer:
    """One model and one format. The model computes in its own dtype, so that formats differ in the blocks alone."""

    def __init__(self, loaded: LoadedModel, kv_format: KvFormat, isa: str | None = "") -> None:
        """`isa` is the one that the model was loaded with; None: torch attends."""
        self._model, config = loaded.model, loaded.config
        num_blocks = -(-loaded.max_model_tokens // BLOCK_SIZE)
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, kv_format.kv_dtype)
        pool = layout.allocate(num_blocks, _CPU)
        attention = choose_attention(
            layout.pages(pool), config.windows, self._model.dtype, _BACKENDS[isa is None], isa or ""
        )
        self._attention: AttentionBackend = attention
        if kv_format.rounding is not None:
            self._attention = RoundedAttention(attention, kv_format.rounding)
        self._block_table = torch.arange(num_blocks, dtype=torch.int32)[None]

    @torch.inference_mode()
    def logits(self, ids: list[int], num_last: int | None = None) -> torch.Tensor:
        """fp32 [tokens, vocab_size] for the whole text in one step, or for its last `num_last` tokens."""
        positions = torch.arange(len(ids))
        batch = AttnBatch(
            query_starts=[0, len(ids)],
            context_lens=[len(ids)],
            block_table=self._block_table,
            write_slots=positions,
            positions=positions,
        )
        plan = self._attention.plan(batch)
        num_prompt_tokens = torch.full_like(positions, len(ids))
        hidden = self._model.hidden(torch.tensor(ids), positions, num_prompt_tokens, self._attention, plan)
        return self._model.logits(hidden if num_last is None else hidden[-num_last:]).float()
