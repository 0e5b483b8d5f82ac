"""Names for the small integers that would otherwise be swapped by accident."""

from typing import NewType

BlockId = NewType("BlockId", int)
"""Index of a record in the device pool."""

SeqSlot = NewType("SeqSlot", int)
"""Index of a sequence's persistent state on the worker."""

StepId = NewType("StepId", int)
"""Number of a step plan within one worker session, from 1."""

BlockKey = NewType("BlockKey", bytes)
"""32 bytes that name the content of a full block; see `engine.blocks.keys`."""

HostSlot = NewType("HostSlot", int)
"""Index of a record in the host tier's slab."""

TransferId = NewType("TransferId", int)
"""Number of a transfer between tiers, from 1; never used twice by one scheduler."""
