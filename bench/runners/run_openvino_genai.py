"""OpenVINO GenAI's continuous batching over a paged cache. Variants: f32 (fp32 arithmetic, fp16 cache), bf16 (both)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from lines import Peer, driven, serve

PRECISIONS = {"f32": ("f32", "f16"), "bf16": ("bf16", "bf16")}


class Pipeline:
    def __init__(self, folder: Path, properties: dict[str, object]) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 2
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = 64
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self._handles: dict[int, Any] = {}
        self._next_id = 0

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(np.array([prompt_ids], dtype=np.int64))
        self._handles[index] = self._pipeline.add_request(self._next_id, ids, config)
        self._next_id += 1

    def step(self) -> Iterable[tuple[int, int]] | None:
        if not self._pipeline.has_non_finished_requests():
            self._handles.clear()
            return None
        self._pipeline.step()
        return [(index, _num_read(handle)) for index, handle in self._handles.items()]


def _num_read(handle: Any) -> int:
    count = 0
    while handle.can_read():
        count += sum(len(output.generated_ids) for output in handle.read().values())
    return count


def load(variant: str, folder: Path) -> Peer:
    compute, cache = PRECISIONS[variant]
    properties = {"INFERENCE_PRECISION_HINT": compute, "KV_CACHE_PRECISION": cache, "INFERENCE_NUM_THREADS": 2}
    pipeline = Pipeline(folder, properties)
    settings = f"{compute} arithmetic, {cache} cache, prefix cache, 2048 tokens and 64 sequences a step, 2 threads"
    return Peer(openvino_genai.__version__, settings, driven(pipeline))


if __name__ == "__main__":
    serve(load)
