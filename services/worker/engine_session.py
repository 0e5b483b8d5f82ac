"""One scheduler's hold on the engine, and what comes of its plans and transfers."""

from collections.abc import Callable
from dataclasses import dataclass

from engine.ids import SeqSlot, StepId
from engine.scheduling.plan import StepResult
from services.worker.loaded_engine import TierNews


@dataclass(frozen=True, slots=True)
class StepFault:
    """What broke in a step. No slots: the whole session is void."""

    kind: str
    message: str
    slots: list[SeqSlot]
    step_id: StepId


Outcome = StepResult | StepFault | TierNews


class EngineSession:
    """One scheduler's hold on the engine. Outcomes come to `on_outcome` on the loop's thread, in order."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self.on_outcome = on_outcome
        # Written by the loop's thread or after a fault by the engine's, only ever to True; a late read costs one step.
        self.is_void = False
