"""Stop strings across any cut of the text, and the ids that belong to a stopped answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.text.answer import Answer
from engine.text.detokenizer import Detokenizer
from engine.text.stop_strings import StopStrings
from tests.unit.text_tokenizers import TrainedTokenizer, byte_level, metaspace


def by_definition(text: str, stops: list[str], include_stop: bool) -> tuple[str, str | None]:
    """The first end of text at which a stop is complete; of several there, the longest."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return (text[:end] if include_stop else text[: end - len(stop)]), stop
    return text, None


def streamed(pieces: list[str], stops: list[str], include_stop: bool) -> tuple[list[str], str | None]:
    unit = StopStrings(stops, include_stop)
    shown = []
    for piece in pieces:
        scan = unit.feed(piece)
        shown.append(scan.text)
        if scan.stop is not None:
            return shown, scan.stop
    return [*shown, unit.flush()], None


small = st.text("ab\n", min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", max_size=5), max_size=10), stops=st.lists(small, max_size=4), include=st.booleans()
)
def test_any_cut_of_the_text_gives_the_match_of_the_whole(pieces: list[str], stops: list[str], include: bool) -> None:
    shown, stop = streamed(pieces, stops, include)
    assert ("".join(shown), stop) == by_definition("".join(pieces), stops, include)


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.text("ab", max_size=3), max_size=10), stop=small)
def test_nothing_shown_is_ever_taken_back_and_only_a_possible_start_is_held(pieces: list[str], stop: str) -> None:
    unit = StopStrings([stop], False)
    fed = shown = ""
    for piece in pieces:
        scan = unit.feed(piece)
        fed, shown = fed + piece, shown + scan.text
        if scan.stop:
            break
        assert fed.startswith(shown)
        assert stop.startswith(fed[len(shown) :])
        assert all(not stop.startswith(fed[at:]) for at in range(len(shown)))


def test_a_stop_in_the_middle_of_a_piece_drops_what_follows() -> None:
    assert streamed(["one END two"], ["END"], False) == (["one "], "END")
    assert streamed(["one END two"], ["END"], True) == (["one END"], "END")


def test_of_two_stops_complete_at_once_the_longer_hides_more() -> None:
    assert streamed(list("say \n\nUser:"), [":", "\n\nUser:"], False)[1] == "\n\nUser:"
    assert "".join(streamed(list("say \n\nUser:"), [":", "\n\nUser:"], False)[0]) == "say "


def test_text_held_for_a_stop_that_never_comes_is_flushed() -> None:
    assert streamed(["abc EN"], ["END"], False) == (["abc ", "EN"], None)


TOKENIZERS = pytest.mark.parametrize("tokenizer", [byte_level(), metaspace()], ids=["byte-level", "metaspace"])


def answer(tokenizer: TrainedTokenizer, stops: list[str], include_stop: bool = False) -> Answer:
    detokenizer = Detokenizer(tokenizer, tokenizer.encode("Say:", True), True)
    return Answer(detokenizer, StopStrings(stops, include_stop), include_stop)


@TOKENIZERS
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("stop", ["fox jumps", "漢😀", "n fo", "."])
def test_a_stopped_answer_holds_the_ids_up_to_the_one_that_completed_the_stop(
    tokenizer: TrainedTokenizer, stop: str, include: bool
) -> None:
    ids = tokenizer.encode("The brown fox jumps, 漢😀 over the dog. End", False)
    deltas = []
    unit = answer(tokenizer, [stop], include)
    for at in range(0, len(ids), 3):
        deltas.append(unit.push(ids[at : at + 3]))
        if deltas[-1].stop:
            break
    kept = [token_id for delta in deltas for token_id in delta.token_ids]
    assert deltas[-1].stop == stop
    assert kept == ids[: len(kept)]
    assert stop in tokenizer.decode(kept, True)
    assert stop not in tokenizer.decode(kept[:-1], True)
    shown = "".join(delta.text for delta in deltas).lstrip()
    assert shown == by_definition(tokenizer.decode(ids, True), [stop], include)[0]


@TOKENIZERS
def test_finishing_gives_what_was_held_and_a_stop_token_only_its_id(tokenizer: TrainedTokenizer) -> None:
    dot = tokenizer.token_id(".")
    ids = tokenizer.encode("the fox ru", False)
    hidden = answer(tokenizer, ["runs"])
    text = hidden.push(ids).text
    assert text.strip() == "the fox"
    end = hidden.finish(dot)
    assert (end.text, end.token_ids, end.stop) == ("ru", [dot], None)
    shown = answer(tokenizer, ["runs"], include_stop=True)
    shown.push(ids)
    assert shown.finish(dot).text == "ru."


@TOKENIZERS
def test_a_stop_that_only_the_last_flush_completes_is_still_found(tokenizer: TrainedTokenizer) -> None:
    ids = tokenizer.encode("b😀", False)[:-1]
    unit = answer(tokenizer, ["\ufffd"])
    assert unit.push(ids).stop is None
    assert unit.finish().stop == "\ufffd"


@TOKENIZERS
def test_a_resumed_answer_goes_on_within_a_begun_stop_string(tokenizer: TrainedTokenizer) -> None:
    ids = tokenizer.encode("The brown fox jumps, 漢😀 over", False)
    for cut in range(len(ids)):
        whole, resumed = answer(tokenizer, ["jumps, 漢"]), answer(tokenizer, ["jumps, 漢"])
        if whole.push(ids[:cut]).stop is not None:
            with pytest.raises(InvalidRequest, match="complete the stop string"):
                resumed.resume(ids[:cut])
            return
        resumed.resume(ids[:cut])
        assert resumed.push(ids[cut:]) == whole.push(ids[cut:])
    pytest.fail("no cut was behind the stop string")
