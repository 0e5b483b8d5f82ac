"""When a call that waits for something to send is woken, and what it takes."""

import asyncio

import pytest

from engine.errors import WorkerLost
from services.tokenizer.mailbox import Mailbox


async def _is_woken(mailbox: Mailbox) -> bool:
    """Whether `take` has something now; what it has stays."""
    taking = asyncio.ensure_future(mailbox.take())
    for _ in range(3):
        await asyncio.sleep(0)
    if taking.done():
        return True
    taking.cancel()
    return False


async def _taken_ids(mailbox: Mailbox) -> list[tuple[int, list[int]]]:
    events = await mailbox.take()
    assert events is not None
    return [(event.delta.index, list(event.delta.token_ids)) for event in events]


async def test_without_an_interval_each_token_wakes() -> None:
    mailbox = Mailbox()
    for token in range(3):
        mailbox.put_delta(0, "a", [token], None)
        assert await _taken_ids(mailbox) == [(0, [token])]


async def test_the_first_token_comes_at_once_and_then_as_many_as_the_interval() -> None:
    mailbox = Mailbox(3)
    mailbox.put_delta(0, "a", [1], None)
    assert await _taken_ids(mailbox) == [(0, [1])]
    for token in (2, 3):
        mailbox.put_delta(0, "b", [token], None)
        assert not await _is_woken(mailbox)
    mailbox.put_delta(0, "b", [4], None)
    assert await _taken_ids(mailbox) == [(0, [2, 3, 4])]


async def test_each_choice_has_its_own_first_token() -> None:
    mailbox = Mailbox(8)
    mailbox.put_delta(0, "a", [1], None)
    assert await _taken_ids(mailbox) == [(0, [1])]
    mailbox.put_delta(0, "a", [2], None)
    assert not await _is_woken(mailbox)
    mailbox.put_delta(1, "b", [3], None)
    assert await _taken_ids(mailbox) == [(0, [2]), (1, [3])]


async def test_the_end_does_not_wait_for_more() -> None:
    mailbox = Mailbox(8)
    mailbox.put_delta(0, "a", [1], None)
    await mailbox.take()
    mailbox.put_delta(0, "b", [2], None)
    mailbox.end()
    assert await _taken_ids(mailbox) == [(0, [2])]
    assert await mailbox.take() is None


async def test_an_error_comes_after_what_was_there() -> None:
    mailbox = Mailbox(8)
    mailbox.put_delta(0, "a", [1], None)
    await mailbox.take()
    mailbox.put_delta(0, "b", [2], None)
    mailbox.fail(WorkerLost("gone"))
    assert await _taken_ids(mailbox) == [(0, [2])]
    with pytest.raises(WorkerLost):
        await mailbox.take()
