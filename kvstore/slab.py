"""The host tier's memory: one exact region of record-sized slots, filled in before use and page-locked on CUDA.

Which slot holds what is the scheduler's business. torch's pinned allocator rounds up to a power of two (20.4 GiB
become 32), hence the anonymous mapping that is registered with CUDA as it is.
"""

from collections.abc import Callable
from typing import Any

import torch

from kernels.huge_pages import anonymous_map
from kvstore.errors import HostMemoryError, TierConfigError
from kvstore.host_memory import available_bytes

Progress = Callable[[int, int], None]
"""Bytes done, bytes in all."""

_PIECE_BYTES = 256 << 20
_cuda: Any = torch.cuda  # its functions have no annotations


class HostSlab:
    """Owns `num_slots * slot_bytes` bytes, page-aligned and resident, until `close`."""

    def __init__(
        self, num_slots: int, slot_bytes: int, device: torch.device, on_progress: Progress | None = None
    ) -> None:
        """Takes the memory and touches every page of it; `on_progress` is called between pieces.

        Raises TierConfigError for a size that makes no sense and HostMemoryError where the memory is not there.
        """
        if num_slots < 1 or slot_bytes < 1:
            raise TierConfigError(
                f"A host tier of {num_slots} slots of {slot_bytes} bytes holds nothing; give it room for at least one "
                f"block, or 0 to switch it off"
            )
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes
        self.num_bytes = num_slots * slot_bytes
        _require_memory(self.num_bytes)
        try:
            self._map = anonymous_map(self.num_bytes)
        except OSError as error:
            raise _no_memory(self.num_bytes, str(error)) from error
        flat = torch.frombuffer(self._map, dtype=torch.uint8)
        for start in range(0, self.num_bytes, _PIECE_BYTES):
            stop = min(start + _PIECE_BYTES, self.num_bytes)
            flat[start:stop].zero_()
            if on_progress is not None:
                on_progress(stop, self.num_bytes)
        self.tensor = flat.view(num_slots, slot_bytes)
        """`uint8[num_slots, slot_bytes]` over the region; writes go through."""
        self._bytes = memoryview(self._map)
        self.pin_failure: str | None = None
        """Why the region is not page-locked although the device is CUDA. Copies then work, but slower."""
        self.is_pinned = False
        if device.type == "cuda":
            self._pin()

    def slot(self, number: int) -> memoryview:
        """The bytes of one slot, writable."""
        assert 0 <= number < self.num_slots, f"slot {number} of {self.num_slots}"
        return self._bytes[number * self.slot_bytes : (number + 1) * self.slot_bytes]

    def close(self) -> None:
        """Let go of the memory. It returns to the system with the last view of it; no copy may be under way."""
        if self.is_pinned:
            _cuda.cudart().cudaHostUnregister(self.tensor.data_ptr())
            self.is_pinned = False
        self.tensor = torch.empty(0, self.slot_bytes, dtype=torch.uint8)
        self._bytes = memoryview(b"")
        self.num_slots = 0

    def _pin(self) -> None:
        try:
            code = int(_cuda.cudart().cudaHostRegister(self.tensor.data_ptr(), self.num_bytes, 0))
        except RuntimeError as error:
            self.pin_failure = f"cudaHostRegister of {self.num_bytes} bytes failed: {error}"
            return
        if code == 0:
            self.is_pinned = True
        else:
            self.pin_failure = (
                f"cudaHostRegister of {self.num_bytes} bytes returned error {code}; the host tier goes on unpinned. "
                f"Raise the limit of locked memory (ulimit -l) or make the host tier smaller"
            )


def _require_memory(num_bytes: int) -> None:
    """Refuse what is not there: the kernel would grant it now and kill the process when it is touched."""
    available = available_bytes()
    if num_bytes > available:
        raise _no_memory(num_bytes, f"{available / 2**30:.2f} GiB are available")


def _no_memory(num_bytes: int, reason: str) -> HostMemoryError:
    return HostMemoryError(
        f"The host tier cannot have {num_bytes / 2**30:.2f} GiB: {reason}. Make it smaller, or 0 to go without"
    )
