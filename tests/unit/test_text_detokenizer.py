"""The incremental detokenizer with real tokenizers: the pieces are the whole text, whole characters each."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.text.detokenizer import Detokenizer
from tests.unit.text_tokenizers import TrainedTokenizer, byte_level, metaspace

BYTE_LEVEL = byte_level()
METASPACE = metaspace()
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, METASPACE], ids=["byte-level", "metaspace"])

SAMPLES = [
    "The fox",
    " leading space",
    "two  spaces   three",
    "你好世界 and 漢字かな",
    "😀👍🏽 👩‍👩‍👧🏳️‍🌈!",
    "naïve café\n\n\tend ",
    "\ufffd is a character too",
]


def chunked(ids: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(ids[at : at + size])
        at += size
    return [*chunks, ids[at:]]


def added_text(tokenizer: TrainedTokenizer, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What the answer adds to the prompt's text, by decoding everything at once."""
    before = tokenizer.decode(list(prompt), True)
    return tokenizer.decode([*prompt, *ids], True).removeprefix(before)


@BOTH
@pytest.mark.parametrize("text", SAMPLES)
def test_one_token_at_a_time_gives_the_text_of_all_tokens(tokenizer: TrainedTokenizer, text: str) -> None:
    prompt = tokenizer.encode("The dog:", True)
    ids = tokenizer.encode(text, False)
    unit = Detokenizer(tokenizer, prompt, True)
    deltas = [unit.push([token_id]) for token_id in ids] + [unit.finish()]
    assert "".join(deltas) == added_text(tokenizer, prompt, ids)
    assert text in "".join(deltas)


@BOTH
@settings(max_examples=150, deadline=None)
@given(
    prompt=st.text(max_size=12),
    text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("你😀é� ab\n"), max_size=30),
    sizes=st.lists(st.integers(0, 12), max_size=12),
)
def test_any_text_in_any_chunks_round_trips(
    tokenizer: TrainedTokenizer, prompt: str, text: str, sizes: list[int]
) -> None:
    prompt_ids = tokenizer.encode(prompt, True)
    ids = tokenizer.encode(text, False)
    unit = Detokenizer(tokenizer, prompt_ids, True)
    result = "".join(unit.push(chunk) for chunk in chunked(ids, sizes)) + unit.finish()
    assert result == added_text(tokenizer, prompt_ids, ids)


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(4, BYTE_LEVEL.inner.get_vocab_size() - 1), max_size=60),
    sizes=st.lists(st.integers(0, 9), max_size=12),
)
def test_any_byte_level_ids_give_the_text_of_decoding_them_together(ids: list[int], sizes: list[int]) -> None:
    prompt = BYTE_LEVEL.encode("The dog:", True)
    unit = Detokenizer(BYTE_LEVEL, prompt, True)
    result = "".join(unit.push(chunk) for chunk in chunked(ids, sizes)) + unit.finish()
    assert result == added_text(BYTE_LEVEL, prompt, ids)


@BOTH
def test_no_delta_ever_ends_within_a_character(tokenizer: TrainedTokenizer) -> None:
    unit = Detokenizer(tokenizer, tokenizer.encode("a", True), True)
    ids = tokenizer.encode("x😀漢👩‍👩‍👧字", False)
    assert len(ids) > 12
    deltas = [unit.push([token_id]) for token_id in ids]
    assert "\ufffd" not in "".join(deltas)
    assert "".join(deltas).endswith("x😀漢👩‍👩‍👧字")
    assert "" in deltas


@BOTH
def test_an_unfinished_character_at_the_end_comes_out_as_replacement_on_finish(tokenizer: TrainedTokenizer) -> None:
    unit = Detokenizer(tokenizer, tokenizer.encode("a", True), True)
    ids = tokenizer.encode("b😀", False)[:-1]
    assert unit.push(ids).strip() == "b"
    assert set(unit.finish()) == {"\ufffd"}


