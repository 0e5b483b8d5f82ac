"""How fast things have been of late, and what follows: is it worth bringing a block, or better to compute it?

Where the model computes on the cores that move blocks as well, blocks come more slowly beside a step than alone. So
what a transfer took counts for the state in which it was sent, and what one will take is asked of the state as it is.
"""

from collections.abc import Callable, Sequence

from engine.blocks.residency import Run, Tier
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepResult, TransferKind, Work

_WEIGHT = 0.3
"""Of the newest measurement, in moving averages."""
_MIN_PREFILL_TOKENS = 32
"""A step that computes fewer prompt tokens says more about its fixed cost than about their rate."""
_MIN_COPY_BYTES = 1 << 16


class _Average:
    """An exponential moving average. Whoever asks brings what to assume where nothing is known."""

    def __init__(self) -> None:
        self._value: float | None = None
        self._measured_ns = 0

    def add(self, value: float, now_ns: int) -> None:
        self._value = value if self._value is None else self._value + _WEIGHT * (value - self._value)
        self._measured_ns = now_ns

    def value(self, assumed: float, now_ns: int, lifetime_ns: int) -> float:
        """What was measured; once that is old, the better of it and the assumption, so that it is tried again."""
        if self._value is None:
            return assumed
        return self._value if now_ns - self._measured_ns <= lifetime_ns else min(self._value, assumed)


class _Cost:
    """One figure, alone and beside a step. What is not known beside one is assumed to be as alone."""

    def __init__(self, assumed: float, lifetime_ns: int) -> None:
        self._assumed = assumed
        self._lifetime_ns = lifetime_ns
        self._alone, self._beside = _Average(), _Average()

    def add(self, value: float, is_beside_steps: bool, now_ns: int) -> None:
        (self._beside if is_beside_steps else self._alone).add(value, now_ns)

    def value(self, is_beside_steps: bool, now_ns: int) -> float:
        alone = self._alone.value(self._assumed, now_ns, self._lifetime_ns)
        return self._beside.value(alone, now_ns, self._lifetime_ns) if is_beside_steps else alone


class Rates:
    """Measured costs in nanoseconds: per prompt token computed, per byte moved, per transfer."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        # With `always_bring` no way of bringing a block takes longer than computing it.
        self._per_token_ns = 1e9 if config.always_bring else 1e9 / config.assumed_prefill_tokens_per_s
        self._has_prefill = False
        assumed_bytes_per_s = {
            TransferKind.LOAD: config.assumed_load_bytes_per_s,
            TransferKind.FETCH: config.assumed_fetch_bytes_per_s,
        }
        lifetime_ns = config.measurement_lifetime_ns
        self._per_byte_ns = {kind: _Cost(1e9 / rate, lifetime_ns) for kind, rate in assumed_bytes_per_s.items()}
        self._latency_ns = {
            kind: _Cost(config.assumed_transfer_latency_ns, lifetime_ns) for kind in assumed_bytes_per_s
        }
        self.is_beside_steps = False
        """Whether a step is in flight. Kept by whoever sends them."""
        self.queued_bytes = dict.fromkeys(TransferKind, 0)
        """In flight, or about to be, by kind. Kept by whoever queues and opens transfers."""

    def add_step(self, work: Work, result: StepResult) -> None:
        """Learn the prefill rate, from steps that compute prompts above all."""
        timings = result.timings
        elapsed_ns = timings.end_ns - timings.start_ns
        num_prefill = sum(count for count in work.num_tokens if count > 1)
        floor = min(_MIN_PREFILL_TOKENS, self._config.max_batched_tokens // 2)
        if self._config.always_bring or elapsed_ns <= 0 or num_prefill < floor or 2 * num_prefill < work.total_tokens:
            return
        per_token_ns = elapsed_ns / num_prefill
        weight = _WEIGHT if self._has_prefill else 1.0
        self._per_token_ns += weight * (per_token_ns - self._per_token_ns)
        self._has_prefill = True

    def add_transfer(
        self,
        kind: TransferKind,
        num_bytes: int,
        copy_ns: int,
        elapsed_ns: int,
        queued_bytes: int,
        was_beside_steps: bool,
        now_ns: int,
    ) -> None:
        """Learn from a transfer that moved something.

        `queued_bytes` lay before it when it was sent, and a step was in flight then or not.
        """
        if kind not in self._per_byte_ns or copy_ns <= 0 or num_bytes <= 0:
            return
        # A few bytes would say nothing of the bandwidth.
        if num_bytes >= min(_MIN_COPY_BYTES, self._config.block_bytes):
            self._per_byte_ns[kind].add(copy_ns / num_bytes, was_beside_steps, now_ns)
        queue_ns = queued_bytes * self._per_byte_ns[kind].value(was_beside_steps, now_ns)
        self._latency_ns[kind].add(max(0.0, elapsed_ns - copy_ns - queue_ns), was_beside_steps, now_ns)

    def per_byte_ns(self, kind: TransferKind, now_ns: int) -> float:
        return self._per_byte_ns[kind].value(self.is_beside_steps, now_ns)

    def latency_ns(self, kind: TransferKind, now_ns: int) -> float:
        """From sending a transfer to its result, copying and what lay before it aside."""
        return self._latency_ns[kind].value(self.is_beside_steps, now_ns)

    def compute_ns(self, num_tokens: int) -> float:
        return num_tokens * self._per_token_ns

    def move_ns(self, kind: TransferKind, num_blocks: int, now_ns: int) -> float:
        """To bring so many blocks, one transfer after what is queued now."""
        num_bytes = num_blocks * self._config.block_bytes + self.queued_bytes[kind]
        return self.latency_ns(kind, now_ns) + num_bytes * self.per_byte_ns(kind, now_ns)

    def worthwhile_blocks(self, runs: Sequence[Run], now_ns: int, num_coming: int = 0) -> int:
        """How many leading blocks to bring, so that bringing them and computing the others takes the least time.

        `num_coming` of those on disk are being fetched already: they are a part of what is queued.

        Runs count as a whole, since cost and gain of each grow with its length: a run that is dearer than computing it
        is brought only if what lies behind it makes up for that.
        """
        bring_ns = self._bring_ns(now_ns, num_coming)
        best = 0
        gain = best_gain = 0.0
        for run in runs:
            gain += self.compute_ns(run.count * self._config.block_size) - bring_ns(run)
            if gain > best_gain:
                best, best_gain = run.end, gain
        return best

    def _bring_ns(self, now_ns: int, num_coming: int) -> Callable[[Run], float]:
        # What lies before the first run lies before all of them, and is counted once.
        queued_bytes = dict(self.queued_bytes)
        queued_bytes[TransferKind.FETCH] -= num_coming * self._config.block_bytes

        def move_ns(kind: TransferKind, run: Run) -> float:
            num_bytes = run.count * self._config.block_bytes + queued_bytes[kind]
            queued_bytes[kind] = 0
            return self.latency_ns(kind, now_ns) + num_bytes * self.per_byte_ns(kind, now_ns)

        min_fetch_blocks = 1 if self._config.always_bring else self._config.min_fetch_blocks

        def bring_ns(run: Run) -> float:
            match run.tier:
                case Tier.DEVICE:
                    return 0.0
                case Tier.HOST:
                    return move_ns(TransferKind.LOAD, run)
                case Tier.DISK if run.count < min_fetch_blocks:
                    return float("inf")
                case Tier.DISK:
                    return move_ns(TransferKind.FETCH, run) + move_ns(TransferKind.LOAD, run)

        return bring_ns
