"""transformers in bf16 with its default attention. Variants: one by one, static batch, continuous batching.

Per-request times within a batch are those of the tokens' arrival at the streamer or the output queue.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from lines import Peer, Record, Request, Run, Track, serve

NUM_THREADS = 2


class Stamps:
    """A transformers streamer that notes when each token came; the first call is the prompt."""

    def __init__(self, track: Track) -> None:
        self._track = track
        self._prompt_seen = False

    def put(self, _value: Any) -> None:
        if self._prompt_seen:
            self._track.note(1, time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        pass


def generation(max_tokens: int) -> dict[str, Any]:
    # eos_token_id -1 is no token: EOS is ignored as in the other peers.
    return {"max_new_tokens": max_tokens, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}


def one_by_one(model: Any) -> Run:
    def run(requests: list[Request], at_once: bool) -> list[Record]:
        tracks = []
        began = time.perf_counter()
        for prompt_ids, max_tokens in requests:
            track = Track(began if at_once else time.perf_counter())
            ids = torch.tensor([prompt_ids])
            model.generate(ids, attention_mask=torch.ones_like(ids), streamer=Stamps(track), **generation(max_tokens))
            tracks.append(track)
        return [track.record for track in tracks]

    return run


def static_batch(model: Any) -> Run:
    """One padded batch that runs until its longest request is done."""

    def run(requests: list[Request], at_once: bool) -> list[Record]:
        if not at_once:
            raise ValueError("requests in turn make no batch")
        width = max(len(prompt_ids) for prompt_ids, _ in requests)
        ids = torch.zeros((len(requests), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt_ids, _) in enumerate(requests):
            ids[row, width - len(prompt_ids) :] = torch.tensor(prompt_ids)
            mask[row, width - len(prompt_ids) :] = 1
        stamps: list[float] = []

        # generate() takes no streamer for batches; a logits processor runs once per step as well.
        def stamp(_ids: Any, scores: Any) -> Any:
            stamps.append(time.perf_counter())
            return scores

        longest = max(max_tokens for _, max_tokens in requests)
        sent = time.perf_counter()
        model.generate(ids, attention_mask=mask, logits_processor=[stamp], **generation(longest))
        return [[sent, stamps[0], stamps[max_tokens - 1], max_tokens] for _, max_tokens in requests]

    return run


def continuous(model: Any) -> Run:
    def run(requests: list[Request], at_once: bool) -> list[Record]:
        longest = max(max_tokens for _, max_tokens in requests)
        config = transformers.GenerationConfig(**generation(longest))  # type: ignore[no-untyped-call]
        sent: dict[str, float] = {}
        records: dict[str, Record] = {}
        with model.continuous_batching_context_manager(generation_config=config, block=True, timeout=5) as manager:
            for batch in [requests] if at_once else [[request] for request in requests]:
                for prompt_ids, max_tokens in batch:
                    name = manager.add_request(prompt_ids, max_new_tokens=max_tokens, record_timestamps=True)
                    sent[name] = time.perf_counter()
                while len(records) < len(sent):
                    output = manager.get_result(timeout=1)
                    if output is None or not output.is_finished():
                        continue
                    if output.error:
                        raise RuntimeError(output.error)
                    name, times = output.request_id, output.timestamps
                    records[name] = [sent[name], times[0], times[-1], len(output.generated_tokens)]
        return [records[name] for name in sent]

    return run


WAYS: dict[str, Callable[[Any], Run]] = {
    "one by one": one_by_one,
    "static batch": static_batch,
    "continuous batching": continuous,
}


def load(variant: str, checkpoint: Path) -> Peer:
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(min(NUM_THREADS, os.cpu_count() or NUM_THREADS))
    # The paged attention that continuous batching needs is chosen when the model is loaded.
    attention = {"attn_implementation": "paged|sdpa"} if variant == "continuous batching" else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16, **attention)
    model.eval()  # type: ignore[no-untyped-call]
    return Peer(transformers.__version__, f"bf16, {variant}, {NUM_THREADS} threads", WAYS[variant](model))


if __name__ == "__main__":
    serve(load)
