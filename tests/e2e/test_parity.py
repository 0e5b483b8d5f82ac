"""Greedy output equals transformers', for every family and variant, however the work is cut into steps and blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.execution.loading import LoadedModel, load_model
from engine.models.config import ModelConfig
from engine.sampling import SamplingParams
from tests.e2e.parity_models import (
    MAX_NEW_TOKENS,
    PARITY_MODELS,
    Expected,
    ParityModel,
    assert_same_ids,
    hf_generate,
    write_checkpoint,
)
from tests.in_process_engine import CPU, EngineSetup, InProcessEngine

MAX_MODEL_TOKENS = 760

SETUPS = {
    "one-request-at-a-time": EngineSetup(max_seqs=1),
    "all-at-once": EngineSetup(max_seqs=32),
    "small-blocks-odd-chunks": EngineSetup(block_size=8, max_batched_tokens=37),
    "large-blocks-tiny-budget": EngineSetup(block_size=32, max_batched_tokens=96, max_seqs=3),
    "no-prefix-cache-one-plan": EngineSetup(prefix_cache=False, plans_in_flight=1, max_batched_tokens=129),
    "small-pool-preempts": EngineSetup(num_blocks=49, max_batched_tokens=200),
}


@dataclass(frozen=True)
class Subject:
    name: str
    loaded: LoadedModel
    prompts: list[list[int]]
    expected: list[Expected]


def make_prompts(vocab_size: int, seed: int) -> list[list[int]]:
    """Lengths around block, window and context edges; some share prefixes with others."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(0, vocab_size, (count,), generator=generator).tolist()

    long = ids(700)
    shared = [long[:64] + ids(9), long[:301], long]
    return [ids(1), ids(2), ids(15), ids(16), ids(17), ids(47), ids(130), ids(260), *shared]


@pytest.fixture(scope="module", params=PARITY_MODELS, ids=lambda model: model.name)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    model: ParityModel = request.param
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = write_checkpoint(model, tmp_path_factory.mktemp("parity") / model.name)
    prompts = make_prompts(512, seed=PARITY_MODELS.index(model))
    expected = [hf_generate(directory, prompt) for prompt in prompts]
    loaded = load_model(directory, device=CPU, max_model_tokens=MAX_MODEL_TOKENS)
    yield Subject(model.name, loaded, prompts, expected)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS.keys())
def test_greedy_ids_are_those_of_transformers(subject: Subject, setup: EngineSetup) -> None:
    engine = InProcessEngine(subject.loaded, setup)
    answers = engine.run(subject.prompts, _greedy(subject.loaded.config))
    for prompt, expected, answer in zip(subject.prompts, subject.expected, answers, strict=True):
        assert_same_ids(expected, answer.token_ids, f"{subject.name}, prompt of {len(prompt)}")


def test_a_second_round_over_cached_blocks_gives_the_same_ids(subject: Subject) -> None:
    engine = InProcessEngine(subject.loaded, EngineSetup(num_blocks=512))
    engine.run(subject.prompts, _greedy(subject.loaded.config))
    answers = engine.run(subject.prompts, _greedy(subject.loaded.config))
    assert answers[-1].cached_tokens >= 640
    for prompt, expected, answer in zip(subject.prompts, subject.expected, answers, strict=True):
        assert_same_ids(expected, answer.token_ids, f"{subject.name}, prompt of {len(prompt)}")


def test_log_probabilities_are_those_of_transformers(subject: Subject) -> None:
    engine = InProcessEngine(subject.loaded, EngineSetup(max_batched_tokens=100))
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS, logprobs=3)
    params_stopped = _stopping(params, subject.loaded.config)
    answers = engine.run(subject.prompts, params_stopped)
    for prompt, expected, answer in zip(subject.prompts, subject.expected, answers, strict=True):
        assert_same_ids(expected, answer.token_ids, f"{subject.name}, prompt of {len(prompt)}")
        if answer.token_ids != expected.token_ids:
            continue
        want = expected.logits.log_softmax(dim=-1)
        chosen = want.gather(1, torch.tensor(expected.token_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(answer.logprobs.logprobs), chosen, atol=2e-3)
        assert torch.allclose(torch.tensor(answer.logprobs.top_logprobs).view(-1, 3), want.topk(3).values, atol=2e-3)


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(PARITY_MODELS[1], tmp_path_factory.mktemp("parity") / "small")


def test_thirty_two_requests_at_once_equal_each_alone(small_llama: Path) -> None:
    generator = torch.Generator().manual_seed(9)
    lengths = torch.randint(1, 300, (32,), generator=generator).tolist()
    prompts = [torch.randint(0, 512, (length,), generator=generator).tolist() for length in lengths]
    loaded = load_model(small_llama, device=CPU)
    answers = InProcessEngine(loaded, EngineSetup()).run(prompts, SamplingParams(temperature=0.0, max_tokens=20))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same_ids(hf_generate(small_llama, prompt, 20), answer.token_ids, f"prompt of {len(prompt)}")


def test_a_pool_too_small_for_all_preempts_and_still_gives_the_same_ids(small_llama: Path) -> None:
    generator = torch.Generator().manual_seed(10)
    prompts = [torch.randint(0, 512, (40,), generator=generator).tolist() for _ in range(6)]
    loaded = load_model(small_llama, device=CPU)
    engine = InProcessEngine(loaded, EngineSetup(num_blocks=24))
    answers = engine.run(prompts, SamplingParams(temperature=0.0, max_tokens=60))
    assert sum(answer.preemptions for answer in answers) > 0
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same_ids(hf_generate(small_llama, prompt, 60), answer.token_ids, "a preempted request")


def _greedy(config: ModelConfig) -> SamplingParams:
    return _stopping(SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS), config)


def _stopping(params: SamplingParams, config: ModelConfig) -> SamplingParams:
    return SamplingParams(
        temperature=params.temperature,
        max_tokens=params.max_tokens,
        logprobs=params.logprobs,
        stop_token_ids=config.eos_token_ids,
    )
