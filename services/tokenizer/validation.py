"""The door: what a client may ask for. Past it every parameter is within its range and nothing is unset.

Checks raise InvalidRequest with the field's name in the request message, saying what was wrong, what is
allowed and what to do.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.errors import InvalidRequest, PromptTooLong
from engine.sampling import SamplingParams
from engine.text.tokenizer import Tokenizer
from services.tokenizer.text_model import ModelText
from tiercel.v1 import inference_pb2

MAX_CHOICES = 64
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 1024
MAX_LOGIT_BIASES = 1024
MAX_BIAS = 100.0
MAX_BAD_WORDS = 256
MAX_BAD_WORD_CHARS = 256
MAX_PENALTY = 2.0
MAX_PIN_NAME_CHARS = 128
MAX_TENANT_CHARS = 256
"""Of a tenant, and of a salt."""


class ServedModel(Protocol):
    """What the checks need of `TextModel`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def facts(self) -> ModelText: ...


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """What was asked for, resolved. The text fields stay in the tokenizer service."""

    n: int
    sampling: SamplingParams
    """With `max_tokens` cut to the context, the EOS ids among the stop ids unless ignored, and a seed."""
    stop: tuple[str, ...]
    include_stop: bool
    skip_special_tokens: bool


def draw_seed() -> int:
    """64 bits from the operating system, for requests without a seed."""
    return random.SystemRandom().getrandbits(64)


def validate(
    request: inference_pb2.GenerateRequest,
    prompt_token_ids: Sequence[int],
    model: ServedModel,
    max_model_tokens: int,
    new_seed: Callable[[], int] = draw_seed,
) -> ValidRequest:
    """Check a request whose prompt is encoded. Chat messages were checked when they were rendered."""
    asked = request.sampling
    facts = model.facts
    _check_prompt(request, prompt_token_ids, facts)
    _check_pin_name(request.pin_name)
    for field in ("tenant", "cache_salt"):
        _check_length(getattr(request, field), field)
    n = _whole(asked, "n", 1, 1, MAX_CHOICES)
    max_tokens, min_tokens = _lengths(asked, len(prompt_token_ids), max_model_tokens)
    stop_token_ids = _stop_ids(asked, facts)
    _check_resume(request.resume_tokens, n, max_tokens, facts)
    _check_unfinished(request.resume_tokens, stop_token_ids, min_tokens)
    params = SamplingParams(
        temperature=_real(asked, "temperature", 1.0, 0.0, math.inf),
        top_p=_real(asked, "top_p", 1.0, 0.0, 1.0, above=True),
        top_k=_whole(asked, "top_k", 0, 0, None, hint="0 switches it off"),
        min_p=_real(asked, "min_p", 0.0, 0.0, 1.0),
        seed=asked.seed if asked.HasField("seed") else new_seed(),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        presence_penalty=_real(asked, "presence_penalty", 0.0, -MAX_PENALTY, MAX_PENALTY),
        frequency_penalty=_real(asked, "frequency_penalty", 0.0, -MAX_PENALTY, MAX_PENALTY),
        repetition_penalty=_real(asked, "repetition_penalty", 1.0, 0.0, math.inf, above=True),
        logit_bias=_logit_bias(asked, facts),
        allowed_token_ids=_ids(asked.allowed_token_ids, "sampling.allowed_token_ids", facts),
        stop_token_ids=stop_token_ids,
        bad_words=_bad_words(asked, model.tokenizer),
        logprobs=_optional_whole(asked, "logprobs", MAX_LOGPROBS),
        prompt_logprobs=_optional_whole(asked, "prompt_logprobs", MAX_LOGPROBS),
    )
    return ValidRequest(
        n=n,
        sampling=params,
        stop=_stop_strings(asked),
        include_stop=asked.include_stop_in_output,
        skip_special_tokens=asked.skip_special_tokens if asked.HasField("skip_special_tokens") else True,
    )


