"""Checkpoint tensors, streamed from safetensors straight into preallocated parameters."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ConfigError

Progress = Callable[[int, int], None]
"""Called with (loaded_bytes, total_bytes) after each tensor, on the loading thread."""

_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
"""Buffers that older checkpoints carry; RoPE recomputes them."""


@dataclass(frozen=True, slots=True)
class WeightsDigest:
    """BLAKE2b-256 over (name, dtype, shape, digest of bytes) of every tensor, by name: equal for any sharding."""

    digest: bytes


class Checkpoint:
    """The safetensors files of one directory. Opening it reads headers only."""

    def __init__(self, directory: str | Path) -> None:
        """Raises ConfigError where a file that should be there is missing or is not safetensors."""
        self._directory = Path(directory)
        self._shards = self._find_shards()
        self.total_bytes = sum(_payload_bytes(shard) for shard in self._shards)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor once, on the CPU, in its stored dtype; each is only held while the caller holds it."""
        seen: dict[str, Path] = {}
        for shard in self._shards:
            try:
                with safe_open(shard, framework="pt", device="cpu") as file:
                    for name in file.keys():  # noqa: SIM118  (not a mapping)
                        if name in seen:
                            raise ConfigError(f"tensor {name} is in both {seen[name]} and {shard}; remove one of them")
                        seen[name] = shard
                        yield name, file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"{shard} is not a readable safetensors file: {error}") from error

    def first_float_dtype(self) -> torch.dtype:
        """The dtype of the first floating-point tensor."""
        for _, tensor in self.tensors():
            if tensor.is_floating_point():
                return tensor.dtype
        raise ConfigError(f"{self._directory}: the checkpoint has no floating-point tensor")

    def _find_shards(self) -> list[Path]:
        index = self._directory / "model.safetensors.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ConfigError(f"{index} has no usable weight_map: {error!r}") from error
            shards = [self._directory / name for name in names]
        else:
            shards = [self._directory / "model.safetensors"]
        for shard in shards:
            if not shard.is_file():
                raise ConfigError(
                    f"{shard} does not exist; a model directory holds model.safetensors, or "
                    "model.safetensors.index.json and the files that it names"
                )
        return shards


def load_weights(
    checkpoint: Checkpoint,
    targets: Mapping[str, torch.Tensor],
    aliases: Mapping[str, str],
    progress: Progress | None = None,
) -> WeightsDigest:
    """Copy every tensor into its target, casting to the target's dtype.

    `targets` maps checkpoint names to (views of) parameters. `aliases` maps a name that may be present (a tied
    `lm_head.weight`) to the target that it must equal. Raises ConfigError that names missing tensors, left-over
    tensors, and tensors of a wrong shape.
    """
    missing = set(targets)
    left_over: list[str] = []
    digests: dict[str, bytes] = {}
    loaded_bytes = 0
    deferred: list[tuple[str, torch.Tensor]] = []
    # hashlib and copy_ both release the GIL: a tensor is hashed while it is cast and copied.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights-digest") as hasher:
        for name, tensor in checkpoint.tensors():
            digest = hasher.submit(_tensor_digest, name, tensor)
            if name in targets:
                _copy(name, tensor, targets[name])
                missing.discard(name)
            elif name in aliases:
                deferred.append((name, tensor))
            elif not name.endswith(_IGNORED_SUFFIXES):
                left_over.append(name)
            loaded_bytes += tensor.nbytes
            digests[name] = digest.result()
            if progress is not None:
                progress(loaded_bytes, checkpoint.total_bytes)
    if missing:
        raise ConfigError(f"the checkpoint lacks {_listed(missing)}; it does not fit its config.json")
    if left_over:
        raise ConfigError(
            f"the checkpoint has {_listed(left_over)}, which its config.json gives no place; is it for another "
            "architecture?"
        )
    for name, tensor in deferred:
        same = targets[aliases[name]]
        if tensor.shape != same.shape or not torch.equal(tensor.to(same.device, same.dtype), same):
            raise ConfigError(
                f"config.json ties {name} to {aliases[name]}, but the checkpoint holds different values; set "
                "tie_word_embeddings to false"
            )
    total = hashlib.blake2b(digest_size=32)
    for name in sorted(digests):
        total.update(digests[name])
    return WeightsDigest(total.digest())


def _payload_bytes(shard: Path) -> int:
    """A safetensors file is the header's size in 8 bytes, the header, and the tensors."""
    with shard.open("rb") as file:
        return max(0, shard.stat().st_size - 8 - int.from_bytes(file.read(8), "little"))


def _copy(name: str, tensor: torch.Tensor, target: torch.Tensor) -> None:
    if tensor.shape != target.shape:
        raise ConfigError(f"tensor {name} has shape {list(tensor.shape)}; config.json asks for {list(target.shape)}")
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        raise ConfigError(f"tensor {name} is stored as {tensor.dtype}; supported are bfloat16, float16, float32")
    target.copy_(tensor)


def _tensor_digest(name: str, tensor: torch.Tensor) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _listed(names: set[str] | list[str], limit: int = 8) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return f"{', '.join(ordered[:limit])}{more}"
