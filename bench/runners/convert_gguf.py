"""A Hugging Face checkpoint as GGUF for llama.cpp: python convert_gguf.py TYPE CHECKPOINT OUT.

Llama and Qwen3 in bfloat16, without RoPE scaling. TYPE is bf16 or q8_0: that of all matrices, norms are fp32. There is
no vocabulary in it: prompts are ids.
Runs in llama.cpp's environment.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

FAMILIES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}
TYPES = {"bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE_TYPES = {"bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def tensors(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and fp32 values; the files hold bfloat16, which numpy does not know."""
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        data = np.memmap(path, np.uint8, "r", offset=8 + header_bytes)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{name} is {entry['dtype']}; only BF16 is converted")
            first, last = entry["data_offsets"]
            upper = np.asarray(data[first:last]).view(np.uint16).astype(np.uint32) << 16
            yield name, upper.view(np.float32).reshape(entry["shape"])


def paired(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp's RoPE for Llama wants them: a pair's halves side by side."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def convert(type_name: str, checkpoint: Path, out: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    family = FAMILIES[config["model_type"]]
    num_layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[family])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(num_layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(FILE_TYPES[type_name])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(family, num_layers)
    for name, values in tensors(checkpoint):
        if config["model_type"] == "llama" and name.endswith("q_proj.weight"):
            values = paired(values, config["num_attention_heads"])
        elif config["model_type"] == "llama" and name.endswith("k_proj.weight"):
            values = paired(values, config["num_key_value_heads"])
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise ValueError(f"llama.cpp has no place for {name}")
        if values.ndim == 1:
            writer.add_tensor(target, values)
        else:
            writer.add_tensor(target, gguf.quants.quantize(values, TYPES[type_name]), raw_dtype=TYPES[type_name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
