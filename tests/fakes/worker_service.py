"""A fake worker process: the real worker service over a real socket, with `FakeWorker` in place of the model.

Its engine can be held between two steps, made to fail, and asked what it holds.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from engine.ids import SeqSlot
from engine.scheduling.plan import StepPlan, StepResult
from kvstore.courtesy import ComputeGauge
from kvstore.disk import DiskTier
from kvstore.slab import HostSlab
from services.common.config import ServiceConfig
from services.common.server import ServiceHost
from services.common.telemetry import open_telemetry
from services.worker.loaded_engine import LoadedEngine, LoadProgress, TierNews, WorkerFacts
from services.worker.service import SERVICE_NAME, WorkerService
from services.worker.tiers import Mover
from tests.fakes.fake_worker import FakeWorker, extend_digest

FINGERPRINT = "fa" * 32
_BLOCK_BYTES = 64


class RecitingWorker(FakeWorker):
    """A `FakeWorker` that can be told what to say."""

    script: Sequence[int] | None = None

    def execute(self, plan: StepPlan) -> StepResult:
        result = super().execute(plan)
        if self.script is not None:
            for i, slot in enumerate(result.slots):
                state = self._slots[slot]
                token_id = self.script[(len(state.token_ids) - state.num_prompt_tokens - 1) % len(self.script)]
                state.token_ids[-1] = result.token_ids[i] = token_id
                state.digests[-1] = extend_digest(state.digests[-2], token_id)
        return result


@dataclass
class FakeEngineTiers:
    """The worker's own mover between a pool that nobody computes in, a host slab and a real disk tier."""

    directory: Path
    num_slots: int = 64
    disk: DiskTier | None = None
    """Once it is open."""
    mover: Mover | None = None

    def open(self, num_blocks: int, block_bytes: int, tell: Callable[[TierNews], None]) -> tuple[Mover, DiskTier]:
        pool = torch.zeros((num_blocks, block_bytes), dtype=torch.uint8)
        slab = HostSlab(self.num_slots, block_bytes, pool.device)
        disk = DiskTier.open(self.directory, namespace=bytes(32), block_bytes=block_bytes, cap_bytes=8 << 20)
        mover = Mover(pool, slab, disk, None, ComputeGauge(), tell)
        self.disk, self.mover = disk, mover
        return mover, disk


@dataclass
class FakeEngine:
    """Settings and controls of one fake worker. Implements `StepExecutor`; survives a restart of its service."""

    vocab_size: int
    num_blocks: int = 512
    block_size: int = 4
    max_seqs: int = 16
    max_model_tokens: int = 512
    max_batched_tokens: int = 128
    model: str = "fake"
    fingerprint: str = FINGERPRINT
    step_s: float = 0.0
    """How long a step takes at least."""
    script: Sequence[int] | None = None
    """Token ids to answer with by position in the output, over and over, in place of the fake's own."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Steps wait for it; open from the start."""
    loading_gate: threading.Event = field(default_factory=threading.Event)
    """Loading waits for it; open from the start."""
    fail_next_step: BaseException | None = None
    void_next_slots: bool = False
    """The next step's sampled rows come back void, as if their logits were not finite."""
    is_waiting: bool = False
    """A step has begun and waits for the gate."""
    num_steps: int = 0
    num_prompt_tokens_seen: int = 0
    tiers: "FakeEngineTiers | None" = None
    """Host memory and disk, real ones. None: there is nothing below the device."""
    disk_note: str = ""
    request_ids: list[str] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        self.loading_gate.set()
        self.void_slots: list[SeqSlot] = []
        self.reset()

    def reset(self) -> None:
        self._worker = RecitingWorker(
            self.num_blocks, self.block_size, self.max_seqs, self.vocab_size, self.max_batched_tokens
        )
        self._worker.script = self.script

    @property
    def busy_slots(self) -> set[SeqSlot]:
        return self._worker.busy_slots

    def load(self, progress: LoadProgress, tell: Callable[[TierNews], None]) -> LoadedEngine:
        progress(0, 100)
        while not self.loading_gate.wait(0.01):
            progress(50, 100)
        progress(100, 100)
        facts = WorkerFacts(
            model=self.model,
            fingerprint=self.fingerprint,
            namespace=bytes(32),
            block_size_tokens=self.block_size,
            block_bytes=_BLOCK_BYTES,
            num_blocks=self.num_blocks,
            max_seqs=self.max_seqs,
            max_model_tokens=self.max_model_tokens,
            max_batched_tokens=self.max_batched_tokens,
            vocab_size=self.vocab_size,
            device="fake",
            dtype="fp32",
            kv_dtype="fp32",
            attention_backend="fake",
            weights="fp32",
            weight_bytes=0,
            rope_length_dependent_from_tokens=0,
            disk_note=self.disk_note,
        )
        if self.tiers is None:
            return LoadedEngine(self, facts)
        mover, disk = self.tiers.open(self.num_blocks, _BLOCK_BYTES, tell)
        facts = replace(
            facts,
            num_host_slots=self.tiers.num_slots,
            disk_id=disk.disk_id,
            disk_capacity_bytes=disk.options.cap_bytes,
        )
        return LoadedEngine(self, facts, mover, mover.keeper)

    def execute(self, plan: StepPlan, on_start: Callable[[], None]) -> StepResult:
        on_start()
        if self.step_s:
            # A wait on an event nobody sets: the length of a step, not a wait for something to happen.
            threading.Event().wait(self.step_s)
        self.is_waiting = not self.gate.is_set()
        self.gate.wait()
        self.is_waiting = False
        start_ns = time.monotonic_ns()
        self.num_steps += 1
        self.void_slots = []
        for new in plan.new_sequences:
            self.request_ids.append(new.request_id)
            self.traceparents.append(new.trace.traceparent)
        self.num_prompt_tokens_seen += plan.work.total_tokens
        if self.fail_next_step is not None:
            error, self.fail_next_step = self.fail_next_step, None
            raise error
        result = self._worker.execute(plan)
        result.timings.start_ns, result.timings.end_ns = start_ns, time.monotonic_ns()
        if self.void_next_slots and result.slots:
            self.void_next_slots = False
            self.void_slots = result.slots
            result.slots, result.token_ids = [], []
        return result


class FakeWorkerService:
    """Start and stop as often as you like; each time it is a new process as far as the scheduler can tell."""

    def __init__(self, engine: FakeEngine, config: ServiceConfig) -> None:
        self.engine = engine
        self.host = ServiceHost(SERVICE_NAME, config, telemetry=open_telemetry("worker", config))
        self.service = WorkerService(self.host, engine.load)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> str:
        self.service.register(self.host.server)
        address = await self.host.start()
        self._running = asyncio.create_task(self.service.run())
        return address

    async def stop(self) -> None:
        """Abrupt: connections break as when the process dies."""
        self.engine.gate.set()
        await self.host.server.stop(0)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.service.close()
        await self.host.stop()
