"""Decode steps as CUDA graphs: one launch in place of some hundred, which at few rows cost more than their work.

A graph computes for a fixed number of rows, from the ids of their inputs to their logits. It reads its inputs where
`BatchBuilder` puts those of every decode step, so nothing is copied for it; a step of fewer rows takes the next larger
graph, whose rows behind the batch are padding: they read position 0 of the first slot, write no K and V, and their
logits are ignored. Sampling comes after it.

The launches of attention cover the widest context that a graph is for, whatever the rows hold, and what is idle in them
costs time too. So there is a graph for some widths each, and a step takes the least that holds its longest row.
"""

import itertools
import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Protocol

import torch

from engine.execution.batch import StepBatch
from engine.execution.decode_columns import DecodeInputs
from engine.models.llama import LlamaModel
from kernels.attention.protocol import AttnPlan, RefillableAttention

_log = logging.getLogger(__name__)
_cuda: Any = torch.cuda  # its classes have no annotations

_STEP = 8
_WIDE_STEP = 16
_WIDE_FROM = 256

_FIRST_CONTEXT_TOKENS = 4096
_CONTEXT_FACTOR = 4

_LOGGED_EVERY = 16


class Graph(Protocol):
    """Recorded work."""

    def replay(self) -> None:
        """Do it again, behind all that was launched before, on what the tensors that it reads hold then."""
        ...


class GraphRecorder(Protocol):
    def record(self, work: Callable[[], object]) -> Graph:
        """Record what `work` launches; it is run once before, so that whatever is made on first use is there."""
        ...


class CudaGraphRecorder:
    """Graphs that share one pool of memory: only one of them runs at a time, and nobody keeps what is in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = _cuda.graph_pool_handle()
        self._stream = _cuda.Stream(device)

    def record(self, work: Callable[[], object]) -> Graph:
        current = _cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with _cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = _cuda.CUDAGraph()
        # "thread_local": what other threads do on the device meanwhile is no part of it.
        with _cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            work()
        recorded: Graph = graph
        return recorded


def ladder(max_rows: int) -> list[int]:
    """Numbers of rows that have a graph, rising: 1, 2, 4, then every 8th, every 16th from 256 on, and the last."""
    steps = [1, 2, 4, *range(_STEP, _WIDE_FROM, _STEP), *range(_WIDE_FROM, max_rows + 1, _WIDE_STEP)]
    return [*(rows for rows in steps if rows < max_rows), max_rows]


def context_ladder(max_blocks: int, block_size: int) -> list[int]:
    """Widths of block tables that have graphs, rising: for 4096 tokens, four times as many, and so on, and the last."""
    widths: list[int] = []
    num_tokens = _FIRST_CONTEXT_TOKENS
    while num_tokens < max_blocks * block_size:
        widths.append(-(-num_tokens // block_size))
        num_tokens *= _CONTEXT_FACTOR
    return [*(width for width in widths if width < max_blocks), max_blocks]


def why_not(model: LlamaModel, attention: object) -> str | None:
    """Why decode steps of this model cannot be captured, or None."""
    if not isinstance(attention, RefillableAttention):
        return f"the attention backend {getattr(attention, 'name', attention)!r} plans each step on the host"
    if model.config.rope_type == "dynamic":
        return "dynamic RoPE scaling computes its frequencies anew from lengths, with numbers from the host"
    return None


class DecodeGraphs:
    """Graphs for numbers of rows and widths of context. Owns them, and the buffer that their logits go to."""

    def __init__(
        self,
        model: LlamaModel,
        attention: RefillableAttention,
        tokens: torch.Tensor,
        inputs: DecodeInputs,
        block_size: int,
        recorder: GraphRecorder,
    ) -> None:
        """Record them all, the largest first, so that the smaller ones find their memory in the pool.

        tokens: the flat token table, integers; inputs: of `max_seqs` rows, all padding now. Takes seconds.
        """
        self._model = model
        self._attention = attention
        self._tokens = tokens
        self._block_size = block_size
        self._sizes = ladder(len(inputs.positions))
        self._widths = context_ladder(inputs.attention.block_table.shape[1], block_size)
        self._logits = torch.empty(self._sizes[-1], model.config.vocab_size, dtype=model.dtype, device=tokens.device)
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._kept: list[object] = []
        """What the graphs read."""
        with torch.inference_mode():
            self._record_all(inputs, recorder)

    def replay(self, batch: StepBatch) -> torch.Tensor:
        """Logits [rows, vocab] of a decode batch, whose inputs are in place; valid until the next replay."""
        assert batch.is_decode
        num_rows = len(batch.host_sample_slots)
        num_blocks = -(-max(batch.attention.context_lens) // self._block_size)
        size = self._sizes[bisect_left(self._sizes, num_rows)]
        width = self._widths[bisect_left(self._widths, num_blocks)]
        self._graphs[size, width].replay()
        return self._logits[:num_rows]

    def _record_all(self, inputs: DecodeInputs, recorder: GraphRecorder) -> None:
        started = time.monotonic()
        total = len(self._sizes) * len(self._widths)
        for size, width in itertools.product(reversed(self._sizes), reversed(self._widths)):
            rows = inputs.first(size, width)
            plan = self._attention.decode_plan(rows.attention)
            self._kept += [rows, plan]
            self._graphs[size, width] = recorder.record(self._step(rows, plan))
            number = len(self._graphs)
            _log.log(
                logging.INFO if number == total or number % _LOGGED_EVERY == 0 else logging.DEBUG,
                "CUDA graphs: %d of %d captured, the last for %d rows, after %.1f s",
                number,
                total,
                size,
                time.monotonic() - started,
            )

    def _step(self, inputs: DecodeInputs, plan: AttnPlan) -> Callable[[], None]:
        def step() -> None:
            token_ids = self._tokens.index_select(0, inputs.token_entries)
            hidden = self._model.hidden(token_ids, inputs.positions, inputs.num_prompt_tokens, self._attention, plan)
            self._model.logits_into(hidden, self._logits[: len(hidden)])

        return step
