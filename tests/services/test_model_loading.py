"""The worker's engine from its settings: which blocks a KV dtype makes."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.common.byte_size import ByteSize
from services.worker.config import KvDtype, WorkerConfig
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
