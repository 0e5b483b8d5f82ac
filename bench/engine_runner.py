"""Scheduler and model runner in one process, driven like a peer: what the stack computes, without the stack.

`python engine_runner.py KV_DTYPE[/int8] CHECKPOINT` speaks the protocol of `bench/runners/lines.py`. The limits are the
defaults of `infer-cli up`; there are no tiers below the device.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import torch

from bench.kv_cost import CPU, KV_DTYPES
from bench.runners.lines import Peer, driven, serve
from engine.execution.loading import load_model, num_blocks_for
from engine.execution.runner import ModelRunner
from engine.models.fingerprint import namespace
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepPlan
from engine.scheduling.request import Finished, Refused, Request, TokenEvent
from engine.scheduling.scheduler import Scheduler
from kernels.attention.choice import choose_attention
from kvstore.layout import BlockLayout

BLOCK_SIZE = 16
MAX_SEQS = 64
MAX_BATCHED_TOKENS = 2048
POOL_BYTES = 2 << 30
NUM_THREADS = 2


class BareEngine:
    """Two plans in flight, as between scheduler and worker: the next one is made before a step's result is applied."""

    def __init__(self, checkpoint: Path, kv_dtype: torch.dtype, int8_weights: bool) -> None:
        loaded = load_model(checkpoint, device=CPU, int8_weights=int8_weights)
        config = loaded.config
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, kv_dtype)
        num_blocks = num_blocks_for(
            POOL_BYTES,
            block_bytes=layout.block_bytes,
            block_size=BLOCK_SIZE,
            max_model_tokens=min(loaded.max_model_tokens, 8192),
            max_seqs=MAX_SEQS,
        )
        model_tokens = min(loaded.max_model_tokens, num_blocks * BLOCK_SIZE)
        pool = layout.allocate(num_blocks, CPU)
        attention = choose_attention(layout.pages(pool), config.windows, loaded.model.dtype)
        self._runner = ModelRunner(
            loaded.model, attention, block_size=BLOCK_SIZE, max_seqs=MAX_SEQS, max_model_tokens=model_tokens
        )
        self._scheduler = Scheduler(
            SchedulerConfig(
                num_blocks=num_blocks,
                block_size=BLOCK_SIZE,
                max_seqs=MAX_SEQS,
                max_batched_tokens=MAX_BATCHED_TOKENS,
                max_model_tokens=model_tokens,
                namespace=namespace(
                    config,
                    loaded.weights_digest,
                    dtype=loaded.model.dtype,
                    arithmetic=f"{loaded.model.arithmetic}/{attention.name}",
                    kv_dtype=kv_dtype,
                    scale_mode=layout.scale_mode,
                    block_size=BLOCK_SIZE,
                ),
                rope_length_dependent_from=loaded.model.rope.length_dependent_from,
            )
        )
        self._in_flight: deque[StepPlan] = deque()
        self._indexes: dict[str, int] = {}
        self._num_added = 0

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        name = str(self._num_added)
        self._num_added += 1
        self._indexes[name] = index
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        self._scheduler.submit(Request(name, prompt_ids, sampling), time.monotonic_ns())

    def step(self) -> Iterable[tuple[int, int]] | None:
        while (plan := self._scheduler.plan(time.monotonic_ns())) is not None:
            self._in_flight.append(plan)
        if not self._in_flight:
            return None
        result = self._runner.execute(self._in_flight.popleft())
        self._scheduler.apply(result, time.monotonic_ns())
        came = []
        for event in self._scheduler.take_events():
            match event:
                case TokenEvent():
                    came.append((self._indexes[event.request_id], 1))
                case Finished():
                    del self._indexes[event.request_id]
                case Refused():
                    raise event.error
        return came


def load(variant: str, checkpoint: Path) -> Peer:
    torch.set_num_threads(NUM_THREADS)
    kv_dtype, _, weights = variant.partition("/")
    settings = f"{variant} blocks, {NUM_THREADS} threads"
    engine = BareEngine(checkpoint, KV_DTYPES[kv_dtype], weights == "int8")
    return Peer(sys.version.split()[0], settings, driven(engine))


if __name__ == "__main__":
    serve(load)