def _check_prompt(request: inference_pb2.GenerateRequest, ids: Sequence[int], model: ModelText) -> None:
    match request.WhichOneof("prompt"):
        case None:
            raise InvalidRequest("The request has no prompt; set one of text, token_ids or chat.", "prompt")
        case "text" if not request.text:
            raise InvalidRequest("The prompt text is empty; send at least one character.", "text")
        case field if not ids:
            raise InvalidRequest("The prompt has no tokens; send a prompt of at least one.", field)
        case field:
            _check_ids(ids, field, model)


def _check_pin_name(name: str) -> None:
    if len(name) > MAX_PIN_NAME_CHARS or not (name.isprintable() and name == name.strip()):
        raise InvalidRequest(
            f"pin_name is {name[:MAX_PIN_NAME_CHARS]!r}; allowed are up to {MAX_PIN_NAME_CHARS} printable characters "
            "without a space at either end.",
            "pin_name",
        )


def _check_length(value: str, field: str) -> None:
    if len(value) > MAX_TENANT_CHARS:
        raise InvalidRequest(
            f"{field} has {len(value)} characters; at most {MAX_TENANT_CHARS} are allowed. Send a digest of it", field
        )


def _lengths(asked: inference_pb2.SamplingParams, prompt_tokens: int, max_model_tokens: int) -> tuple[int, int]:
    """max_tokens and min_tokens, within what the context has room for."""
    room = max_model_tokens - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"The prompt has {prompt_tokens} tokens and the model's context {max_model_tokens}, which leaves no room "
            f"for an answer; send at most {max_model_tokens - 1}.",
            "prompt",
        )
    limit = _whole(asked, "max_tokens", room, 1, None)
    min_tokens = _whole(asked, "min_tokens", 0, 0, None)
    if min_tokens > limit:
        origin = "max_tokens" if asked.HasField("max_tokens") else "what the prompt leaves of the context"
        raise InvalidRequest(
            f"min_tokens is {min_tokens} and more than {origin}, {limit}; lower min_tokens or allow more tokens.",
            "sampling.min_tokens",
        )
    max_tokens = min(limit, room)
    return max_tokens, min(min_tokens, max_tokens)


def _check_resume(resume: Sequence[int], n: int, max_tokens: int, model: ModelText) -> None:
    if not resume:
        return
    if n != 1:
        raise InvalidRequest(
            f"resume_tokens continue one answer, but n is {n}; set n to 1 or leave out resume_tokens.", "resume_tokens"
        )
    _check_ids(resume, "resume_tokens", model)
    if len(resume) >= max_tokens:
        raise InvalidRequest(
            f"resume_tokens holds {len(resume)} tokens and the answer may have {max_tokens} (max_tokens, or what the "
            "prompt leaves of the context), so nothing is left to generate; the answer is complete.",
            "resume_tokens",
        )


def _check_unfinished(resume: Sequence[int], stop_token_ids: tuple[int, ...], min_tokens: int) -> None:
    for i, token_id in enumerate(resume[min_tokens:], start=min_tokens):
        if token_id in stop_token_ids:
            raise InvalidRequest(
                f"Entry {i} of resume_tokens, {token_id}, is a stop token, so nothing is left to generate; the answer "
                "is complete.",
                "resume_tokens",
            )


def _stop_ids(asked: inference_pb2.SamplingParams, model: ModelText) -> tuple[int, ...]:
    if len(asked.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"There are {len(asked.stop_token_ids)} stop token ids; at most {MAX_STOP_TOKEN_IDS} are allowed.",
            "sampling.stop_token_ids",
        )
    eos = () if asked.ignore_eos else model.eos_token_ids
    return tuple(dict.fromkeys((*eos, *_ids(asked.stop_token_ids, "sampling.stop_token_ids", model))))


