"""How graphs are captured on CUDA, against a fake of `torch.cuda` that notes what is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from engine.execution import graphs
from engine.execution.graphs import CudaGraphRecorder


class NotingCuda:
    """In place of the module `torch.cuda`: every call, and what runs between, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.side = SimpleNamespace(wait_stream=lambda _: self.notes.append("side waits for current"))
        self.main = SimpleNamespace(wait_stream=lambda _: self.notes.append("current waits for side"))
        self.pools: list[object] = []

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, len(self.notes))

    def Stream(self, device: torch.device) -> SimpleNamespace:
        assert device.type == "cuda"
        return self.side

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=lambda: self.notes.append("replay"))

    def current_stream(self, device: torch.device) -> SimpleNamespace:
        assert device.type == "cuda"
        return self.main

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        assert stream is self.side
        self.notes.append("on side:")
        yield
        self.notes.append("off")

    @contextmanager
    def graph(self, graph: object, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert graph is not None
        assert stream is self.side, "what the warm-up made for a stream is found by the capture"
        assert capture_error_mode == "thread_local"
        self.pools.append(pool)
        self.notes.append("capture:")
        yield
        self.notes.append("end")


def test_work_runs_once_before_it_is_captured_and_all_graphs_share_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = NotingCuda()
    monkeypatch.setattr(graphs, "_cuda", cuda)
    recorder = CudaGraphRecorder(torch.device("cuda", 0))
    first = recorder.record(lambda: cuda.notes.append("work"))
    warm_up = ["side waits for current", "on side:", "work", "off", "current waits for side"]
    assert cuda.notes == [*warm_up, "capture:", "work", "end"]
    recorder.record(lambda: None)
    assert cuda.pools[0] == cuda.pools[1]
    first.replay()
    assert cuda.notes[-1] == "replay"
