"""vLLM's logits of whole texts: what its model computes where the prompt's log probabilities are asked for."""

import os
import sys
from pathlib import Path

import numpy as np
from logits import Texts, answer
from run_vllm import CACHES, environment


def logits(variant: str, checkpoint: Path, texts: Texts) -> np.ndarray:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(checkpoint),
        dtype="bfloat16",
        kv_cache_dtype=CACHES[variant],
        skip_tokenizer_init=True,
        max_model_len=2048,
        enable_prefix_caching=False,
    )
    found: list[np.ndarray] = []

    def watch(model: object) -> None:
        compute = model.compute_logits  # type: ignore[attr-defined]

        def watched(*given: object, **named: object) -> object:
            logits = compute(*given, **named)
            found.append(logits.float().numpy())
            return logits

        model.compute_logits = watched  # type: ignore[attr-defined]

    llm.apply_model(watch)
    params = SamplingParams(max_tokens=1, prompt_logprobs=1, detokenize=False)
    texts_logits = []
    for ids in texts:
        found.clear()
        llm.generate({"prompt_token_ids": ids.tolist()}, params, use_tqdm=False)
        # The last token's, from which it samples, and all others', in whichever order.
        last, others = sorted(found, key=len)
        texts_logits.append(np.concatenate([others[: len(ids) - 1], last]))
    return np.stack(texts_logits)


if __name__ == "__main__":
    wanted = environment() | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    answer(logits)
