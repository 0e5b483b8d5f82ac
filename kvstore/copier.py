"""Spills and loads: records between the device pool and the host slab, piece by piece.

Called from the executor's copier thread. A record is one contiguous run of bytes on both sides, and records whose
blocks and slots both follow each other become one copy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kvstore.streams import CopyStream
from kvstore.transfer import MoveKind


@dataclass(frozen=True, slots=True)
class Run:
    """`num_rows` records from `block_id` and `host_slot` on."""

    block_id: int
    host_slot: int
    num_rows: int


def contiguous_runs(block_ids: Sequence[int], host_slots: Sequence[int]) -> Iterator[Run]:
    """The rows, in order, as the fewest runs that are contiguous on both sides."""
    start = 0
    for row in range(1, len(block_ids) + 1):
        offset = row - start
        if (
            row == len(block_ids)
            or block_ids[row] != block_ids[start] + offset
            or host_slots[row] != host_slots[start] + offset
        ):
            yield Run(block_ids[start], host_slots[start], offset)
            start = row


class BlockCopier:
    """Copies between `pool`, `uint8[num_blocks, block_bytes]`, and `slab`, `uint8[num_slots, block_bytes]`.

    Owns neither. Not thread-safe, except that `stream.fence` belongs to the compute thread.
    """

    def __init__(self, pool: torch.Tensor, slab: torch.Tensor, stream: CopyStream) -> None:
        for name, tensor in (("pool", pool), ("slab", slab)):
            if tensor.dtype != torch.uint8 or tensor.dim() != 2 or not tensor.is_contiguous():
                raise ValueError(
                    f"the {name} is a contiguous uint8[rows, block_bytes], not {tensor.dtype}{list(tensor.shape)}"
                )
        if pool.shape[1] != slab.shape[1]:
            raise ValueError(f"a block has {pool.shape[1]} bytes and a host slot {slab.shape[1]}; they must be equal")
        self._pool = pool
        self._slab = slab
        self.stream = stream

    @property
    def block_bytes(self) -> int:
        return self._pool.shape[1]

    def copy(self, kind: MoveKind, block_ids: Sequence[int], host_slots: Sequence[int], fence: object) -> int:
        """Move the rows, after `fence`; returns the number of copies once their bytes are in place."""
        pairs = [self._pair(kind, run) for run in contiguous_runs(block_ids, host_slots)]
        self.stream.wait(fence)
        try:
            self.stream.copy(pairs)
        finally:
            # After an error too: nobody may have the blocks back while a copy still runs.
            self.stream.finish()
        return len(pairs)

    def _pair(self, kind: MoveKind, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
        """Target and source of one copy."""
        device = self._pool[run.block_id : run.block_id + run.num_rows]
        host = self._slab[run.host_slot : run.host_slot + run.num_rows]
        # An id past the end gives a short slice, which no copy may silently accept.
        assert len(device) == len(host) == run.num_rows, f"{run} is not within the pool and the slab"
        return (host, device) if kind is MoveKind.SPILL else (device, host)
