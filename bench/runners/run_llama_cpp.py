"""llama.cpp through its C interface, batched as its own server does: decode first, then prompts up to the batch size.

Variants: bf16 and q8_0, the type of the matrices; the cache is fp16. Requests at once share a context of many short
sequences, those in turn have one of a single long sequence, which keeps the beginning that the next prompt shares.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np
from lines import Peer, Record, Request, Run, driven, serve

BATCH_TOKENS = 2048
COMPUTE_TOKENS = 512
NUM_SEQUENCES = 32
SHORT_CONTEXT = 640
LONG_CONTEXT = 8192
NUM_THREADS = 2


@dataclass(slots=True)
class Slot:
    """A sequence: tokens that are computed, tokens that wait to be, tokens that are still wanted."""

    index: int
    waiting: list[int]
    wanted: int
    computed: list[int]


class LlamaCpp:
    def __init__(self, model: object, num_sequences: int, context: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_sequences * context
        params.n_seq_max = num_sequences
        params.n_batch = BATCH_TOKENS
        params.n_ubatch = COMPUTE_TOKENS
        params.n_threads = params.n_threads_batch = NUM_THREADS
        params.kv_unified = False
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError("llama.cpp made no context")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._free = list(range(num_sequences))
        self._queue: list[tuple[int, list[int], int]] = []
        self._running: dict[int, Slot] = {}
        self._kept: dict[int, list[int]] = {}

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        self._queue.append((index, prompt_ids, max_tokens))

    def step(self) -> Iterable[tuple[int, int]] | None:
        while self._queue and self._free:
            self._admit(*self._queue.pop(0))
        if not self._running:
            return None
        rows = self._fill()
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        came = []
        for sequence, row in rows:
            slot = self._running[sequence]
            logits = llama_cpp.llama_get_logits_ith(self._context, row)
            slot.waiting = [int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())]
            slot.wanted -= 1
            came.append((slot.index, 1))
            if slot.wanted == 0:
                self._kept[sequence] = self._running.pop(sequence).computed
                self._free.append(sequence)
        return came

    def _admit(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        sequence = self._free.pop(0)
        kept = self._kept.pop(sequence, [])
        shared = 0
        while shared < min(len(kept), len(prompt_ids) - 1) and kept[shared] == prompt_ids[shared]:
            shared += 1
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, shared, -1)
        self._running[sequence] = Slot(index, prompt_ids[shared:], max_tokens, prompt_ids[:shared])

    def _fill(self) -> list[tuple[int, int]]:
        """Put tokens into the batch; sequences that will have logits, with their row."""
        batch, size, rows = self._batch, 0, []
        for sequence, slot in sorted(self._running.items(), key=lambda item: len(item[1].waiting) > 1):
            chunk = slot.waiting[: BATCH_TOKENS - size]
            for token in chunk:
                batch.token[size] = token
                batch.pos[size] = len(slot.computed)
                batch.n_seq_id[size] = 1
                batch.seq_id[size][0] = sequence
                batch.logits[size] = 0
                slot.computed.append(token)
                size += 1
            slot.waiting = slot.waiting[len(chunk) :]
            if chunk and not slot.waiting:
                batch.logits[size - 1] = 1
                rows.append((sequence, size - 1))
        batch.n_tokens = size
        return rows


def load(variant: str, path: Path) -> Peer:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}")
    short: Run = driven(LlamaCpp(model, NUM_SEQUENCES, SHORT_CONTEXT))
    long: Run = driven(LlamaCpp(model, 1, LONG_CONTEXT))

    def run(requests: list[Request], at_once: bool) -> list[Record]:
        chosen: Run = short if at_once else long
        return list(chosen(requests, at_once))

    settings = (
        f"{variant} weights, f16 cache, {BATCH_TOKENS} tokens a batch, {COMPUTE_TOKENS} computed at once, "
        f"{NUM_SEQUENCES} sequences, {NUM_THREADS} threads"
    )
    return Peer(version("llama-cpp-python"), settings, run)


if __name__ == "__main__":
    serve(load)
