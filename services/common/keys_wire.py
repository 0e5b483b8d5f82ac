"""Block keys as one field of bytes: 32 each, without a length."""

from collections.abc import Iterable

from engine.blocks.keys import KEY_BYTES
from engine.errors import InvalidRequest
from engine.ids import BlockKey


def keys_to_wire(keys: Iterable[bytes]) -> bytes:
    return b"".join(keys)


def keys_from_wire(packed: bytes) -> list[BlockKey]:
    """Raises InvalidRequest where the bytes are not a whole number of keys."""
    if len(packed) % KEY_BYTES:
        raise InvalidRequest(f"{len(packed)} bytes of keys are no multiple of {KEY_BYTES}; run one release of all")
    return [BlockKey(packed[i : i + KEY_BYTES]) for i in range(0, len(packed), KEY_BYTES)]
