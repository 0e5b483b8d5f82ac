"""Lets the tiers' movers know when the model computes. Lives on the engine's thread."""

from collections.abc import Callable, Sequence

from engine.ids import SeqSlot
from engine.scheduling.plan import StepPlan, StepResult
from kvstore.courtesy import ComputeGauge
from services.worker.loaded_engine import StepExecutor


class GaugedExecutor:
    """A `StepExecutor` over another one."""

    def __init__(self, executor: StepExecutor, gauge: ComputeGauge) -> None:
        self._executor = executor
        self._gauge = gauge

    @property
    def void_slots(self) -> Sequence[SeqSlot]:
        return self._executor.void_slots

    def execute(self, plan: StepPlan, on_start: Callable[[], None]) -> StepResult:
        with self._gauge:
            return self._executor.execute(plan, on_start)

    def reset(self) -> None:
        self._executor.reset()
