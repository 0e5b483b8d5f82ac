"""Block keys: equal content has equal keys everywhere, anything else has another key."""

import subprocess
import sys
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.blocks.keys import CACHE_SALT, ROPE_LENGTH, KeyChain, block_key, sequence_fields

NAMESPACE = bytes(range(32))
IDS = [7, 0, 2**32 - 1, 300]


def test_a_key_is_the_keyed_hash_of_the_framed_parts() -> None:
    message = (
        NAMESPACE
        + (8).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
        + (515).to_bytes(4, "little")
        + (10).to_bytes(4, "little")
        + b"cache_salt"
        + (2).to_bytes(4, "little")
        + b"ab"
    )
    expected = blake2b(message, digest_size=32, person=b"tiercel.block.v1").digest()
    assert block_key(NAMESPACE, [1, 515], [(CACHE_SALT, b"ab")]) == expected


DIFFERENT = {
    "the block itself": block_key(NAMESPACE, IDS),
    "another namespace": block_key(bytes(32), IDS),
    "another order of ids": block_key(NAMESPACE, IDS[::-1]),
    "one id fewer": block_key(NAMESPACE, IDS[:-1]),
    "a zero more": block_key(NAMESPACE, [*IDS, 0]),
    "a salt": block_key(NAMESPACE, IDS, [(CACHE_SALT, b"a")]),
    "the salt's value under another tag": block_key(NAMESPACE, IDS, [(ROPE_LENGTH, b"a")]),
    "the value moved into the tag": block_key(NAMESPACE, IDS, [(b"cache_salta", b"")]),
    "two fields": block_key(NAMESPACE, IDS, [(CACHE_SALT, b"a"), (ROPE_LENGTH, b"b")]),
    "a value that imitates the second field": block_key(
        NAMESPACE, IDS, [(CACHE_SALT, b"a\x0b\x00\x00\x00rope_length\x01\x00\x00\x00b")]
    ),
    "a field that imitates ids": block_key(NAMESPACE, [], [(IDS[0].to_bytes(4, "little"), b"")]),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_whatever_differs_gives_another_key(name: str) -> None:
    assert [other for other, key in DIFFERENT.items() if key == DIFFERENT[name]] == [name]


def test_the_order_in_which_fields_are_named_does_not_matter() -> None:
    fields = [(CACHE_SALT, b"a"), (ROPE_LENGTH, b"b")]
    assert block_key(NAMESPACE, IDS, fields) == block_key(NAMESPACE, IDS, fields[::-1])


def test_an_empty_salt_is_no_field() -> None:
    assert sequence_fields("") == ()
    assert sequence_fields("x") == ((CACHE_SALT, b"x"),)
    assert sequence_fields("", 9) == ((ROPE_LENGTH, (9).to_bytes(8, "little")),)


def test_keys_are_the_same_in_another_process() -> None:
    code = (
        "from engine.blocks.keys import *; c = KeyChain(bytes(range(32)), 4, sequence_fields('s', 3));"
        "c.extend(list(range(9))); print(c.keys[1].hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    chain = KeyChain(NAMESPACE, 4, sequence_fields("s", 3))
    chain.extend(list(range(9)))
    assert outputs == {chain.keys[1].hex()}


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.integers(1, 7), st.lists(st.integers(0, 40)))
def test_extending_bit_by_bit_names_the_same_blocks(token_ids: list[int], block_size: int, stops: list[int]) -> None:
    fields = sequence_fields("salt")
    whole = KeyChain(NAMESPACE, block_size, fields)
    whole.extend(token_ids)
    by_hand: list[bytes] = []
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = by_hand[-1] if by_hand else NAMESPACE
        by_hand.append(block_key(parent, token_ids[start : start + block_size], () if by_hand else fields))
    grown = KeyChain(NAMESPACE, block_size, fields)
    for stop in [*sorted(stops), len(token_ids)]:
        grown.extend(token_ids[:stop])
    assert whole.keys == grown.keys == by_hand


def test_a_fork_shares_the_first_keys_and_goes_its_own_way() -> None:
    chain = KeyChain(NAMESPACE, 2)
    chain.extend([1, 2, 3, 4])
    fork = chain.fork(1)
    fork.extend([1, 2, 9, 9])
    assert fork.keys[0] == chain.keys[0]
    assert fork.keys[1] != chain.keys[1]
    assert len(chain.keys) == 2


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_an_id_that_does_not_fit_is_an_error(token_id: int) -> None:
    with pytest.raises(OverflowError):
        block_key(NAMESPACE, [token_id])
