"""What the benchmarks of KV dtypes compute, on models small enough to check."""

from pathlib import Path

import pytest
import torch

from bench.kv_cost import WORK, batch_of
from bench.kv_formats import FORMATS, TRUTH, per_block, per_tensor
from bench.kv_quality import (
    Measure,
    bf16_agreement,
    compare_texts,
    difference,
    distance_from_truth,
    predictions,
)
from bench.kv_scorer import Scorer
from bench.step_cost import StepWork
from engine.execution.loading import LoadedModel, load_model
from kernels.kv_codec.e4m3 import decode, encode
from tests.checkpoints import make_checkpoint
from tests.e2e.parity_models import hf_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture(scope="module")
def loaded(directory: Path) -> LoadedModel:
    return load_model(directory, device=CPU, max_model_tokens=128)


def text(seed: int, length: int = 100) -> list[int]:
    ids: list[int] = torch.randint(0, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def test_fp32_blocks_score_as_transformers_does(directory: Path, loaded: LoadedModel) -> None:
    with torch.inference_mode():
        want = hf_model(directory)(torch.tensor([text(1)])).logits[0]
    scorer = Scorer(loaded, TRUTH)
    assert torch.allclose(scorer.logits(text(1)), want, atol=1e-3)
    assert torch.allclose(scorer.logits(text(1), num_last=3), want[-3:], atol=1e-3)


def test_every_format_is_another_one_and_close(loaded: LoadedModel) -> None:
    agreement, kl = compare_texts("small", loaded, [text(1), text(2)])
    assert set(agreement.values) == set(kl.values) == {TRUTH.name, *(each.name for each in FORMATS)}
    divergences = [kl.values[each.name] for each in FORMATS]
    assert len(set(divergences)) == len(FORMATS)
    assert all(0 < each < 0.5 for each in divergences)
    assert kl.values["fp16"] < kl.values["bf16"] < kl.values["fp8"]
    assert all(50 < agreement.values[each.name] <= 100 for each in FORMATS)


def test_accuracy_agreement_and_perplexity_are_of_the_positions_that_they_name(loaded: LoadedModel) -> None:
    chats = [(text(seed), [False] * 60 + [True] * 40) for seed in (1, 2)]
    found = {measure.name: measure for measure in predictions("small", loaded, chats)}
    assert found["top-1 accuracy"].samples == 2 * 99
    assert found["top-1 accuracy, answers"].samples == found["top-1 agreement, answers"].samples == 2 * 40
    assert 0 < found["top-1 agreement, p ≥ 0.5"].samples < 2 * 99
    scorer = Scorer(loaded, TRUTH)
    hits = [scorer.logits(ids[:-1]).argmax(dim=-1) == torch.tensor(ids[1:]) for ids, _ in chats]
    assert found["top-1 accuracy"].values["fp32"] == pytest.approx(100 * torch.cat(hits).float().mean().item())
    for name, measure in found.items():
        if "agreement" in name:
            assert measure.values["fp32"] == 100


def test_the_model_in_bf16_agrees_less_than_bf16_blocks_alone_do(directory: Path, loaded: LoadedModel) -> None:
    in_bf16 = load_model(directory, dtype=torch.bfloat16, device=CPU, max_model_tokens=128, isa=None)
    texts = [text(seed) for seed in range(4)]
    alone, _ = compare_texts("small", loaded, texts)
    both = bf16_agreement("small", loaded, in_bf16, texts)
    assert both.samples == 400
    assert both.values["bf16"] < alone.values["bf16"]
    assert bf16_agreement("small", loaded, loaded, texts).values["fp32"] == 100


def test_the_distance_is_in_points_or_as_a_part() -> None:
    assert distance_from_truth(Measure("m", "agreement", "%", {"fp32": 100.0, "fp8": 99.25}, 1)) == "-0.75 points"
    assert distance_from_truth(Measure("m", "perplexity", "", {"fp32": 2.0, "fp8": 2.01}, 1)) == "+0.50 %"


def test_the_difference_of_a_text_from_itself_is_none() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    same = difference(logits, logits)
    assert same.agreement == 1
    assert abs(same.kl_nats) < 1e-6
    assert difference(logits, -logits).agreement < 1


def test_simulated_scales_reach_as_far_as_their_names_say() -> None:
    rows = torch.randn(40, 2, 8, generator=torch.Generator().manual_seed(0))
    rows[20, 1, 3] = 100_000.0
    error = [(rounded - rows).abs() for rounded in (per_block(rows), per_tensor(rows), decode(*encode(rows)))]
    # The large element costs its block and head, everything, or its own row.
    spoiled = [each[..., :3].amax(dim=2) > 0.15 for each in error]
    outside = torch.ones(40, 2, dtype=torch.bool)
    outside[16:32, 1] = False
    assert spoiled[0][16:32, 1].sum() > 4
    assert not spoiled[0][outside].any()
    assert spoiled[1].sum() > 25
    spoiled[2][20, 1] = False
    assert not spoiled[2].any()


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
def test_cost_batches_write_each_slot_once(work: StepWork) -> None:
    batch = batch_of(work)
    assert len(set(batch.write_slots.tolist())) == batch.num_tokens == batch.query_starts[-1]
    assert batch.block_table.unique().numel() == batch.block_table.numel()
    assert len(batch.positions) == batch.num_tokens