@BOTH
def test_a_character_that_the_prompt_began_is_given_whole(tokenizer: TrainedTokenizer) -> None:
    ids = tokenizer.encode("b😀c", False)
    cut = next(i for i in range(len(ids)) if "\ufffd" in tokenizer.decode(ids[:i], True)) + 1
    unit = Detokenizer(tokenizer, ids[:cut], True)
    assert unit.push(ids[cut:]) + unit.finish() == "😀c"


@BOTH
def test_the_space_between_prompt_and_answer_is_kept(tokenizer: TrainedTokenizer) -> None:
    whole = tokenizer.encode("The dog sleeps", True)
    for cut in range(2, len(whole)):
        unit = Detokenizer(tokenizer, whole[:cut], True)
        said = "".join(unit.push([token_id]) for token_id in whole[cut:]) + unit.finish()
        assert tokenizer.decode(whole[:cut], True) + said == "The dog sleeps"


@BOTH
def test_special_tokens_are_skipped_without_losing_the_space_after_them(tokenizer: TrainedTokenizer) -> None:
    end = tokenizer.token_id("<|end|>")
    prompt = [*tokenizer.encode("The dog", True), *[end] * 40]
    answer = [*tokenizer.encode("The dog", False), *[end] * 100, *tokenizer.encode("The fox", False)]
    unit = Detokenizer(tokenizer, prompt, True)
    result = "".join(unit.push([token_id]) for token_id in answer) + unit.finish()
    assert result == added_text(tokenizer, prompt, answer)
    shown = Detokenizer(tokenizer, prompt, False)
    assert "<|end|>" in shown.push(answer) + shown.finish()


@BOTH
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_pushing_sent_ids_silently_resumes_the_text_exactly(tokenizer: TrainedTokenizer, data: st.DataObject) -> None:
    ids = tokenizer.encode(data.draw(st.sampled_from(SAMPLES)), False)
    cut = data.draw(st.integers(0, len(ids)))
    prompt = tokenizer.encode("The dog:", True)
    first = Detokenizer(tokenizer, prompt, True)
    sent = "".join(first.push([token_id]) for token_id in ids[:cut])
    second = Detokenizer(tokenizer, prompt, True)
    assert second.push(ids[:cut]) == sent
    assert sent + second.push(ids[cut:]) + second.finish() == added_text(tokenizer, prompt, ids)


class CountingTokenizer(TrainedTokenizer):
    """Counts the ids that it is asked to decode."""

    num_decoded = 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        self.num_decoded += len(ids)
        return super().decode(ids, skip_special_tokens)


@pytest.mark.parametrize(
    "answer",
    [
        lambda t: t.encode("The quick brown fox. " * 60, False),
        lambda t: t.encode("😀漢" * 100, False),
        lambda t: [t.token_id("<|end|>")] * 700,
        lambda t: t.encode("\ufffd" * 300, False),
        lambda t: t.encode("😀", False)[:1] * 700,
    ],
    ids=["words", "emoji", "special tokens", "replacement characters", "broken bytes"],
)
@BOTH
def test_the_work_per_token_does_not_grow_with_the_answer(
    tokenizer: TrainedTokenizer, answer: Callable[[TrainedTokenizer], list[int]]
) -> None:
    counting = CountingTokenizer(tokenizer.inner)
    ids = answer(counting)
    unit = Detokenizer(counting, counting.encode("The dog:", True), True)
    for token_id in ids:
        unit.push([token_id])
    unit.finish()
    assert counting.num_decoded < 80 * len(ids) + 1000


def test_text_without_whole_points_is_exact_however_long() -> None:
    prompt = BYTE_LEVEL.encode("a", True)
    for text in ("\ufffd" * 100, "\ufffd" * 100 + "b"):
        ids = BYTE_LEVEL.encode(text, False)
        unit = Detokenizer(BYTE_LEVEL, prompt, True)
        assert "".join(unit.push([token_id]) for token_id in ids) + unit.finish() == text
