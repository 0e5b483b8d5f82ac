"""The one thread that owns the model: it loads it, then runs plans back to back from a queue.

The asyncio thread talks gRPC and converts protobuf; here are only plain data. Plans of a session that has ended are
skipped.

What the thread has to say goes through a second, small one, the courier, to the loop. Waking the loop is a system
call, which gives up the interpreter lock; the loop would take it and work while the next plan waits. A put on the
courier's queue keeps the lock, so the next step starts at once and the loop works while the step is in torch.
"""

import asyncio
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVarTuple, Unpack

from engine.ids import SeqSlot, StepId
from engine.scheduling.plan import StepPlan, StepResult
from kvstore.transfer import TierEvents, TierFault, Transfer, TransferResult
from services.common import logs
from services.worker.disk_keeper import DiskKeeper

_log = logs.get_logger(__name__)

Ts = TypeVarTuple("Ts")

LoadProgress = Callable[[int, int], None]
"""Loaded bytes, total bytes."""


class StepExecutor(Protocol):
    """What runs plans: `engine.execution.runner.ModelRunner`."""

    @property
    def void_slots(self) -> Sequence[SeqSlot]:
        """Slots of the last plan that gave no usable logits and are missing in its result."""
        ...

    def execute(self, plan: StepPlan, on_start: Callable[[], None]) -> StepResult:
        """Calls `on_start` once everything is prepared and computing begins.

        Fills `start_ns` and `end_ns` of the timings: when computing began, and when the sampled ids were known.
        """
        ...

    def reset(self) -> None:
        """Forget every sequence."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a loaded worker is; the content of `Ready`."""

    model: str
    fingerprint: str
    namespace: bytes
    block_size_tokens: int
    block_bytes: int
    num_blocks: int
    max_seqs: int
    max_model_tokens: int
    max_batched_tokens: int
    vocab_size: int
    device: str
    dtype: str
    kv_dtype: str
    attention_backend: str
    rope_length_dependent_from_tokens: int

    num_host_slots: int = 0
    host_is_pinned: bool = False
    disk_id: bytes = b""
    """Workers with the same one share a disk tier; empty: there is none."""
    disk_capacity_bytes: int = 0
    host_note: str = ""
    """Why the tier is not there, or not as asked."""
    disk_note: str = ""


TierNews = TransferResult | TierEvents | TierFault


class TierMover(Protocol):
    """What carries transfers out: `kvstore.executor.TierExecutor`. Called on the engine's thread, but for `submit`."""

    def submit(self, transfer: Transfer) -> None:
        """Hand a transfer over, behind all compute so far where it is handed over on the engine's thread.

        Its one result comes as news.
        """
        ...

    def settle(self) -> None:
        """Return when nothing moves any more and all results have been told."""
        ...

    def announce(self) -> None:
        """Tell all that the disk holds."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    executor: StepExecutor
    facts: WorkerFacts
    tiers: TierMover | None = None
    keeper: DiskKeeper | None = None
    """For people's questions about the disk; None where there is none."""


LoadEngine = Callable[[LoadProgress, Callable[[TierNews], None]], LoadedEngine]
"""Called with where to tell progress and, from any thread, the tiers' news."""


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


@dataclass(frozen=True, slots=True)
class _Begin:
    session: EngineSession


@dataclass(frozen=True, slots=True)
class _End:
    session: EngineSession


@dataclass(frozen=True, slots=True)
class _Step:
    session: EngineSession
    plan: StepPlan
    received_ns: int


@dataclass(frozen=True, slots=True)
class _Move:
    session: EngineSession
    transfers: list[Transfer]


@dataclass(frozen=True, slots=True)
class _Leave:
    pass


_Command = _Begin | _End | _Step | _Move | _Leave


class _LoadingStopped(Exception):
    """Raised inside the loader when the process is to end."""


