"""The arithmetic and the pictures of `bench.scaling`, and what `bench.memory` calls growth."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench.memory import MIB, Growth, proc_bytes
from bench.scaling import Point, Roofline, cases
from bench.scaling_plots import draw
from bench.workloads import running
from engine.models.config import ModelConfig
from tiercel.client import WorkerStatus


def test_rates_are_of_all_sequences() -> None:
    point = Point("bf16", 8, 256, [10.0, 20.0], 4.0)
    assert point.tokens_per_s == [800, 400]
    assert point.roofline_tokens_per_s == 2000


def test_the_roofline_reads_all_weights_once_and_the_blocks_of_every_sequence(tmp_path: Path) -> None:
    """The tiny model has 2 layers of (64·64·2 + 64·32·2 + 3·64·128) weights, and 256·64 of the vocabulary."""
    asked = []

    def rate(num_bytes: int) -> float:
        asked.append(num_bytes)
        return 1e9

    weights = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128) + 256 * 64
    sizes = (("bf16", "avx512", 2), ("bf16", "avx512bf16", 1.5), ("bf16", "amx", 1.5), ("int8", "amx", 1))
    for name, isa, size in sizes:
        roofline = Roofline(tiny_config(tmp_path), isa, rate)
        worker = SimpleNamespace(weights=name, block_bytes=1600, block_size_tokens=16)
        step_ms = roofline.step_ms(cast(WorkerStatus, worker), 4, 100)
        assert step_ms == pytest.approx(1000 * (size * weights + 4 * 100 * 100) / 1e9)
    assert asked == 4 * [64 << 20]


def tiny_config(folder: Path) -> ModelConfig:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 256,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return ModelConfig.from_hf(folder)


def test_contexts_beyond_the_model_are_left_out() -> None:
    assert max(context for _, context in cases(2048)) == 2048
    assert (64, 256) in cases(2048)


def test_the_last_token_is_computed_at_the_context() -> None:
    workload = running(256, 1, 3, 100, 40)
    assert [len(request.prompt_ids) + request.max_tokens for request in workload.requests] == [100] * 3
    again = workload.with_output(1)
    assert [request.prompt_ids for request in again.requests] == [request.prompt_ids for request in workload.requests]
    assert again.output_tokens == 3


def test_pictures_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    points = [Point("bf16", running, 256, [5.0 + running], 4.0) for running in (1, 2, 4)]
    points += [Point("bf16", 1, context, [5.0, 6.0], 4.0) for context in (128, 512)]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        draw(points, tmp_path / folder, "tiny", 256)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {f"{name}-tiny.{kind}" for name in ("throughput", "context") for kind in ("png", "svg")}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_growth_compares_the_first_third_with_the_last() -> None:
    change = Growth.of([100, 100, 100, 500, 500, 500, 110, 110, 110])
    assert (change.first, change.last) == (100, 110)
    assert change.share == pytest.approx(0.1)


def test_resident_memory_is_read_from_the_process() -> None:
    now, most = proc_bytes(os.getpid(), "VmRSS"), proc_bytes(os.getpid(), "VmHWM")
    assert 10 * MIB < now <= most
