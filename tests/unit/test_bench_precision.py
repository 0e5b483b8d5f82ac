"""The precision benchmark's arithmetic, and its ways over a small checkpoint."""

from pathlib import Path

import pytest
import torch

from bench.peer_logits import peer_logits
from bench.precision import compare, measured
from tests.checkpoints import make_checkpoint


def test_what_equals_the_truth_has_no_error() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    found = compare([logits], [logits], [logits.argmax(dim=-1)])
    assert (found.rms_error, found.agreement, found.accuracy) == (0, 1, 1)
    assert found.kl_nats == pytest.approx(0, abs=1e-6)


def test_errors_are_told_in_parts_of_the_logits_spread() -> None:
    want = torch.tensor([[3.0, 1.0, 1.0, 3.0]])  # 1 about its mean
    found = compare([want], [want + torch.tensor([[0.1, -0.1, 0.1, -0.1]])], None)
    assert found.rms_error == pytest.approx(0.1)
    assert found.kl_nats > 0
    assert found.perplexity is None


def test_certainty_is_the_truths() -> None:
    sure, unsure = [9.0, 0.0, 0.0], [1.0, 0.9, 0.8]
    wrong = torch.tensor([sure, list(reversed(unsure))])
    found = compare([torch.tensor([sure, unsure])], [wrong], None)
    assert (found.agreement, found.sure_agreement) == (0.5, 1)


def test_every_way_comes_close_and_int8_less_so(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m", dtype=torch.bfloat16, std=0.08)
    texts = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(2)).tolist()
    found = dict(measured(path, texts, None))
    assert {"transformers, bf16", "torch, bf16"} < found.keys()
    errors = {name: each.rms_error for name, each in found.items()}
    assert all(0 < error < 0.1 for error in errors.values())
    native = {name: error for name, error in errors.items() if name.startswith("native")}
    assert max(error for name, error in native.items() if name.endswith(", bf16")) < min(
        error for name, error in native.items() if "int8" in name
    )


def test_libraries_that_are_not_there_say_what_would_make_them(tmp_path: Path) -> None:
    found = dict(peer_logits(tmp_path / "model", tmp_path / "environments", [[1, 2, 3]]))
    assert {"openvino-genai bf16", "vllm bf16", "llama.cpp q8_0"} < found.keys()
    assert all(isinstance(why, str) and "python -m bench.peer_venvs" in why for why in found.values())
