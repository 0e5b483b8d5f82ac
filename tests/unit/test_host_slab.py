"""The host tier's memory."""

import mmap

import pytest
import torch

from kvstore.errors import HostMemoryError, TierConfigError
from kvstore.slab import HostSlab

CPU = torch.device("cpu")


def test_slots_and_tensor_are_the_same_bytes() -> None:
    slab = HostSlab(5, 192, CPU)
    slab.slot(3)[:] = bytes(range(192))
    assert slab.tensor.shape == (5, 192)
    assert slab.tensor[3].tolist() == list(range(192))
    slab.tensor[4].fill_(7)
    assert bytes(slab.slot(4)) == b"\x07" * 192
    assert not any(slab.slot(2))


def test_the_region_is_exact_page_aligned_and_not_pinned_on_a_cpu() -> None:
    slab = HostSlab(7, 64, CPU)
    assert slab.num_bytes == 448
    assert slab.tensor.data_ptr() % mmap.PAGESIZE == 0
    assert not slab.is_pinned
    assert slab.pin_failure is None


def test_progress_reaches_the_end() -> None:
    steps: list[tuple[int, int]] = []
    HostSlab(3, 100 << 20, CPU, lambda done, total: steps.append((done, total)))
    assert steps == [(256 << 20, 300 << 20), (300 << 20, 300 << 20)]


def test_memory_that_is_not_there_is_refused_before_it_is_touched() -> None:
    with pytest.raises(HostMemoryError, match=r"cannot have 1048576.00 GiB: .* GiB are available. Make it smaller"):
        HostSlab(1 << 20, 1 << 30, CPU)


def test_no_slot_at_all_is_refused() -> None:
    with pytest.raises(TierConfigError, match="0 to switch it off"):
        HostSlab(0, 64, CPU)


def test_a_slot_outside_of_the_slab_is_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError):
        HostSlab(2, 64, CPU).slot(2)
