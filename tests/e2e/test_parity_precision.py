"""Reduced precision: no further from the fp32 truth than transformers itself is at the same precision."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.execution.loading import load_model
from engine.sampling import SamplingParams
from tests.checkpoints import make_checkpoint
from tests.e2e.parity_models import hf_model
from tests.in_process_engine import CPU, EngineSetup, InProcessEngine

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_hidden_layers": 3}),
    "qwen3-tied": ("qwen3", {"num_hidden_layers": 3, "head_dim": 32, "tie_word_embeddings": True}),
    "qwen2-windowed": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
}
SCORE = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, config = SHAPES[request.param]
    # A narrow spread, as trained models have it: errors of bf16 are relative to the size of the activations.
    directory = tmp_path_factory.mktemp("precision")
    return make_checkpoint(directory, family, dtype=torch.bfloat16, std=0.08, hidden_size=128, **config)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 512, (length,), generator=generator).tolist() for length in (3, 64, 190, 333)]


def hf_scores(directory: Path, prompt: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Log probability of every prompt token but the first."""
    with torch.inference_mode():
        logits = hf_model(directory, dtype)(torch.tensor([prompt])).logits[0, :-1].float()
    scores: torch.Tensor = logits.log_softmax(dim=-1).gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
    return scores


def our_scores(
    directory: Path, prompts: list[list[int]], dtype: torch.dtype, kv_dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    loaded = load_model(directory, dtype=dtype, device=CPU)
    engine = InProcessEngine(loaded, EngineSetup(max_batched_tokens=150), kv_dtype=kv_dtype)
    answers = engine.run(prompts, SCORE)
    scores = [answer.prompt_logprobs for answer in answers]
    assert all(score is not None for score in scores)
    return [torch.tensor(score.logprobs) for score in scores if score is not None]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
def test_half_precision_scores_are_as_close_to_fp32_as_those_of_transformers(
    checkpoint: Path, prompts: list[list[int]], dtype: torch.dtype, bound: float
) -> None:
    for prompt, ours in zip(prompts, our_scores(checkpoint, prompts, dtype), strict=True):
        truth = hf_scores(checkpoint, prompt, torch.float32)
        theirs = hf_scores(checkpoint, prompt, dtype)
        error, their_error = (ours - truth).abs(), (theirs - truth).abs()
        assert error.max() < bound
        assert error.mean() <= 1.5 * their_error.mean() + 1e-3


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn])
def test_blocks_of_another_dtype_than_the_model_cost_no_more_than_their_rounding(
    checkpoint: Path, prompts: list[list[int]], kv_dtype: torch.dtype
) -> None:
    scores = our_scores(checkpoint, prompts, torch.float32, kv_dtype)
    bound = {torch.bfloat16: 0.08, torch.float16: 0.01, torch.float32: 1e-4, torch.float8_e4m3fn: 0.3}[kv_dtype]
    for prompt, ours in zip(prompts, scores, strict=True):
        assert (ours - hf_scores(checkpoint, prompt, torch.float32)).abs().max() < bound


def test_bf16_answers_do_not_depend_on_the_cache(checkpoint: Path, prompts: list[list[int]]) -> None:
    """The same request twice, the second time over the blocks of the first: equal scores within bf16's rounding."""
    loaded = load_model(checkpoint, device=CPU)
    assert loaded.model.dtype == torch.bfloat16
    engine = InProcessEngine(loaded, EngineSetup())
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=5)
    first, second = engine.run(prompts, params), engine.run(prompts, params)
    assert second[-1].cached_tokens == 320
    for before, after in zip(first, second, strict=True):
        difference = torch.tensor(before.logprobs.top_logprobs) - torch.tensor(after.logprobs.top_logprobs)
        assert difference.abs().max() < 0.05
