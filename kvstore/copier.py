"""Spills and loads: records between the device pool and the host slab, piece by piece.

Called from the executor's copier thread. A record is one contiguous run of bytes on both sides, and records whose
blocks and slots both follow each other become one copy.
"""

from collections.abc import Iterator, Sequence

import torch

from kvstore.streams import CopyStream, Run
from kvstore.transfer import MoveKind


def contiguous_runs(sources: Sequence[int], targets: Sequence[int]) -> Iterator[Run]:
    """The rows, in order, as the fewest runs that are contiguous on both sides."""
    start = 0
    for row in range(1, len(sources) + 1):
        offset = row - start
        if row == len(sources) or sources[row] != sources[start] + offset or targets[row] != targets[start] + offset:
            yield Run(sources[start], targets[start], offset)
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
        """Move the rows, after `fence`; returns the number of copies once their bytes are in place.

        Raises IndexError where a row is outside of the pool or the slab; nothing is copied then.
        """
        device, host = (block_ids, self._pool), (host_slots, self._slab)
        (sources, source), (targets, target) = (device, host) if kind is MoveKind.SPILL else (host, device)
        for name, (rows, tensor) in (("pool", device), ("slab", host)):
            if rows and not 0 <= min(rows) <= max(rows) < len(tensor):
                raise IndexError(f"rows {min(rows)} to {max(rows)} are to be copied; the {name} has {len(tensor)}")
        runs = list(contiguous_runs(sources, targets))
        self.stream.wait(fence)
        try:
            self.stream.copy(target, source, runs)
        finally:
            # After an error too: nobody may have the blocks back while a copy still runs.
            self.stream.finish()
        return len(runs)
