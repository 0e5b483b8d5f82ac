"""llama.cpp's logits of whole texts. Variants: bf16, q8_0."""

from pathlib import Path

import llama_cpp
import numpy as np
from logits import Texts, answer


def logits(_variant: str, path: Path, texts: Texts) -> np.ndarray:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    num_tokens = texts.shape[1]
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = num_tokens
    params.n_threads = params.n_threads_batch = 2
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(num_tokens, 0, 1)
    batch.n_tokens = num_tokens
    found = []
    for ids in texts:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        for position, token in enumerate(ids):
            batch.token[position] = int(token)
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = 1
        if code := llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        rows = llama_cpp.llama_get_logits(context)
        found.append(np.ctypeslib.as_array(rows, (num_tokens, vocab_size)).copy())
    return np.stack(found)


if __name__ == "__main__":
    answer(logits)
