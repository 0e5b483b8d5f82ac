"""A fake of CUDA graphs that replays operations, not Python: what it recorded is all that it does, to the same tensors.

So, as with a graph, a value that the host has put into an operation stays what it was, a tensor that was made while
recording keeps its place, and work that asks the device for a value cannot be recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.fakes.sync_watch import SyncWatch


@dataclass
class Operation:
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    results: list[torch.Tensor]
    """Those with memory of their own."""

    def replay(self) -> None:
        again = tree_leaves(self.function(*self.args, **self.kwargs))
        own = [tensor for tensor in again if isinstance(tensor, torch.Tensor)] if self.results else []
        for kept, new in zip(self.results, own, strict=bool(self.results)):
            kept.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, operations: list[Operation]) -> None:
        super().__init__()
        self._operations = operations

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        outputs = [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]
        own = [tensor for tensor in outputs if tensor.untyped_storage().data_ptr() not in memory]
        assert not own or len(own) == len(outputs), f"{func} gives both views and tensors of its own"
        is_mutable = func._schema.is_mutable  # type: ignore[attr-defined]
        # A view stays a view of the same memory, so there is nothing to do again.
        if own or is_mutable:
            self._operations.append(Operation(func, args, kwargs, own))
        return results


@dataclass
class RecordedOperations:
    operations: list[Operation] = field(default_factory=list)
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        for operation in self.operations:
            operation.replay()


@dataclass
class OperationRecorder:
    graphs: list[RecordedOperations] = field(default_factory=list)

    def record(self, work: Callable[[], object]) -> RecordedOperations:
        work()
        graph = RecordedOperations()
        with _Recording(graph.operations), SyncWatch():
            work()
        self.graphs.append(graph)
        return graph

    @property
    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.graphs)