def _stop_strings(asked: inference_pb2.SamplingParams) -> tuple[str, ...]:
    _check_texts(asked.stop, "sampling.stop", "stop strings", MAX_STOP_STRINGS, MAX_STOP_CHARS)
    return tuple(dict.fromkeys(asked.stop))


def _bad_words(asked: inference_pb2.SamplingParams, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each word as it is encoded at the start of a word and within one, that is with and without a space before."""
    field = "sampling.bad_words"
    _check_texts(asked.bad_words, field, "bad words", MAX_BAD_WORDS, MAX_BAD_WORD_CHARS)
    sequences: dict[tuple[int, ...], None] = {}
    for word in asked.bad_words:
        bare = word.lstrip()
        if not bare:
            raise InvalidRequest(f"The bad word {word!r} is only white space; send words or leave it out.", field)
        for variant in (bare, " " + bare):
            if ids := tuple(tokenizer.encode(variant, add_special_tokens=False)):
                sequences[ids] = None
    return tuple(sequences)


def _logit_bias(asked: inference_pb2.SamplingParams, model: ModelText) -> tuple[tuple[int, float], ...]:
    field = "sampling.logit_bias"
    if len(asked.logit_bias) > MAX_LOGIT_BIASES:
        raise InvalidRequest(
            f"logit_bias has {len(asked.logit_bias)} entries; at most {MAX_LOGIT_BIASES} are allowed.", field
        )
    _check_ids(asked.logit_bias, field, model)
    for token_id, bias in asked.logit_bias.items():
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise InvalidRequest(
                f"The logit_bias of token {token_id} is {bias:g}; allowed is {-MAX_BIAS:g} to {MAX_BIAS:g}.", field
            )
    return tuple(sorted(asked.logit_bias.items()))


def _check_texts(texts: Sequence[str], field: str, noun: str, most: int, longest: int) -> None:
    if len(texts) > most:
        raise InvalidRequest(f"There are {len(texts)} {noun}; at most {most} are allowed.", field)
    for i, text in enumerate(texts):
        if not 1 <= len(text) <= longest:
            raise InvalidRequest(
                f"Entry {i} of the {noun} has {len(text)} characters; allowed are 1 to {longest}.", field
            )


def _ids(ids: Sequence[int], field: str, model: ModelText) -> tuple[int, ...]:
    """Checked, without repetitions."""
    _check_ids(ids, field, model)
    return tuple(dict.fromkeys(ids))


def _check_ids(ids: Iterable[int], field: str, model: ModelText) -> None:
    for token_id in ids:
        if not 0 <= token_id < model.vocab_size:
            raise InvalidRequest(
                f"Token id {token_id} is not in the model's vocabulary; allowed are 0 to {model.vocab_size - 1}.", field
            )


def _whole(
    asked: inference_pb2.SamplingParams, name: str, default: int, least: int, most: int | None, hint: str = ""
) -> int:
    """An optional integer field, in [least, most]."""
    value: int = getattr(asked, name) if asked.HasField(name) else default
    if value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise InvalidRequest(
            f"{name} is {value}; allowed is {allowed}{f' ({hint})' if hint else ''}.", f"sampling.{name}"
        )
    return value


def _optional_whole(asked: inference_pb2.SamplingParams, name: str, most: int) -> int | None:
    return _whole(asked, name, 0, 0, most) if asked.HasField(name) else None


def _real(
    asked: inference_pb2.SamplingParams, name: str, default: float, least: float, most: float, above: bool = False
) -> float:
    """An optional float field: finite, at least `least` (or above it) and at most `most`."""
    value: float = getattr(asked, name) if asked.HasField(name) else default
    if not math.isfinite(value) or value < least or value > most or (above and value == least):
        low = f"above {least:g}" if above else f"{least:g} or more"
        allowed = low if most == math.inf else f"{low} and at most {most:g}"
        raise InvalidRequest(f"{name} is {value:g}; allowed is a finite number {allowed}.", f"sampling.{name}")
    return value
