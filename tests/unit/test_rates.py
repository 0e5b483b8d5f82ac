"""Fetch or recompute: what is worth bringing."""

from engine.blocks.residency import Run, Tier
from engine.ids import SeqSlot, StepId
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepResult, StepTimings, TransferKind, Work
from engine.scheduling.rates import Rates

MS = 1_000_000


def make_rates(**fields: float) -> Rates:
    """Computing a block of 4 takes 4 ms; a load 1 ms per block, a fetch 2 ms, each transfer 1 ms more."""
    defaults: dict[str, float] = {
        "assumed_prefill_tokens_per_s": 1000.0,
        "assumed_load_bytes_per_s": 1e6,
        "assumed_fetch_bytes_per_s": 0.5e6,
        "assumed_transfer_latency_ns": MS,
    }
    config = SchedulerConfig(
        num_blocks=64,
        block_size=4,
        max_seqs=4,
        max_batched_tokens=64,
        max_model_tokens=128,
        namespace=bytes(32),
        num_host_slots=64,
        block_bytes=1000,
        has_disk=True,
        **{**defaults, **fields},  # type: ignore[arg-type]
    )
    return Rates(config)


def test_what_is_on_the_device_costs_nothing() -> None:
    assert make_rates().worthwhile_blocks([Run(Tier.DEVICE, 0, 3)], 0) == 3


def test_a_run_is_brought_if_that_is_cheaper_than_computing_it() -> None:
    runs = [Run(Tier.DEVICE, 0, 3), Run(Tier.HOST, 3, 5), Run(Tier.DISK, 8, 5)]
    assert make_rates().worthwhile_blocks(runs, 0) == 13
    assert make_rates(assumed_fetch_bytes_per_s=0.2e6).worthwhile_blocks(runs, 0) == 8
    assert make_rates(assumed_load_bytes_per_s=0.2e6).worthwhile_blocks(runs, 0) == 3


def test_a_dear_run_is_brought_for_the_sake_of_what_lies_behind_it() -> None:
    rates = make_rates(assumed_transfer_latency_ns=5 * MS)
    assert rates.worthwhile_blocks([Run(Tier.HOST, 0, 1)], 0) == 0
    assert rates.worthwhile_blocks([Run(Tier.HOST, 0, 1), Run(Tier.DEVICE, 1, 1)], 0) == 2


def test_what_is_queued_counts_unless_it_is_the_run_itself() -> None:
    rates = make_rates()
    runs = [Run(Tier.DISK, 0, 8)]
    rates.queued_bytes[TransferKind.FETCH] = 8000
    assert rates.worthwhile_blocks(runs, 0) == 0
    assert rates.worthwhile_blocks(runs, 0, num_coming=8) == 8


def test_bandwidth_and_latency_are_learned_and_forgotten() -> None:
    rates = make_rates(measurement_lifetime_ns=100)
    rates.add_transfer(TransferKind.FETCH, 1000, 20 * MS, 27 * MS, 0, False, 10)
    assert rates.move_ns(TransferKind.FETCH, 1, 50) == 27 * MS
    assert rates.move_ns(TransferKind.FETCH, 1, 1000) == 3 * MS
    rates.add_transfer(TransferKind.FETCH, 1000, 10 * MS, 10 * MS, 0, False, 1000)
    assert 10 * MS < rates.move_ns(TransferKind.FETCH, 1, 1000) < 27 * MS


def test_what_moves_beside_steps_has_rates_of_its_own() -> None:
    """A fetch that gave way to others says nothing of one that is alone, and the other way round."""
    rates = make_rates()
    rates.add_transfer(TransferKind.FETCH, 1000, 1 * MS, 1 * MS, 0, False, 10)
    rates.is_beside_steps = True
    assert rates.move_ns(TransferKind.FETCH, 1, 20) == 1 * MS
    rates.add_transfer(TransferKind.FETCH, 1000, 20 * MS, 20 * MS, 0, True, 20)
    assert rates.move_ns(TransferKind.FETCH, 1, 30) == 20 * MS
    assert rates.worthwhile_blocks([Run(Tier.DISK, 0, 8)], 30) == 0
    rates.is_beside_steps = False
    assert rates.move_ns(TransferKind.FETCH, 1, 30) == 1 * MS
    assert rates.worthwhile_blocks([Run(Tier.DISK, 0, 8)], 30) == 8


def test_a_transfer_that_moved_nothing_teaches_nothing() -> None:
    rates = make_rates()
    rates.add_transfer(TransferKind.LOAD, 0, 0, 500 * MS, 0, False, 0)
    assert rates.move_ns(TransferKind.LOAD, 1, 0) == 2 * MS


def test_the_prefill_rate_is_learned_from_steps_that_are_prefill_above_all() -> None:
    rates = make_rates()

    def step(num_tokens: list[int], elapsed_ns: int) -> None:
        slots = [SeqSlot(i) for i in range(len(num_tokens))]
        result = StepResult(StepId(1), timings=StepTimings(0, 100, 100 + elapsed_ns))
        rates.add_step(Work(slots=slots, num_tokens=num_tokens), result)

    step([1, 1, 1], 50 * MS)
    step([3], 50 * MS)
    step([40], 0)
    assert rates.compute_ns(10) == 10 * MS
    step([40, 1, 1], 80 * MS)
    assert rates.compute_ns(10) == 20 * MS
    step([40], 40 * MS)
    assert 10 * MS < rates.compute_ns(10) < 20 * MS
