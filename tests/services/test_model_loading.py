"""The worker's engine from its settings: which blocks a KV dtype makes, and weights of which type."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from services.common.byte_size import ByteSize
from services.worker.config import CpuKernels, Dtype, KvDtype, Weights, WorkerConfig
from services.worker.loaded_engine import LoadedEngine
from services.worker.model_loading import load_engine
from tests.checkpoints import make_checkpoint

BF16_BLOCK_BYTES = 2 * 2 * 2 * 16 * 16 * 2
"""Layers, K and V, heads, tokens, elements, bytes."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("loading") / "small", tokenizer=True)


def engine_with(checkpoint: Path, kv_dtype: KvDtype | None) -> LoadedEngine:
    config = WorkerConfig(model=str(checkpoint), host_cache=ByteSize(0))
    if kv_dtype is not None:
        config = replace(config, kv_dtype=kv_dtype)
    return load_engine(config, lambda *_: None, lambda _: None)


def test_fp8_is_the_default(checkpoint: Path) -> None:
    facts = engine_with(checkpoint, None).facts
    assert facts.kv_dtype == "fp8"
    assert facts.namespace == engine_with(checkpoint, KvDtype.FP8).facts.namespace


@pytest.mark.parametrize(
    ("kv_dtype", "name", "block_bytes"),
    [
        (KvDtype.FP8, "fp8", BF16_BLOCK_BYTES // 2 * 18 // 16),
        (KvDtype.BF16, "bf16", BF16_BLOCK_BYTES),
        (KvDtype.FP16, "fp16", BF16_BLOCK_BYTES),
        (KvDtype.FP32, "fp32", 2 * BF16_BLOCK_BYTES),
        (KvDtype.AUTO, "fp32", 2 * BF16_BLOCK_BYTES),
    ],
)
def test_blocks_are_of_the_type_that_was_asked_for(
    checkpoint: Path, kv_dtype: KvDtype, name: str, block_bytes: int
) -> None:
    facts = engine_with(checkpoint, kv_dtype).facts
    assert facts.kv_dtype == name
    assert facts.block_bytes == block_bytes


def test_every_type_has_a_namespace_of_its_own(checkpoint: Path) -> None:
    kinds = (KvDtype.FP8, KvDtype.BF16, KvDtype.FP16, KvDtype.FP32)
    assert len({engine_with(checkpoint, kind).facts.namespace for kind in kinds}) == 4


def engine_of(checkpoint: Path, weights: Weights, dtype: Dtype = Dtype.AUTO, **settings: Any) -> LoadedEngine:
    config = WorkerConfig(model=str(checkpoint), host_cache=ByteSize(0), weights=weights, dtype=dtype, **settings)
    return load_engine(config, lambda *_: None, lambda _: None)


def test_int8_weights_take_half_the_memory_and_have_a_namespace_of_their_own(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "m", hidden_size=256, intermediate_size=512, vocab_size=64)
    rounded, plain = (engine_of(checkpoint, weights, Dtype.BF16).facts for weights in (Weights.INT8, Weights.AUTO))
    assert (rounded.weights, rounded.dtype) == ("int8", "bf16")
    assert (plain.weights, plain.dtype) == ("bf16", "bf16")
    # Where products are of bf16, weights of bf16 take 12 bits.
    whole = engine_of(checkpoint, Weights.AUTO, Dtype.BF16, cpu_kernels=CpuKernels.AVX2).facts
    assert 0.5 < rounded.weight_bytes / whole.weight_bytes < 0.56
    assert rounded.namespace != plain.namespace
    assert rounded.fingerprint == plain.fingerprint


def test_int8_weights_make_a_model_of_any_type_compute_in_bf16(checkpoint: Path) -> None:
    assert engine_of(checkpoint, Weights.INT8).facts.dtype == "bf16"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dtype": Dtype.FP32}, "compute in bfloat16, not in float32"),
        ({"cpu_kernels": CpuKernels.OFF}, "switched off"),
    ],
)
def test_int8_weights_are_refused_where_nothing_computes_with_them(
    checkpoint: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        engine_of(checkpoint, Weights.INT8, **settings)


def test_a_device_cache_larger_than_the_memory_is_refused(checkpoint: Path) -> None:
    config = WorkerConfig(model=str(checkpoint), device_cache=ByteSize(1 << 50), max_seqs=1 << 40)
    with pytest.raises(ConfigError, match="does not fit into the"):
        load_engine(config, lambda *_: None, lambda _: None)
