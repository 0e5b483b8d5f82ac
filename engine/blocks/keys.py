"""Names for the content of full blocks.

A block key is a BLAKE2b-256 chain: over the parent's key, the block's token ids, and tagged fields for whatever
else changes K and V. The first parent is the worker's namespace (weights, dtypes, shapes, block size), so equal
keys mean equal bytes, in this process and in any other. Nothing here depends on the process, the machine's byte
order or `PYTHONHASHSEED`.
"""

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from engine.ids import BlockKey

KEY_BYTES = 32

CACHE_SALT = b"cache_salt"
ROPE_LENGTH = b"rope_length"

_PERSON = b"tiercel.block.v1"

Field = tuple[bytes, bytes]
"""A tag and its value."""


def block_key(parent: bytes, token_ids: Sequence[int], fields: Sequence[Field] = ()) -> BlockKey:
    """The key of a full block whose predecessor has the key `parent` (the namespace for the first block).

    Every part has a fixed size or carries its length, so no two inputs give the same message.
    Raises OverflowError for an id outside of 0 .. 2**32 - 1.
    """
    return _digest(parent, _pack(token_ids), _frame(fields))


def sequence_fields(cache_salt: str = "", rope_length_tokens: int | None = None) -> tuple[Field, ...]:
    """What changes K and V of a whole sequence besides its ids. An empty salt is no field at all."""
    fields: list[Field] = []
    if cache_salt:
        fields.append((CACHE_SALT, cache_salt.encode()))
    if rope_length_tokens is not None:
        fields.append((ROPE_LENGTH, rope_length_tokens.to_bytes(8, "little")))
    return tuple(fields)


class KeyChain:
    """The keys of one sequence's full blocks, extended as its tokens become known.

    The fields enter the first block; the chain carries them to all others.
    """

    __slots__ = ("_block_size", "_framed", "_namespace", "keys")

    def __init__(self, namespace: bytes, block_size: int, fields: Sequence[Field] = ()) -> None:
        self._namespace = namespace
        self._block_size = block_size
        self._framed = _frame(fields)
        self.keys: list[BlockKey] = []
        """Key i names tokens `[i * block_size, (i + 1) * block_size)`. Owned by the chain."""

    def extend(self, token_ids: list[int]) -> None:
        """Name the blocks that have become full. `token_ids` are all ids so far; only new blocks cost anything."""
        keys, size = self.keys, self._block_size
        first, last = len(keys), len(token_ids) // size
        if last <= first:
            return
        packed = memoryview(_pack(token_ids[first * size : last * size]))
        parent: bytes = keys[-1] if keys else self._namespace
        framed = b"" if keys else self._framed
        for offset in range(0, len(packed), size * 4):
            key = _digest(parent, packed[offset : offset + size * 4], framed)
            keys.append(key)
            parent, framed = key, b""

    def fork(self, num_blocks: int) -> "KeyChain":
        """A chain of its own that starts with the first `num_blocks` keys of this one."""
        fork = KeyChain(self._namespace, self._block_size)
        fork._framed = self._framed
        fork.keys = self.keys[:num_blocks]
        return fork


def _digest(parent: bytes, packed: bytes | memoryview, framed: bytes) -> BlockKey:
    assert len(parent) == KEY_BYTES, f"a parent has {KEY_BYTES} bytes, not {len(parent)}"
    digest = blake2b(parent, digest_size=KEY_BYTES, person=_PERSON)
    digest.update(len(packed).to_bytes(4, "little"))
    digest.update(packed)
    if framed:
        digest.update(framed)
    return BlockKey(digest.digest())


def _pack(token_ids: Sequence[int]) -> bytes:
    """Little-endian uint32, one per id."""
    packed = array("I", token_ids)
    assert packed.itemsize == 4
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _frame(fields: Sequence[Field]) -> bytes:
    """Each tag and each value behind its length; sorted, so that the order of mention does not matter."""
    parts: list[bytes] = []
    for field in sorted(fields):
        for part in field:
            parts += (len(part).to_bytes(4, "little"), part)
    return b"".join(parts)
