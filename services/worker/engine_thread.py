"""The one thread that owns the model: it loads it, then runs plans back to back from a queue.

The asyncio thread talks gRPC and converts protobuf; here are only plain data. Plans of a session that has ended are
skipped. What the thread has to say goes through `services.worker.courier`.
"""

import asyncio
import queue
import threading
import time
from dataclasses import dataclass

from engine.scheduling.plan import StepPlan
from kvstore.transfer import Transfer
from services.common import logs
from services.worker.courier import Courier
from services.worker.disk_keeper import DiskKeeper
from services.worker.engine_session import EngineSession, StepFault
from services.worker.loaded_engine import LoadEngine, LoadProgress, StepExecutor, TierMover, TierNews, WorkerFacts

_log = logs.get_logger(__name__)


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
        self._courier = Courier(self._loop)
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
        self._courier.stop()

    def _work(self) -> None:
        """The engine's thread."""
        try:
            self._run()
        finally:
            self._courier.send()

    def _run(self) -> None:
        try:
            engine = self._load(self._report_progress, self._tell_tier_news)
        except _LoadingStopped:
            return
        except BaseException as error:
            self._courier.keep(_fail, self._loaded, error)
            return
        self.keeper, self._tiers = engine.keeper, engine.tiers
        self._courier.keep(_resolve, self._loaded, engine.facts)
        try:
            self._serve(engine.executor, engine.tiers)
        except BaseException as error:
            _log.exception("the engine thread ended")
            self._courier.keep(_fail, self._died, error)
        finally:
            if engine.tiers is not None:
                engine.tiers.close()

    def _report_progress(self, loaded_bytes: int, total_bytes: int) -> None:
        if self._is_leaving or self._courier.has_stopped:
            raise _LoadingStopped
        self._courier.keep(self._on_progress, loaded_bytes, total_bytes)
        self._courier.send()

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
            self._courier.send()
            return self._commands.get()

    def _step(
        self, executor: StepExecutor, session: EngineSession, plan: StepPlan, received_ns: int, last_end_ns: int
    ) -> int:
        """Run one plan; returns when it ended. A fault in it stays within its session."""
        try:
            result = executor.execute(plan, self._courier.send)
        except Exception as error:
            _log.exception("step failed, the session is void", extra=logs.fields(step_id=plan.step_id))
            session.is_void = True
            executor.reset()
            self._courier.keep(session.on_outcome, StepFault(type(error).__name__, str(error), [], plan.step_id))
            return time.monotonic_ns()
        timings = result.timings
        timings.received_ns = received_ns
        timings.gap_ns = timings.start_ns - last_end_ns if 0 < received_ns <= last_end_ns else 0
        if executor.void_slots:
            # Before the result, so that the scheduler does not miss these slots in it.
            message = "the model's logits are not finite for this sequence"
            self._courier.keep(
                session.on_outcome, StepFault("NonFiniteLogits", message, list(executor.void_slots), plan.step_id)
            )
        self._courier.keep(session.on_outcome, result)
        return timings.end_ns

    def _tell_tier_news(self, news: TierNews) -> None:
        """Called on the movers' threads. What an earlier session had in flight is nobody's business any more."""
        session = self._moving_for
        if session is not None:
            self._courier.deliver(session.on_outcome, news)


def _resolve(future: asyncio.Future[WorkerFacts], facts: WorkerFacts) -> None:
    if not future.done():
        future.set_result(facts)


def _fail(future: "asyncio.Future[WorkerFacts] | asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
