"""From a model directory to a model in memory, and from a byte size to a number of blocks."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import ConfigError
from engine.models.config import ModelConfig
from engine.models.families import MODELS
from engine.models.fingerprint import fingerprint
from engine.models.llama import LlamaModel
from engine.models.weights import Checkpoint, Progress, load_weights
from kernels.attention.native import unsupported_head_dim
from kernels.cpu.library import CpuKernels, KernelsUnavailable, load_kernels

_CPU_SHARE = 0.25
"""Of available memory, for the device pool when the device is the CPU."""

_CUDA_SHARE = 0.9
"""Of free device memory once the weights are there."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    model: LlamaModel
    config: ModelConfig
    weights_digest: bytes
    fingerprint: str
    """Hexadecimal digest of config and weights."""
    max_model_tokens: int


def load_model(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device,
    max_model_tokens: int | None = None,
    progress: Progress | None = None,
    isa: str | None = "",
    int8_weights: bool = False,
) -> LoadedModel:
    """Read config and weights. `dtype` None keeps the checkpoint's; `max_model_tokens` None takes its whole context.
    `isa` names the best instruction set that layers may be computed with natively, where they can be, "" being any;
    attention must then be the kernels' own, which `choose_attention` chooses by itself. None: torch's operations.
    `int8_weights` rounds the weights to int8, which only native kernels compute with; the model's dtype is bfloat16.

    At most one tensor is in memory beside the model. Raises ConfigError for whatever makes the directory unusable.
    """
    config = ModelConfig.from_hf(directory)
    checkpoint = Checkpoint(directory)
    if dtype is None:
        dtype = torch.bfloat16 if int8_weights else config.dtype or checkpoint.first_float_dtype()
    kernels = None if isa is None else native_kernels(config, dtype, device, isa)
    if int8_weights and not isinstance(kernels, CpuKernels):
        reason = kernels or "they are switched off"
        raise ConfigError(f"int8 weights need the native CPU kernels, and {reason}; or leave the weights as they are")
    longest = longest_context(config)
    if max_model_tokens is None:
        max_model_tokens = longest
    if not 1 <= max_model_tokens <= longest:
        raise ConfigError(
            f"the maximum model length is set to {max_model_tokens} tokens; "
            f"the checkpoint's context allows 1 to {longest}"
        )
    with torch.inference_mode():
        model = MODELS[config.architecture](config, max_model_tokens, dtype, device)
        digest = load_weights(checkpoint, model.targets(), model.aliases(), progress).digest
        model.pack(kernels if isinstance(kernels, CpuKernels) else None, int8_weights=int8_weights)
    return LoadedModel(model, config, digest, fingerprint(config, digest), max_model_tokens)


def native_kernels(config: ModelConfig, dtype: torch.dtype, device: torch.device, isa: str) -> CpuKernels | str:
    """The kernels that compute whole layers of such a model here, or why there are none and torch's operations do."""
    if device.type != "cpu":
        return f"the device is {device.type}"
    if dtype != torch.bfloat16:
        return f"they compute in bfloat16, not in {dtype}".replace("torch.", "")
    if reason := unsupported_head_dim(config.head_dim):
        return reason
    try:
        return load_kernels(isa)
    except KernelsUnavailable as error:
        return str(error)


def longest_context(config: ModelConfig) -> int:
    """The context that the checkpoint was made for, stretched where its RoPE scaling stretches it on the fly."""
    if config.rope_type in ("dynamic", "linear"):
        return int(config.max_position_embeddings * config.rope_parameters["factor"])
    return config.max_position_embeddings


def num_blocks_for(
    size_bytes: int, *, block_bytes: int, block_size: int, max_model_tokens: int, max_seqs: int | None = None
) -> int:
    """Blocks that fit into `size_bytes`, at most what `max_seqs` full sequences can use.

    Raises ConfigError where not even one sequence of `max_model_tokens` fits.
    """
    per_sequence = -(-max_model_tokens // block_size)
    num_blocks = size_bytes // block_bytes
    if num_blocks < per_sequence:
        raise ConfigError(
            f"a device cache of {size_bytes} bytes holds {num_blocks * block_size} tokens, fewer than one sequence of "
            f"{max_model_tokens}; give it at least {per_sequence * block_bytes} bytes or lower the maximum model length"
        )
    return num_blocks if max_seqs is None else min(num_blocks, max_seqs * per_sequence)


def default_device_cache_bytes(device: torch.device, available_bytes: int, *, min_bytes: int, max_bytes: int) -> int:
    """The device pool's size where none is given.

    On a CUDA device 0.9 of what is free now; on the CPU a quarter of `available_bytes` of memory, but no more than
    `max_bytes` (all sequences at full length) and, as far as half of the memory allows, no less than `min_bytes`
    (one sequence).
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return min(int(free_bytes * _CUDA_SHARE), max_bytes)
    share = int(available_bytes * _CPU_SHARE)
    if share < min_bytes <= available_bytes // 2:
        share = min_bytes
    return min(share, max_bytes)