class EngineThread:
    """Every method is called on the loop's thread."""

    def __init__(self, load: LoadEngine, on_progress: LoadProgress) -> None:
        """`load` runs on the engine's thread; `on_progress` is called on the loop's."""
        self._load = load
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._loaded: asyncio.Future[WorkerFacts] = self._loop.create_future()
        self._died: asyncio.Future[None] = self._loop.create_future()
        self._is_leaving = False
        # Whose the transfers in flight are. Switched on the engine's thread when none is, read on the movers'.
        self._moving_for: EngineSession | None = None
        self._tiers: TierMover | None = None
        self.keeper: DiskKeeper | None = None
        """Set before `facts` returns."""
        self._news: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._kept_news: list[Callable[[], object]] = []
        self._courier = threading.Thread(target=self._carry, name="courier", daemon=True)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._courier.start()
        self._thread.start()

    async def facts(self) -> WorkerFacts:
        """Wait for the weights. Raises what the loader raised."""
        return await asyncio.shield(self._loaded)

    async def died(self) -> None:
        """Return never, or raise what ended the thread."""
        await asyncio.shield(self._died)

    def begin(self, session: EngineSession) -> None:
        """All sequences of sessions before this one are void from here on."""
        self._commands.put(_Begin(session))

    def run(self, session: EngineSession, plan: StepPlan, received_ns: int) -> None:
        self._commands.put(_Step(session, plan, received_ns))

    def move(self, session: EngineSession, transfers: list[Transfer]) -> None:
        """In order with the plans of `run`, but for what does not touch the device: that need not wait for a step."""
        tiers = self._tiers
        if tiers is not None and self._moving_for is session and not session.is_void and not self._is_leaving:
            for transfer in transfers:
                if not transfer.block_ids:
                    tiers.submit(transfer)
            transfers = [transfer for transfer in transfers if transfer.block_ids]
        if transfers:
            self._commands.put(_Move(session, transfers))

    def end(self, session: EngineSession) -> None:
        session.is_void = True
        self._commands.put(_End(session))

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Leave after the step that runs now. Loading is given up at its next progress report."""
        self._is_leaving = True
        self._commands.put(_Leave())
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_s)
        self._news.put(None)

    def _work(self) -> None:
        """The engine's thread."""
        try:
            self._run()
        finally:
            self._send_news()

    def _run(self) -> None:
        try:
            engine = self._load(self._report_progress, self._tell_tier_news)
        except _LoadingStopped:
            return
        except BaseException as error:
            self._tell(_fail, self._loaded, error)
            return
        self.keeper, self._tiers = engine.keeper, engine.tiers
        self._tell(_resolve, self._loaded, engine.facts)
        try:
            self._serve(engine.executor, engine.tiers)
        except BaseException as error:
            _log.exception("the engine thread ended")
            self._tell(_fail, self._died, error)
        finally:
            if engine.tiers is not None:
                engine.tiers.close()

    def _report_progress(self, loaded_bytes: int, total_bytes: int) -> None:
        if self._is_leaving:
            raise _LoadingStopped
        self._tell(self._on_progress, loaded_bytes, total_bytes)
        self._send_news()

    def _serve(self, executor: StepExecutor, tiers: TierMover | None) -> None:
        current: EngineSession | None = None
        last_end_ns = 0
        while True:
            match self._next_command():
                case _Step(session, plan, received_ns):
                    if session is current and not session.is_void:
                        last_end_ns = self._step(executor, session, plan, received_ns, last_end_ns)
                case _Move(session, transfers):
                    assert tiers is not None, "a worker without tiers was sent transfers"
                    if session is current and not session.is_void:
                        for transfer in transfers:
                            tiers.submit(transfer)
                case _Begin(session):
                    current = session
                    executor.reset()
                    if tiers is not None:
                        tiers.settle()
                        self._moving_for = session
                        tiers.announce()
                case _End(session):
                    if session is current:
                        current = None
                        executor.reset()
                case _Leave():
                    return

    def _next_command(self) -> _Command:
        try:
            return self._commands.get_nowait()
        except queue.Empty:
            self._send_news()
            return self._commands.get()

    def _step(
        self, executor: StepExecutor, session: EngineSession, plan: StepPlan, received_ns: int, last_end_ns: int
    ) -> int:
        """Run one plan; returns when it ended. A fault in it stays within its session."""
        try:
            result = executor.execute(plan, self._send_news)
        except Exception as error:
            _log.exception("step failed, the session is void", extra=logs.fields(step_id=plan.step_id))
            session.is_void = True
            executor.reset()
            self._tell(session.on_outcome, StepFault(type(error).__name__, str(error), [], plan.step_id))
            return time.monotonic_ns()
        timings = result.timings
        timings.received_ns = received_ns
        timings.gap_ns = timings.start_ns - last_end_ns if 0 < received_ns <= last_end_ns else 0
        if executor.void_slots:
            # Before the result, so that the scheduler does not miss these slots in it.
            message = "the model's logits are not finite for this sequence"
            self._tell(
                session.on_outcome, StepFault("NonFiniteLogits", message, list(executor.void_slots), plan.step_id)
            )
        self._tell(session.on_outcome, result)
        return timings.end_ns

    def _tell(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Have `callback` called on the loop's thread, in the order of the calls of this method.

        It waits until the next step computes, or until there is none: the loop's thread would otherwise take the
        interpreter lock while that step is prepared, and the device would idle.
        """
        self._kept_news.append(functools.partial(callback, *args))

    def _tell_tier_news(self, news: TierNews) -> None:
        """Called on the movers' threads. What an earlier session had in flight is nobody's business any more."""
        session = self._moving_for
        if session is not None:
            self._news.put(functools.partial(session.on_outcome, news))

    def _send_news(self) -> None:
        for call in self._kept_news:
            self._news.put(call)
        self._kept_news.clear()

    def _carry(self) -> None:
        """The courier's thread."""
        while (call := self._news.get()) is not None:
            try:
                self._loop.call_soon_threadsafe(call)
            except RuntimeError:
                # The loop has closed: the process is leaving, nobody listens any more.
                self._is_leaving = True
                return


def _resolve(future: asyncio.Future[WorkerFacts], facts: WorkerFacts) -> None:
    if not future.done():
        future.set_result(facts)


def _fail(future: "asyncio.Future[WorkerFacts] | asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
