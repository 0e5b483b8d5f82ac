"""Names for a loaded model: what is served, and what its KV blocks are worth."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from engine.models.config import ModelConfig

SCHEMA_VERSION = 2
"""Of the block record and of the key chain. Raised when either changes."""

ARITHMETIC_VERSION = 3
"""Of all that computes K and V. Raised when any of it gives other bits than before: caches outlive the program."""


def fingerprint(config: ModelConfig, weights_digest: bytes) -> str:
    """BLAKE2b-256, hexadecimal, of the weights and of every config field that changes logits."""
    return _digest("fingerprint", {"config": _identity(config), "weights": weights_digest.hex()}).hex()


def namespace(
    config: ModelConfig,
    weights_digest: bytes,
    *,
    dtype: torch.dtype,
    arithmetic: str,
    kv_dtype: torch.dtype,
    scale_mode: str,
    block_size: int,
    tensor_parallel_rank: int = 0,
    tensor_parallel_size: int = 1,
) -> bytes:
    """32 bytes where the chains of block keys start: two workers share it only if their blocks are exchangeable.

    `dtype` is that of the computation; it rounds K and V whatever they are stored as, and so does `arithmetic`, which
    names whose operations compute the layers (`LlamaModel.arithmetic`): equal keys shall mean equal bytes. `scale_mode`
    is the layout's: how stored elements become values.
    """
    return _digest(
        "namespace",
        {
            "schema": SCHEMA_VERSION,
            "config": _identity(config),
            "weights": weights_digest.hex(),
            "dtype": str(dtype),
            "arithmetic": [ARITHMETIC_VERSION, arithmetic],
            "kv_dtype": str(kv_dtype),
            "scale_mode": scale_mode,
            "block_size": block_size,
            "tensor_parallel": [tensor_parallel_rank, tensor_parallel_size],
        },
    )


def _identity(config: ModelConfig) -> dict[str, Any]:
    """Shapes, RoPE parameters and all else but what ends a text and how the checkpoint is stored."""
    fields = asdict(config)
    del fields["eos_token_ids"], fields["dtype"]
    return fields


def _digest(kind: str, content: dict[str, Any]) -> bytes:
    text = json.dumps({"kind": kind, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).digest()
