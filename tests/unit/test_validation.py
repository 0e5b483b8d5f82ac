"""The checks at the door: every field, what is refused and why, what just passes, and what defaults become."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from engine.errors import InvalidRequest, PromptTooLong
from engine.sampling import SamplingParams
from services.tokenizer.text_model import ModelText
from services.tokenizer.validation import ValidRequest, draw_seed, validate
from tests.unit.text_tokenizers import TrainedTokenizer, byte_level
from tiercel.v1 import common_pb2, inference_pb2

VOCAB = 1000
CONTEXT = 100
EOS = (7, 8)


class Model:
    """The two things that `validate` wants of a model."""

    tokenizer: TrainedTokenizer = byte_level()
    facts = ModelText(vocab_size=VOCAB, max_model_tokens=CONTEXT, eos_token_ids=EOS)


MODEL = Model()


def request_with(sampling: Mapping[str, Any], **fields: Any) -> inference_pb2.GenerateRequest:
    fields.setdefault("token_ids", common_pb2.TokenIds(ids=range(10)))
    return inference_pb2.GenerateRequest(sampling=inference_pb2.SamplingParams(**sampling), **fields)


def check(request: inference_pb2.GenerateRequest, prompt: Sequence[int] | None = None) -> ValidRequest:
    ids = list(request.token_ids.ids) if prompt is None else prompt
    return validate(request, ids, MODEL, CONTEXT, new_seed=lambda: 4242)


NAN, INF = math.nan, math.inf

BAD_SAMPLING = [
    ("n", 0, "1 to 64"),
    ("n", -1, "n is -1"),
    ("n", 65, "1 to 64"),
    ("temperature", -0.1, "0 or more"),
    ("temperature", NAN, "temperature is nan"),
    ("temperature", INF, "finite"),
    ("temperature", -INF, "finite"),
    ("top_p", 0.0, "above 0 and at most 1"),
    ("top_p", -0.5, "top_p is -0.5"),
    ("top_p", 1.01, "at most 1"),
    ("top_p", NAN, "top_p is nan"),
    ("top_p", INF, "at most 1"),
    ("top_k", -1, "0 switches it off"),
    ("top_k", -(2**31), "0 or more"),
    ("min_p", -0.01, "at most 1"),
    ("min_p", 1.5, "min_p is 1.5"),
    ("min_p", NAN, "min_p is nan"),
    ("max_tokens", 0, "1 or more"),
    ("max_tokens", -5, "max_tokens is -5"),
    ("min_tokens", -1, "0 or more"),
    ("min_tokens", 91, "what the prompt leaves of the context, 90"),
    ("presence_penalty", 2.1, "at most 2"),
    ("presence_penalty", -2.1, "-2 or more"),
    ("presence_penalty", NAN, "nan"),
    ("frequency_penalty", 3.0, "frequency_penalty is 3"),
    ("frequency_penalty", -INF, "finite"),
    ("repetition_penalty", 0.0, "above 0"),
    ("repetition_penalty", -1.0, "above 0"),
    ("repetition_penalty", INF, "finite"),
    ("repetition_penalty", NAN, "nan"),
    ("stop", ["x"] * 17, "at most 16"),
    ("stop", ["fine", ""], "Entry 1 of the stop strings has 0 characters"),
    ("stop", ["x" * 257], "1 to 256"),
    ("stop_token_ids", [VOCAB], "0 to 999"),
    ("stop_token_ids", [3, -1], "Token id -1"),
    ("stop_token_ids", [1] * 1025, "at most 1024"),
    ("logit_bias", {VOCAB: 1.0}, "0 to 999"),
    ("logit_bias", {-1: 1.0}, "Token id -1"),
    ("logit_bias", {5: 100.5}, "-100 to 100"),
    ("logit_bias", {5: -INF}, "logit_bias of token 5 is -inf"),
    ("logit_bias", {5: NAN}, "logit_bias of token 5 is nan"),
    ("logit_bias", dict.fromkeys(range(1025), 0.5), "at most 1024"),
    ("allowed_token_ids", [1, VOCAB + 5], "Token id 1005"),
    ("allowed_token_ids", [-(2**40)], "vocabulary"),
    ("bad_words", [""], "0 characters"),
    ("bad_words", ["  \t"], "only white space"),
    ("bad_words", ["x" * 257], "1 to 256"),
    ("bad_words", ["x"] * 257, "at most 256"),
    ("logprobs", -1, "0 to 20"),
    ("logprobs", 21, "logprobs is 21"),
    ("prompt_logprobs", -1, "0 to 20"),
    ("prompt_logprobs", 21, "0 to 20"),
]


@pytest.mark.parametrize(("name", "value", "fragment"), BAD_SAMPLING)
def test_a_sampling_field_out_of_range_is_named_with_what_is_allowed(name: str, value: Any, fragment: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(request_with({name: value}))
    assert caught.value.field == f"sampling.{name}"
    assert fragment in caught.value.message


def ids(*values: int) -> common_pb2.TokenIds:
    return common_pb2.TokenIds(ids=values)


BAD_REQUESTS = [
    (inference_pb2.GenerateRequest(), None, "prompt", "set one of text, token_ids or chat"),
    (inference_pb2.GenerateRequest(text=""), [1], "text", "empty"),
    (inference_pb2.GenerateRequest(text="x"), [], "text", "no tokens"),
    (inference_pb2.GenerateRequest(token_ids=ids()), None, "token_ids", "no tokens"),
    (inference_pb2.GenerateRequest(token_ids=ids(1, VOCAB)), None, "token_ids", "Token id 1000"),
    (inference_pb2.GenerateRequest(token_ids=ids(2**32 - 1)), None, "token_ids", "0 to 999"),
    (request_with({"n": 2}, resume_tokens=[1]), None, "resume_tokens", "n is 2"),
    (request_with({}, resume_tokens=[VOCAB]), None, "resume_tokens", "0 to 999"),
    (request_with({"max_tokens": 2}, resume_tokens=[1, 2]), None, "resume_tokens", "nothing is left"),
    (request_with({}, resume_tokens=[1] * 90), None, "resume_tokens", "may have 90"),
    (request_with({}, resume_tokens=[1, 7]), None, "resume_tokens", "Entry 1 of resume_tokens, 7, is a stop token"),
    (request_with({"min_tokens": 5, "max_tokens": 4}), None, "sampling.min_tokens", "more than max_tokens, 4"),
]


@pytest.mark.parametrize(("request_", "prompt", "field", "fragment"), BAD_REQUESTS)
def test_prompts_resumes_and_lengths_that_cannot_be_are_refused(
    request_: inference_pb2.GenerateRequest, prompt: list[int] | None, field: str, fragment: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(request_, prompt)
    assert caught.value.field == field
    assert fragment in caught.value.message


@pytest.mark.parametrize("prompt_tokens", [CONTEXT, CONTEXT + 1, 5000])
def test_a_prompt_that_fills_the_context_is_refused_with_the_numbers(prompt_tokens: int) -> None:
    with pytest.raises(PromptTooLong, match=rf"{prompt_tokens} tokens .* context 100.* at most 99") as caught:
        check(inference_pb2.GenerateRequest(text="x"), [1] * prompt_tokens)
    assert caught.value.field == "prompt"


GOOD_SAMPLING = [
    ("n", 64),
    ("temperature", 0.0),
    ("temperature", 100.0),
    ("top_p", 1.0),
    ("top_p", 0.0625),
    ("top_k", 0),
    ("top_k", 10 * VOCAB),
    ("min_p", 1.0),
    ("min_p", 0.0),
    ("max_tokens", 1),
    ("max_tokens", 90),
    ("min_tokens", 90),
    ("presence_penalty", -2.0),
    ("frequency_penalty", 2.0),
    ("repetition_penalty", 0.5),
    ("logprobs", 0),
    ("logprobs", 20),
    ("prompt_logprobs", 20),
    ("seed", 0),
    ("seed", 2**64 - 1),
]


@pytest.mark.parametrize(("name", "value"), GOOD_SAMPLING)
def test_a_value_on_the_boundary_passes_unchanged(name: str, value: Any) -> None:
    valid = check(request_with({name: value}))
    assert (valid.n if name == "n" else getattr(valid.sampling, name)) == value


def test_unset_fields_have_the_documented_defaults() -> None:
    valid = check(request_with({}))
    assert valid.sampling == SamplingParams(seed=4242, max_tokens=90, stop_token_ids=EOS)
    assert (valid.n, valid.stop, valid.include_stop, valid.skip_special_tokens) == (1, (), False, True)


def test_text_options_come_through() -> None:
    asked = {"stop": ["x" * 256, "b", "b"], "include_stop_in_output": True, "skip_special_tokens": False}
    valid = check(request_with(asked))
    assert (valid.stop, valid.include_stop, valid.skip_special_tokens) == (("x" * 256, "b"), True, False)


def test_greedy_with_several_choices_is_allowed() -> None:
    assert check(request_with({"n": 3, "temperature": 0.0})).n == 3


@pytest.mark.parametrize(("asked", "got"), [(50, 50), (90, 90), (91, 90), (2**31 - 1, 90)])
def test_max_tokens_is_cut_to_what_the_prompt_leaves_of_the_context(asked: int, got: int) -> None:
    assert check(request_with({"max_tokens": asked})).sampling.max_tokens == got


def test_min_tokens_is_cut_along_with_max_tokens() -> None:
    sampling = check(request_with({"max_tokens": 500, "min_tokens": 200})).sampling
    assert (sampling.min_tokens, sampling.max_tokens) == (90, 90)


def test_the_limit_given_by_the_caller_counts_and_not_the_models_own() -> None:
    request = request_with({})
    assert validate(request, list(request.token_ids.ids), MODEL, 16).sampling.max_tokens == 6


def test_the_last_token_of_the_context_can_be_asked_for() -> None:
    assert check(inference_pb2.GenerateRequest(text="x"), [1] * 99).sampling.max_tokens == 1


def test_eos_ids_stop_unless_ignored_and_stop_ids_are_not_repeated() -> None:
    assert check(request_with({"stop_token_ids": [9, 8, 9]})).sampling.stop_token_ids == (7, 8, 9)
    assert check(request_with({"stop_token_ids": [9, 8], "ignore_eos": True})).sampling.stop_token_ids == (9, 8)


def test_bad_words_are_encoded_with_and_without_a_space_before() -> None:
    tokenizer = MODEL.tokenizer
    sequences = check(request_with({"bad_words": ["fox", " dog"]})).sampling.bad_words
    assert {tokenizer.decode(sequence, False) for sequence in sequences} == {"fox", " fox", "dog", " dog"}
    assert all(list(sequence) == tokenizer.encode(tokenizer.decode(sequence, False), False) for sequence in sequences)


def test_logit_bias_and_allowed_ids_come_through_without_repetitions() -> None:
    sampling = check(request_with({"logit_bias": {5: -100.0, 2: 100.0}, "allowed_token_ids": [3, 0, 3, 999]})).sampling
    assert sampling.logit_bias == ((2, 100.0), (5, -100.0))
    assert sampling.allowed_token_ids == (3, 0, 999)


def test_resume_tokens_short_of_the_end_pass() -> None:
    assert check(request_with({"max_tokens": 3}, resume_tokens=[1, 999])).sampling.max_tokens == 3


def test_resume_tokens_may_hold_eos_where_it_does_not_stop() -> None:
    assert check(request_with({"ignore_eos": True}, resume_tokens=[7, 8])).n == 1
    assert check(request_with({"min_tokens": 2}, resume_tokens=[7, 8])).n == 1


def test_unset_seeds_are_drawn_anew_within_64_bits() -> None:
    seeds = {draw_seed() for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)
    request = request_with({})
    drawn = {validate(request, [1], MODEL, CONTEXT).sampling.seed for _ in range(4)}
    assert len(drawn) == 4
