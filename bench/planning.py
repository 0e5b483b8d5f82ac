"""What the scheduler itself costs per step, in microseconds: `python -m bench.planning [--rows 64] [--steps 600]`.

Medians of `plan`, `apply` and `take_transfers` with every slot decoding, without tiers and with them. No worker:
results are made up. Compare rows of one run; the machine's other load shows in all of them.
"""

import argparse
import statistics
import time

from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepResult
from engine.scheduling.request import Request
from engine.scheduling.scheduler import Scheduler

_PROMPT_TOKENS = 500
_WARM_UP_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600)
    arguments = parser.parse_args()
    print(f"{'tiers':8} {'plan':>8} {'apply':>8} {'take':>8}   µs, medians of {arguments.steps} steps")
    for has_tiers in (False, True, False, True):
        medians = measure(has_tiers, arguments.rows, arguments.steps)
        print(f"{'on' if has_tiers else 'off':8} " + " ".join(f"{median:8.1f}" for median in medians))


def measure(has_tiers: bool, num_rows: int, num_steps: int) -> list[float]:
    """Microseconds of (plan, apply, take_transfers)."""
    scheduler = Scheduler(
        SchedulerConfig(
            num_blocks=num_rows * (_PROMPT_TOKENS + num_steps + 2 * _WARM_UP_STEPS) // 8,
            block_size=16,
            max_seqs=num_rows,
            max_batched_tokens=2048,
            max_model_tokens=1000 + num_steps + _WARM_UP_STEPS,
            namespace=bytes(32),
            num_host_slots=20_000 if has_tiers else 0,
            block_bytes=1 << 20,
            has_disk=has_tiers,
        )
    )
    sampling = SamplingParams(max_tokens=num_steps + _WARM_UP_STEPS + 100)
    for i in range(num_rows):
        prompt = [i * 1000 + j for j in range(_PROMPT_TOKENS)]
        scheduler.submit(Request(f"r{i}", prompt, sampling), 0)
    samples: list[tuple[int, int, int]] = []
    for step in range(_WARM_UP_STEPS + num_steps):
        now_ns = 1000 * step
        started = time.perf_counter_ns()
        plan = scheduler.plan(now_ns)
        planned = time.perf_counter_ns()
        scheduler.take_transfers(now_ns)
        taken = time.perf_counter_ns()
        assert plan is not None
        slots = [slot for slot, samples_here in zip(plan.work.slots, plan.work.samples, strict=True) if samples_here]
        result = StepResult(plan.step_id, slots, [7] * len(slots))
        before = time.perf_counter_ns()
        scheduler.apply(result, now_ns)
        samples.append((planned - started, time.perf_counter_ns() - before, taken - planned))
        scheduler.take_events()
    columns = zip(*samples[_WARM_UP_STEPS:], strict=True)
    return [statistics.median(column) / 1000 for column in columns]


if __name__ == "__main__":
    main()
