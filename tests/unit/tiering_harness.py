"""The scheduling harness with tiers below the device: transfers are sent at once, and done when the story says so."""

from collections.abc import Collection
from typing import Any

from engine.blocks.disk import DiskMirror
from engine.errors import WorkerLost
from engine.ids import BlockKey
from engine.scheduling.figures import TiersFigures
from engine.scheduling.plan import (
    StepPlan,
    StepTimings,
    TierEvents,
    Transfer,
    TransferFailure,
    TransferKind,
    TransferResult,
)
from engine.scheduling.scheduler import Scheduler
from tests.fakes.fake_tiers import FakeDisk, FakeTiers
from tests.unit.scheduling_harness import Harness, make_request

BLOCK_BYTES = 1 << 16
MS = 1_000_000

SPILL, LOAD, PERSIST, FETCH = TransferKind.SPILL, TransferKind.LOAD, TransferKind.PERSIST, TransferKind.FETCH


class TieringHarness(Harness):
    """One worker. `disk` and `mirror` may be another harness's: then they share a host."""

    def __init__(self, disk: FakeDisk | None = None, mirror: DiskMirror | None = None, **limits: Any) -> None:
        self.disk = FakeDisk.empty() if disk is None else disk
        self.mirror = DiskMirror() if mirror is None else mirror
        self.sent: list[Transfer] = []
        self.step_ns = 0
        """What each step takes, as far as the scheduler is told."""
        defaults = {"num_host_slots": 64, "block_bytes": BLOCK_BYTES, "has_disk": True, "plans_in_flight": 1}
        super().__init__(**{**defaults, **limits})
        self.scheduler = Scheduler(self.config, self.mirror)

    @property
    def tiers(self) -> TiersFigures:
        tiers = self.scheduler.figures().tiers
        assert tiers is not None
        return tiers

    def is_drained(self) -> bool:
        return self.scheduler.is_drained

    def restart_worker(self) -> None:
        super().restart_worker()
        self.fake = FakeTiers(self.worker, self.config.num_host_slots, BLOCK_BYTES, self.disk)

    def lose_worker(self) -> None:
        self.scheduler.fail_all(WorkerLost("gone"), self.now_ns)
        self.restart_worker()
        self._look()

    def take(self) -> list[Transfer]:
        """Send what is to be sent now."""
        transfers = self.scheduler.take_transfers(self.now_ns)
        for transfer in transfers:
            self.fake.send(transfer)
        self.sent += transfers
        self._look()
        return transfers

    def plan(self) -> StepPlan | None:
        self.take()
        plan = super().plan()
        self.take()
        if plan is not None and self.step_ns:
            self.results[-1].timings = StepTimings(0, self.now_ns, self.now_ns + self.step_ns)
        return plan

    def in_flight(self, kind: TransferKind) -> list[Transfer]:
        return [transfer for transfer in self.fake.in_flight if transfer.kind is kind]

    def finish(
        self,
        transfer: Transfer,
        num_done: int | None = None,
        failure: TransferFailure | None = None,
        copy_ns: int = 0,
    ) -> TransferResult:
        """The worker answers this transfer: all of it is done, or the first `num_done` rows."""
        num_rows = len(transfer.keys)
        result = self.fake.finish(transfer.transfer_id, num_rows if num_done is None else num_done, failure, copy_ns)
        self.scheduler.apply_transfer(result, self.now_ns)
        self._look()
        return result

    def settle(self, kinds: Collection[TransferKind] = tuple(TransferKind)) -> None:
        """Carry out all transfers of these kinds, and those that follow from them."""
        for _ in range(1000):
            self.take()
            transfers = [transfer for transfer in self.fake.in_flight if transfer.kind in kinds]
            if not transfers:
                return
            for transfer in transfers:
                self.finish(transfer)
        raise AssertionError("transfers do not end")

    def run(self, max_steps: int = 2000) -> None:
        """As a service would, with transfers that are done as soon as there is nothing else to do."""
        for _ in range(max_steps):
            if self.scheduler.is_idle:
                return
            self.now_ns += 1
            while self.plan() is not None:
                pass
            if self.results:
                self.apply()
            elif self.fake.in_flight:
                self.finish(self.fake.in_flight[0])
            else:
                assert self.scheduler.is_idle, "live requests, but nothing to do"
        raise AssertionError(f"not done after {max_steps} steps")

    def serve(self, request_id: str, prompt: list[int] | int, **fields: Any) -> None:
        """Submit, run to the end and let all transfers come to rest."""
        request = self.submit(request_id, prompt, **{"max_tokens": 1, **fields})
        self.run()
        self.settle()
        self.assert_as_undisturbed(request)

    def cached(self, request_id: str) -> tuple[int, int, int]:
        """(device, host, disk) tokens, as the request was told when it started."""
        cached = self.started(request_id)[0].cached
        return cached.device, cached.host, cached.disk

    def keys(self, prompt: list[int], **fields: Any) -> list[BlockKey]:
        return self.scheduler.block_keys(make_request("any", prompt, **fields))

    def to_disk(self, *prompts: list[int], **fields: Any) -> None:
        """Compute prompts and persist all of them; then forget everything else, as after a restart."""
        for i, prompt in enumerate(prompts):
            self.serve(f"warm{i}-{len(self.events)}", prompt, **fields)
            self.scheduler.write_through(self.keys(prompt, **fields))
            self.settle()
        self.lose_worker()
        self.sent.clear()

    def to_host(self, prompt: list[int]) -> None:
        """Compute a prompt, spill it, and let other content push it off the device. Without a disk, or to one too."""
        self.serve("warm", prompt)
        self.scheduler.write_through(self.keys(prompt))
        self.settle()
        self.flush_device()
        self.sent.clear()

    def flush_device(self) -> None:
        """Fill the device with content that nobody knows."""
        num_tokens = self.config.max_model_tokens - 1
        base = 900_000
        for i in range(-(-self.config.num_blocks * self.config.block_size // num_tokens) + 1):
            self.serve(f"flush{i}-{len(self.events)}", [base + i * 1000 + j for j in range(num_tokens)])

    def evict_from_disk(self, key: BlockKey, is_told: bool = True) -> None:
        events = self.disk.evict(key)
        if is_told:
            self.scheduler.apply_tier_events(events)

    def tell_stored(self, keys: list[BlockKey]) -> None:
        self.scheduler.apply_tier_events(TierEvents(stored=keys))
