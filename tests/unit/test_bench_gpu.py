"""The GPU benchmark's parts, on the CPU with tiny shapes: they run, and their arithmetic is right."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from bench import gpu
from bench.gpu_ceilings import DeviceCeilings, Sizes, measure_ceilings
from bench.gpu_figures import Asked, Figure, duration, rate, table_of
from bench.gpu_models import LLAMA_8B, QWEN3_06B, random_model
from bench.gpu_steps import KV_DTYPE, RandomSteps, StepSizes
from bench.step_cost import Cost, StepWork, cost_of

CPU = torch.device("cpu")
CEILINGS = DeviceCeilings(2e9, 4e9, 1e9, 1e9)
TINY = replace(QWEN3_06B, num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=96)
TINY = replace(TINY, vocab_size=300, windows=(None, None), max_position_embeddings=512)
TINY_8B = replace(TINY, architecture="LlamaForCausalLM", tie_word_embeddings=False)
SIZES = StepSizes(batches=(1, 3), gap_batch=2, context=40, prompt=64, chunk=24, steps=20, warm_up=2)


def test_the_shapes_are_those_of_the_models() -> None:
    def num_weights(config: object) -> int:
        assert config in (QWEN3_06B, LLAMA_8B)
        work = StepWork("one token", 1, 0, 1)
        per_token = 2 * 8 * 128 * (28 if config is QWEN3_06B else 32) * (1 + 2 / 128)
        read = int(cost_of(work, config, KV_DTYPE).num_bytes - per_token) // 2
        embeddings = 0 if config is QWEN3_06B else LLAMA_8B.vocab_size * LLAMA_8B.hidden_size
        return read + embeddings

    assert num_weights(QWEN3_06B) == pytest.approx(596e6, rel=1e-3)
    assert num_weights(LLAMA_8B) == pytest.approx(8.03e9, rel=1e-3)


def test_a_random_model_has_weights_everywhere_and_its_own_in_every_process() -> None:
    one, other = random_model(TINY, 64, CPU), random_model(TINY, 64, CPU)
    for name, weight in one.targets().items():
        assert torch.equal(weight, other.targets()[name])
        if name.endswith("norm.weight"):
            assert (weight == 1).all()
        else:
            assert weight.float().std() == pytest.approx(0.02, rel=0.2)
    assert "model.layers.1.self_attn.q_norm.weight" in one.targets()
    assert "lm_head.weight" in random_model(TINY_8B, 64, CPU).targets()


def test_the_roofline_is_the_slower_of_bytes_and_operations() -> None:
    assert Cost(4e9, 1e9, 0, 2).least_s(2e9, 4e9) == 2.0
    assert Cost(1e9, 8e9, 2e9, 2).least_s(2e9, 4e9) == 2.5


def test_a_decode_steps_bytes_grow_with_rows_and_context_by_their_keys_and_values() -> None:
    def num_bytes(rows: int, start: int) -> float:
        return cost_of(StepWork("", rows, start, 1), LLAMA_8B, KV_DTYPE).num_bytes

    token = 32 * 2 * 8 * (128 + 2)
    assert num_bytes(1, 100) - num_bytes(1, 99) == token
    assert num_bytes(5, 99) - num_bytes(4, 99) == 100 * token


def test_shares_are_of_the_ceiling_whichever_way_is_better() -> None:
    assert rate("", 30.0, "GB/s", 40.0, 0.75).is_met
    assert not rate("", 29.0, "GB/s", 40.0, 0.75).is_met
    assert duration("", 4.0, "ms", 3.0, 0.75).is_met
    assert not duration("", 4.1, "ms", 3.0, 0.75).is_met
    assert Figure("", 0.14, "ms", asked=Asked("<", 0.15)).is_met
    assert Figure("", 0.15, "ms", asked=Asked("<", 0.15)).is_met is False
    assert rate("", 1.0, "", 2.0).is_met is None


def test_ceilings_are_measured() -> None:
    ceilings = measure_ceilings(CPU, Sizes(copy_bytes=1 << 20, matrix=64, host_bytes=1 << 20, rounds=2))
    assert ceilings.copy_bytes_per_s > 1e8
    assert ceilings.bf16_flops_per_s > 1e6
    assert ceilings.to_device_bytes_per_s > 1e8
    assert ceilings.to_host_bytes_per_s > 1e8


def test_every_decode_row_computes_the_tokens_that_it_says() -> None:
    steps = RandomSteps(random_model(TINY, SIZES.longest, CPU), SIZES)
    timings, context = steps.decode(3)
    assert len(timings) == SIZES.steps
    assert all(each.end_ns > each.start_ns > 0 for each in timings)
    # Rows start at 32, 33 and 34, and the mean step that counts is 2 + 10 further.
    assert context == 33 + 12


def test_steps_and_transfers_become_figures_and_a_table() -> None:
    models = {"tiny": TINY, "tiny 8b": TINY_8B}
    figures = gpu.ceiling_figures(CEILINGS)
    figures += gpu.step_figures(models, CEILINGS, SIZES, CPU)
    figures += gpu.transfer_figures({"tiny": TINY}, CEILINGS, 1 << 20, CPU)
    names = [figure.name for figure in figures]
    assert sum("decode step" in name for name in names) == 4
    assert sum("gap between steps, 2 rows" in name for name in names) == 2
    assert sum("prefill of 64" in name for name in names) == 2
    assert sum("spill" in name or "load" in name for name in names) == 4
    assert all(figure.value > 0 for figure in figures)
    assert all((figure.asked is None) == figure.name.startswith("ceiling") for figure in figures)
    console = Console(width=160, record=True)
    console.print(table_of(figures, "cpu"))
    text = console.export_text()
    assert "< 0.15 ms" in text
    assert ">= 65%" in text
    loaded = json.loads(json.dumps(gpu.report(CPU, figures, {"attention": "not here"})))
    assert len(loaded["figures"]) == len(figures)
    assert loaded["failures"] == {"attention": "not here"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a device")
def test_without_a_device_the_command_says_so() -> None:
    result = CliRunner().invoke(gpu.main, [])
    assert result.exit_code == 1
    assert "measures a CUDA device" in result.output
