"""Steps of a model runner beside the device's roofline: decode at some batch sizes, prefill, the gap between steps."""

import statistics
from dataclasses import dataclass
from itertools import pairwise

import torch

from bench.gpu_ceilings import DeviceCeilings
from bench.gpu_figures import Asked, Figure, duration, rate
from bench.step_cost import StepWork, cost_of
from engine.execution.graphs import CudaGraphRecorder, why_not
from engine.execution.runner import ModelRunner
from engine.ids import BlockId, SeqSlot, StepId
from engine.models.config import ModelConfig
from engine.models.llama import LlamaModel
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, StepTimings, Work
from kernels.attention.choice import choose_attention
from kvstore.layout import BlockLayout

BLOCK_SIZE = 16
KV_DTYPE = torch.float8_e4m3fn
_GREEDY = SamplingParams(temperature=0.0)

DECODE_SHARE = 0.65
PREFILL_SHARE = 0.50
MOST_GAP_MS = 0.15


@dataclass(frozen=True, slots=True)
class StepSizes:
    """What is measured; the defaults are what is asked for."""

    batches: tuple[int, ...] = (1, 32, 128)
    gap_batch: int = 64
    context: int = 1024
    prompt: int = 8192
    chunk: int = 4096
    steps: int = 60
    warm_up: int = 10

    @property
    def max_seqs(self) -> int:
        return max(*self.batches, self.gap_batch)

    @property
    def row_tokens(self) -> int:
        """What a decode row comes to, the blocks it begins included."""
        return self.context + 2 * BLOCK_SIZE + self.warm_up + self.steps

    @property
    def longest(self) -> int:
        """Of all sequences, in tokens."""
        return max(self.prompt, self.row_tokens)


