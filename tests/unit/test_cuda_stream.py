"""The copies' stream on CUDA, and the slab's registration, against fakes of `torch.cuda`'s parts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvstore import slab as slab_module
from kvstore import streams
from kvstore.slab import HostSlab
from kvstore.streams import CudaStream, Run
from tests.fakes.cuda_streams import FakeCuda, QueuedTensor

CUDA = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(streams, "_cuda", fake)
    return fake


def queued(cuda: FakeCuda, tensor: torch.Tensor) -> Any:
    return QueuedTensor(cuda, tensor)


def test_copies_follow_the_compute_before_them_and_are_done_after_finish(cuda: FakeCuda) -> None:
    pool, slab = torch.zeros(2, 8), torch.zeros(2, 8)
    stream = CudaStream(CUDA)
    cuda.compute.queue.append(lambda: pool.fill_(7))
    fence = stream.fence()
    cuda.compute.queue.append(lambda: pool.fill_(9))
    stream.wait(fence)
    stream.copy(queued(cuda, slab), queued(cuda, pool), [Run(0, 0, 1), Run(1, 1, 1)])
    assert not slab.any(), "nothing is done before somebody waits"
    assert len(cuda.compute.queue) == 2, "copies are on a stream of their own"
    stream.finish()
    assert slab.eq(7).all(), "what the compute before the fence wrote, and not what came later"


def test_finish_covers_what_was_copied_since_the_last_one(cuda: FakeCuda) -> None:
    stream = CudaStream(CUDA)
    source, target = torch.ones(1, 4), torch.zeros(3, 4)
    for i in range(3):
        stream.wait(stream.fence())
        stream.copy(queued(cuda, target), queued(cuda, source), [Run(0, i, 1)])
        stream.finish()
        assert target.sum() == 4 * (i + 1)


def registering(result: Callable[[], int], calls: list[tuple[str, int]]) -> SimpleNamespace:
    """`torch.cuda` as far as a slab knows it."""

    def register(address: int, num_bytes: int, flags: int) -> int:
        assert flags == 0
        calls.append(("register", num_bytes))
        assert address % 4096 == 0
        return result()

    def unregister(address: int) -> int:
        calls.append(("unregister", address))
        return 0

    runtime = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=unregister)
    return SimpleNamespace(cudart=lambda: runtime)


def test_the_slab_is_registered_as_it_is_and_let_go_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(slab_module, "_cuda", registering(lambda: 0, calls))
    slab = HostSlab(5, 192, CUDA)
    assert slab.is_pinned
    assert slab.pin_failure is None
    address = slab.tensor.data_ptr()
    slab.close()
    slab.close()
    assert calls == [("register", 960), ("unregister", address)]


def test_a_slab_that_cannot_be_registered_says_so_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_module, "_cuda", registering(lambda: 2, []))
    slab = HostSlab(5, 192, CUDA)
    assert not slab.is_pinned
    assert "returned error 2" in str(slab.pin_failure)
    assert "ulimit -l" in str(slab.pin_failure)
    slab.slot(0)[:] = bytes(192)
    slab.close()
