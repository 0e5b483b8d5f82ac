"""transformers as a peer, in a process of its own: one by one, static batch, continuous batching.

Each way runs bf16 weights with its default attention on all cores. Per-request times within a batch are those of
the tokens' arrival at the streamer or output queue.
"""

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.records import RequestRecord
from bench.workloads import Workload

WAYS = ("one by one", "static batch", "continuous batching")


class TransformersPeer:
    """Runs workloads in a spawned process, so that its threads and memory are its own."""

    def __init__(self, checkpoint: Path, way: str) -> None:
        assert way in WAYS
        self.name = f"transformers, {way}"
        self._checkpoint = checkpoint
        self._way = way

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._checkpoint, self._way), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def run(self, workload: Workload) -> list[RequestRecord]:
        self._pipe.send(workload)
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}: {answer}")
        records: list[RequestRecord] = answer
        return records

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, checkpoint: Path, way: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(multiprocessing.cpu_count())
    # The paged attention that continuous batching needs is chosen when the model is loaded.
    attention = {"attn_implementation": "paged|sdpa"} if way == "continuous batching" else {}
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, **attention)
    model.eval()  # type: ignore[no-untyped-call]
    run = {"one by one": _one_by_one, "static batch": _static_batch, "continuous batching": _continuous}[way]
    pipe.send("ready")
    while True:
        try:
            workload = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(run(model, workload))
        except Exception as error:  # the parent reports it
            pipe.send(f"{type(error).__name__}: {error}")


class _Stamps:
    """A transformers streamer that notes when each token came; the first call is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, _value: Any) -> None:
        if self._prompt_seen:
            self.times.append(time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        pass


def _generation(max_tokens: int) -> dict[str, Any]:
    # eos_token_id -1 is no token: EOS is ignored as in the other peers.
    return {"max_new_tokens": max_tokens, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}


def _one_by_one(model: Any, workload: Workload) -> list[RequestRecord]:
    import torch

    records = []
    began = time.perf_counter()
    for request in workload.requests:
        sent = began if workload.at_once else time.perf_counter()
        stamps = _Stamps()
        ids = torch.tensor([request.prompt_ids])
        model.generate(ids, attention_mask=torch.ones_like(ids), streamer=stamps, **_generation(request.max_tokens))
        records.append(RequestRecord(sent, stamps.times[0], stamps.times[-1], len(stamps.times)))
    return records


def _static_batch(model: Any, workload: Workload) -> list[RequestRecord]:
    """One padded batch that runs until its longest request is done."""
    import torch

    if not workload.at_once:
        return _one_by_one(model, workload)
    width = max(len(request.prompt_ids) for request in workload.requests)
    ids = torch.zeros((len(workload.requests), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(workload.requests):
        ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
        mask[row, width - len(request.prompt_ids) :] = 1
    stamps: list[float] = []

    # generate() takes no streamer for batches; a logits processor runs once per step as well.
    def stamp(_ids: Any, scores: Any) -> Any:
        stamps.append(time.perf_counter())
        return scores

    longest = max(request.max_tokens for request in workload.requests)
    sent = time.perf_counter()
    model.generate(ids, attention_mask=mask, logits_processor=[stamp], **_generation(longest))
    return [
        RequestRecord(sent, stamps[0], stamps[request.max_tokens - 1], request.max_tokens)
        for request in workload.requests
    ]


def _continuous(model: Any, workload: Workload) -> list[RequestRecord]:
    from transformers import GenerationConfig

    longest = max(request.max_tokens for request in workload.requests)
    config = GenerationConfig(**_generation(longest))  # type: ignore[no-untyped-call]
    sent: dict[str, float] = {}
    records: dict[str, RequestRecord] = {}
    with model.continuous_batching_context_manager(generation_config=config, block=True, timeout=5) as manager:
        batches = [workload.requests] if workload.at_once else [(request,) for request in workload.requests]
        for batch in batches:
            for request in batch:
                name = manager.add_request(
                    list(request.prompt_ids), max_new_tokens=request.max_tokens, record_timestamps=True
                )
                sent[name] = time.perf_counter()
            while len(records) < len(sent):
                output = manager.get_result(timeout=1)
                if output is None or not output.is_finished():
                    continue
                if output.error:
                    raise RuntimeError(output.error)
                name, times = output.request_id, output.timestamps
                records[name] = RequestRecord(sent[name], times[0], times[-1], len(output.generated_tokens))
    return [records[name] for name in sent]