class RandomSteps:
    """A runner over a pool of its own, fed with plans as a scheduler would make them. K and V are random bytes."""

    def __init__(self, model: LlamaModel, sizes: StepSizes) -> None:
        self._config, self._sizes = model.config, sizes
        device = model.device
        config = model.config
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, KV_DTYPE)
        self._num_blocks = -(-max(sizes.max_seqs * sizes.row_tokens, sizes.prompt) // BLOCK_SIZE)
        pool = layout.allocate(self._num_blocks, device)
        # Bytes below 60 are small positive numbers both as E4M3 and as the halves of bfloat16 scales.
        pool.random_(0, 60, generator=torch.Generator(device).manual_seed(2))
        attention = choose_attention(layout.pages(pool), config.windows, model.dtype)
        self.attention = attention.name
        self.why_no_graphs = "the device is not CUDA" if device.type != "cuda" else why_not(model, attention)
        self._runner = ModelRunner(
            model,
            attention,
            block_size=BLOCK_SIZE,
            max_seqs=sizes.max_seqs,
            max_model_tokens=sizes.longest,
            recorder=CudaGraphRecorder(device) if self.why_no_graphs is None else None,
        )

    def decode(self, num_rows: int) -> tuple[list[StepTimings], float]:
        """Timings of steps of one token a row, and their mean context. Rows get new blocks at different steps."""
        sizes, runner = self._sizes, self._runner
        runner.reset()
        # From a block's start on, one token further in each row; the last is computed by the first step.
        starts = [sizes.context - sizes.context % BLOCK_SIZE + row % BLOCK_SIZE for row in range(num_rows)]
        free = iter(_scattered(self._num_blocks))
        added = [
            NewSequence(
                SeqSlot(row),
                f"row {row}",
                [(7 * row + i) % self._config.vocab_size for i in range(start + 1)],
                start + 1,
                _GREEDY,
                [BlockId(next(free)) for _ in range(start // BLOCK_SIZE)],
            )
            for row, start in enumerate(starts)
        ]
        held = [start // BLOCK_SIZE for start in starts]
        plans: list[StepPlan] = []
        for step in range(sizes.warm_up + sizes.steps):
            work = Work()
            for row, first in enumerate(starts):
                start = first + step
                new_blocks = start // BLOCK_SIZE + 1 - held[row]
                held[row] += new_blocks
                _add_row(work, row, start, 1, [BlockId(next(free)) for _ in range(new_blocks)])
            plans.append(StepPlan(StepId(step), [], added if step == 0 else [], work))
        timings = [runner.execute(plan).timings for plan in plans]
        assert not runner.void_slots, "random weights gave no finite logits"
        return timings[sizes.warm_up :], statistics.mean(starts) + sizes.warm_up + sizes.steps / 2

    def prefill(self) -> float:
        """Seconds from the first chunk of a prompt to its first token; the best of three, after one."""
        sizes, runner = self._sizes, self._runner
        blocks = [BlockId(block) for block in _scattered(self._num_blocks)[: -(-sizes.prompt // BLOCK_SIZE)]]
        ids = [i % self._config.vocab_size for i in range(sizes.prompt)]
        best = float("inf")
        for attempt in range(4):
            runner.reset()
            added = [NewSequence(SeqSlot(0), "prompt", ids, sizes.prompt, _GREEDY, blocks)]
            timings: list[StepTimings] = []
            for start in range(0, sizes.prompt, sizes.chunk):
                work = Work()
                _add_row(work, 0, start, min(sizes.chunk, sizes.prompt - start), [])
                work.samples[0] = start + sizes.chunk >= sizes.prompt
                timings.append(runner.execute(StepPlan(StepId(start), [], added if not start else [], work)).timings)
            if attempt:
                best = min(best, (timings[-1].end_ns - timings[0].start_ns) / 1e9)
        return best


def measure_steps(name: str, model: LlamaModel, ceilings: DeviceCeilings, sizes: StepSizes) -> list[Figure]:
    """Decode, the gap between its steps, and prefill."""
    steps = RandomSteps(model, sizes)
    label = f"{name}, {steps.attention}" + ("" if steps.why_no_graphs is None else ", no graphs")
    figures: list[Figure] = []
    for batch in sizes.batches:
        timings, context = steps.decode(batch)
        least_ms = 1000 * _least_s(model.config, StepWork("decode", batch, int(context), 1), ceilings)
        taken_ms = statistics.median(each.end_ns - each.start_ns for each in timings) / 1e6
        figures.append(duration(f"{label}: decode step, {batch} rows", taken_ms, "ms", least_ms, DECODE_SHARE))
    timings, _ = steps.decode(sizes.gap_batch)
    gap_ms = statistics.median(b.start_ns - a.end_ns for a, b in pairwise(timings)) / 1e6
    gap_name = f"{label}: gap between steps, {sizes.gap_batch} rows"
    figures.append(Figure(gap_name, gap_ms, "ms", asked=Asked("<", MOST_GAP_MS)))
    work = StepWork("prefill", 1, 0, sizes.prompt)
    per_token = cost_of(work, model.config, KV_DTYPE).flops / sizes.prompt
    ceiling = ceilings.bf16_flops_per_s / per_token
    figures.append(
        rate(f"{label}: prefill of {sizes.prompt}", sizes.prompt / steps.prefill(), "tokens/s", ceiling, PREFILL_SHARE)
    )
    return figures


def _least_s(config: ModelConfig, work: StepWork, ceilings: DeviceCeilings) -> float:
    return cost_of(work, config, KV_DTYPE).least_s(ceilings.copy_bytes_per_s, ceilings.bf16_flops_per_s)


def _scattered(num_blocks: int) -> list[int]:
    order: list[int] = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(3)).tolist()
    return order


def _add_row(work: Work, slot: int, start: int, count: int, new_blocks: list[BlockId]) -> None:
    work.slots.append(SeqSlot(slot))
    work.starts.append(start)
    work.num_tokens.append(count)
    work.samples.append(True)
    work.num_new_blocks.append(len(new_blocks))
    work.new_block_ids.extend(new_blocks)
