"""Masks, bias and penalties of the sampler against a list-based reference, and what they leave of a row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.penalties import Penalties, penalised
from engine.execution.sampler import FAULT, Sampler
from engine.execution.staging import SharedStaging
from engine.sampling import SamplingParams

VOCAB = 12
MAX_TOKENS = 64


def edited_by_definition(
    logits: list[float], params: SamplingParams, history: list[int], num_prompt_tokens: int
) -> list[float]:
    """What the fields of `SamplingParams` say, one token at a time."""
    output = history[num_prompt_tokens:]
    result = list(logits)
    if params.allowed_token_ids:
        result = [x if i in params.allowed_token_ids else -math.inf for i, x in enumerate(result)]
    banned = set()
    for word in params.bad_words:
        start = len(word) - 1
        if len(output) >= start and tuple(output[len(output) - start :]) == word[:-1]:
            banned.add(word[-1])
    if len(output) < params.min_tokens:
        banned |= set(params.stop_token_ids)
    left = [x if i not in banned else -math.inf for i, x in enumerate(result)]
    if max(left) > -math.inf:
        result = left
    for token_id, bias in params.logit_bias:
        result[token_id] += bias
    for token_id in set(history):
        factor = params.repetition_penalty
        result[token_id] = result[token_id] / factor if result[token_id] > 0 else result[token_id] * factor
    for token_id in set(output):
        result[token_id] -= params.frequency_penalty * output.count(token_id) + params.presence_penalty
    return result


def sample(params: SamplingParams, logits: list[float], history: list[int], num_prompt_tokens: int) -> int:
    unit = Sampler(len(logits), 4, MAX_TOKENS, SharedStaging(torch.device("cpu")))
    unit.add(2, params, num_prompt_tokens)
    # What lies past the known tokens must not count, so it is a token that would change the answer.
    tokens = torch.full((4, MAX_TOKENS), logits.index(max(logits)), dtype=torch.int32)
    tokens[2, : len(history)] = torch.tensor(history, dtype=torch.int32)
    row = torch.tensor([logits], dtype=torch.float32)
    return int(unit.sample(row, torch.tensor([2]), torch.tensor([len(history)]), tokens, [2])[0])


ids = st.integers(0, VOCAB - 1)


@st.composite
def edits(draw: st.DrawFn) -> SamplingParams:
    return SamplingParams(
        temperature=0.0,
        repetition_penalty=draw(st.sampled_from([1.0, 1.25, 2.0, 0.5])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -1.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25, -0.5])),
        logit_bias=tuple(draw(st.dictionaries(ids, st.sampled_from([-100.0, -2.0, 3.5]), max_size=3)).items()),
        allowed_token_ids=tuple(draw(st.sets(ids, max_size=5))),
        stop_token_ids=tuple(draw(st.sets(ids, max_size=3))),
        min_tokens=draw(st.integers(0, 6)),
        bad_words=tuple(draw(st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), max_size=4))),
    )


@settings(max_examples=400, deadline=None)
@given(
    params=edits(),
    # Eighths are exact in fp32, so the reference and the sampler meet the same ties.
    logits=st.lists(st.integers(-24, 24).map(lambda x: x / 8), min_size=VOCAB, max_size=VOCAB),
    history=st.lists(st.integers(0, 3), max_size=12),
    data=st.data(),
)
def test_greedy_takes_the_best_token_after_all_edits(
    params: SamplingParams, logits: list[float], history: list[int], data: st.DataObject
) -> None:
    num_prompt_tokens = data.draw(st.integers(0, len(history)))
    expected = edited_by_definition(logits, params, history, num_prompt_tokens)
    got = sample(params, logits, history, num_prompt_tokens)
    # Division by 1.25 rounds, so two tokens may tie in one arithmetic and not in the other.
    assert expected[got] >= max(expected) - 1e-5


def test_penalties_tell_the_prompt_from_the_output() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0, -2.0, 2.0]]).repeat(2, 1)
    history = torch.tensor([[0, 1, 1, 3, 4, 4], [1, 1, 1, 1, 4, 4]], dtype=torch.int32)
    penalties = Penalties(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.25]), torch.tensor([2.0, 2.0]))
    result = penalised(logits, penalties, history, torch.tensor([4, 4]), torch.tensor([2, 4]))
    # Row 0: prompt 0 1, output 1 3. Row 1: all prompt. The fours are not known yet.
    assert result.tolist() == [[1.0, 0.25, 2.0, -4.75, 2.0], [2.0, 1.0, 2.0, -2.0, 2.0]]


def test_a_stop_token_is_masked_until_min_tokens_were_generated() -> None:
    params = SamplingParams(temperature=0.0, min_tokens=3, stop_token_ids=(1, 4))
    logits = [0.0, 9.0, 1.0, 2.0, 8.0]
    prompt = [0, 0, 0, 0]
    taken = [sample(params, logits, prompt + [0] * generated, len(prompt)) for generated in range(5)]
    assert taken == [3, 3, 3, 1, 1]


def test_a_bad_word_is_stopped_at_its_last_token_and_only_in_the_output() -> None:
    params = SamplingParams(temperature=0.0, bad_words=((5, 6, 7),))
    logits = [0.0] * 7 + [9.0]
    assert sample(params, logits, [1, 5, 6], 1) == 0
    assert sample(params, logits, [1, 5, 6], 2) == 7, "the prompt's part of the word does not count"
    assert sample(params, logits, [5, 6, 0], 0) == 7
    assert sample(params, logits, [6], 0) == 7


def test_a_bad_word_of_one_token_never_appears() -> None:
    params = SamplingParams(temperature=0.0, bad_words=((7,), (5, 6)))
    assert sample(params, [0.0] * 7 + [9.0], [], 0) == 0


def test_one_id_that_ends_two_bad_words_is_banned_if_either_has_begun() -> None:
    params = SamplingParams(temperature=0.0, bad_words=((1, 7), (2, 7)))
    logits = [0.0] * 7 + [9.0]
    assert [sample(params, logits, [token], 0) for token in (1, 2, 3)] == [0, 0, 7]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bans_give_way_where_they_would_leave_no_token_but_allowed_ids_do_not(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature,
        allowed_token_ids=(2, 4),
        bad_words=((2,),),
        min_tokens=5,
        stop_token_ids=(4,),
    )
    assert {sample(params, [9.0, 0.0, 0.0, 9.0, 0.0], [1] * length, 0) for length in range(5)} <= {2, 4}


def test_allowed_ids_that_the_model_excludes_are_a_fault() -> None:
    params = SamplingParams(temperature=0.0, allowed_token_ids=(1,))
    assert sample(params, [0.0, -math.inf, 1.0], [], 0) == FAULT


def test_bias_does_not_bring_back_a_token_that_is_not_allowed() -> None:
    params = SamplingParams(temperature=0.0, allowed_token_ids=(0, 1), logit_bias=((2, 100.0), (1, 5.0)))
    assert sample(params, [1.0, 0.0, 3.0], [], 0) == 1


def test_bias_moves_the_distribution_by_its_exponential() -> None:
    unit = Sampler(2, 1, 8, SharedStaging(torch.device("cpu")))
    unit.add(0, SamplingParams(logit_bias=((1, math.log(3.0)),), seed=17), 0)
    count = 8000
    slots = [0] * count
    tokens = torch.zeros(1, 8, dtype=torch.int32)
    drawn = unit.sample(torch.zeros(count, 2), torch.tensor(slots), torch.arange(count), tokens, slots)
    assert abs(drawn.float().mean().item() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / count)
