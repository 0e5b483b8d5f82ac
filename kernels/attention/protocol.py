"""The seam between the models and the ways to attend over paged blocks."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch


@dataclass(frozen=True, slots=True)
class AttnBatch:
    """One step's sequences, ragged, on the device. Rows are in batch order.

    A row's new tokens are `positions[query_starts[i]:query_starts[i + 1]]`; they attend to themselves and to
    everything before them in the sequence (causal), or to the last `window` of it in windowed layers.
    """

    query_starts: list[int]
    """[rows + 1] offsets of each row's tokens in the flat token dimension; host side."""
    context_lens: list[int]
    """[rows] tokens of the sequence that exist after this step: start + number of new tokens; host side."""
    block_table: torch.Tensor
    """int32 [rows, max_blocks]: device block ids in order; entries past a row's length repeat ids of the same row."""
    write_slots: torch.Tensor
    """int64 [tokens]: block_id * block_size + offset, where each new token's K and V go."""
    positions: torch.Tensor
    """int64 [tokens]: position of each new token in its sequence."""
    continues: bool = False
    """These are the rows of the batch that was planned before this one, each with its next token, and the block table
    is the same object where no row has got a block. A backend may carry over what it derived from that batch."""
    fresh_blocks: torch.Tensor | None = None
    """int64: blocks that a sequence got in this step. What they hold is an earlier owner's and must reach nobody, be
    it NaN; a backend that reads past what is written clears them."""

    @property
    def num_tokens(self) -> int:
        return self.query_starts[-1]


@dataclass(frozen=True, slots=True)
class DecodeBuffers:
    """Where the rows of decode steps stand, one new token each: tensors on the device that stay and are filled anew.

    They belong to whoever made them. A row that is padding has context length 0 and write slot -1.
    """

    context_lens: torch.Tensor
    """int32 [rows]: tokens of the sequence that exist after the step, the new one included."""
    block_table: torch.Tensor
    """int32 [rows, max_blocks], rows perhaps strided: device block ids in order; past a row's length anything."""
    write_slots: torch.Tensor
    """int64 [rows]: block_id * block_size + offset, where the new token's K and V go."""

    @property
    def num_rows(self) -> int:
        return len(self.context_lens)


class AttnPlan(Protocol):
    """Whatever a backend derives from a batch once per step and uses in every layer."""


class AttentionBackend(Protocol):
    """Writes the new K and V into the pool and attends over it. Built over a pool's `PagedKv` and its layers' windows.

    New K and V are attended to as they are stored, rounding included, like those of earlier steps: the result of a
    token does not depend on which step computed the ones before it. FP8 is written and read as
    `kernels/kv_codec/e4m3.py` says, to the bit.
    """

    name: str

    def plan(self, batch: AttnBatch) -> AttnPlan:
        """Prepare a step. Called once per step, before any layer runs."""
        ...

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        """Store k, v ([tokens, kv_heads, head_dim]) and return softmax(q Kᵀ * scale) V for q [tokens, heads, head_dim].

        The result has q's shape and dtype. The softmax is in fp32 (FlashAttention-2, arXiv:2307.08691, over the
        pages of PagedAttention, arXiv:2309.06180).
        """
        ...


@runtime_checkable
class RefillableAttention(AttentionBackend, Protocol):
    """A backend whose decode steps can be captured in a CUDA graph and replayed with other rows."""

    def decode_plan(self, buffers: DecodeBuffers) -> AttnPlan:
        """A plan that `run` reads from `buffers` as they are whenever its kernels run; valid for as long as they live.

        Neither this nor a `run` with the plan looks at what the buffers hold from the host, and what `run` launches
        does not depend on it: grids cover the widest context, `block_table.shape[1]` blocks. For a row that is padding
        nothing is written and any finite result will do. Workspaces that `run` uses belong to the plan or the backend
        and stay where they are.
        """
        ...
