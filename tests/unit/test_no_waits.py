"""Between a plan and its sampled ids the host waits for the device once, for the ids.

Checked by the operations that a step calls, on the way that it takes on CUDA (`tests/fakes/sync_watch.py` and
`copied_staging.py`); what attention does is the backends' business, apart from torch's.
"""

from collections.abc import Callable

import pytest
import torch

from engine.execution import sampler
from engine.execution.loading import LoadedModel, load_model
from engine.execution.runner import ModelRunner
from engine.ids import BlockId, SeqSlot, StepId
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, Work
from kernels.attention.protocol import AttnPlan
from kernels.attention.torch_sdpa import TorchAttention
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint
from tests.fakes.copied_staging import CopiedStaging
from tests.fakes.graph_recorder import FakeGraphRecorder
from tests.fakes.refillable_attention import RefillableReference
from tests.fakes.sync_watch import SyncWatch, WouldWait

CPU = torch.device("cpu")
BLOCK_SIZE = 8

SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(temperature=0.7, seed=3),
    "top-k": SamplingParams(top_k=5, seed=3),
    "top-k and top-p": SamplingParams(top_k=5, top_p=0.9, seed=3),
    "min-p": SamplingParams(min_p=0.1, seed=3),
    "penalties": SamplingParams(presence_penalty=0.5, frequency_penalty=0.5, repetition_penalty=1.2, seed=3),
    "constraints": SamplingParams(
        allowed_token_ids=(1, 2, 3), logit_bias=((2, 1.0),), bad_words=((1, 2),), min_tokens=4, stop_token_ids=(3,)
    ),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_checkpoint(tmp_path_factory.mktemp("waits"), "qwen3"), device=CPU, isa=None)


class WatchedReference(RefillableReference):
    """The fake stands for a backend that does not wait, so it is not watched."""

    watch: SyncWatch

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        with self.watch.allowed():
            return super().run(q, k, v, layer, plan)


def plans(samplings: list[SamplingParams]) -> list[StepPlan]:
    """A prefill of all, three decode steps, and a step in which the first decodes while the last begins anew."""
    found: list[StepPlan] = []
    lengths = [4 + 3 * slot for slot in range(len(samplings))]
    added = [
        NewSequence(SeqSlot(slot), f"r{slot}", list(range(5, 5 + length)), length, params, [])
        for slot, (length, params) in enumerate(zip(lengths, samplings, strict=True))
    ]
    rows = [(slot, 0, length) for slot, length in enumerate(lengths)]
    found.append(plan_of(1, rows, added, []))
    found += [
        plan_of(2 + step, [(slot, length + step, 1) for slot, length in enumerate(lengths)], [], [])
        for step in range(3)
    ]
    last = len(samplings) - 1
    mixed = [(0, lengths[0] + 3, 1), (last, 0, lengths[last])]
    found.append(plan_of(5, mixed, [added[last]], [SeqSlot(last)]))
    return found


def plan_of(step: int, rows: list[tuple[int, int, int]], added: list[NewSequence], released: list[SeqSlot]) -> StepPlan:
    work = Work()
    for slot, start, count in rows:
        first, last = -(-start // BLOCK_SIZE), -(-(start + count) // BLOCK_SIZE)
        work.slots.append(SeqSlot(slot))
        work.starts.append(start)
        work.num_tokens.append(count)
        work.samples.append(True)
        work.num_new_blocks.append(last - first)
        work.new_block_ids.extend(BlockId(slot + 4 * number) for number in range(first, last))
    return StepPlan(StepId(step), released, added, work)


def run(loaded: LoadedModel, samplings: list[SamplingParams], *, has_graphs: bool) -> tuple[SyncWatch, CopiedStaging]:
    config = loaded.config
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, loaded.model.dtype)
    pages = layout.pages(layout.allocate(24, CPU))
    watch = SyncWatch()
    staging = CopiedStaging(watch.allowed)
    attention = WatchedReference(pages, config.windows) if has_graphs else None
    if attention is not None:
        attention.watch = watch
    runner = ModelRunner(
        loaded.model,
        attention or TorchAttention(pages, config.windows, loaded.model.dtype),
        block_size=BLOCK_SIZE,
        max_seqs=4,
        max_model_tokens=64,
        staging=staging,
        recorder=FakeGraphRecorder() if has_graphs else None,
    )
    with watch:
        for plan in plans(samplings):
            runner.execute(plan)
    return watch, staging


@pytest.mark.parametrize("has_graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_step_waits_once(loaded: LoadedModel, name: str, has_graphs: bool) -> None:
    watch, staging = run(loaded, [SAMPLINGS[name], SAMPLINGS["greedy"], SAMPLINGS[name]], has_graphs=has_graphs)
    assert staging.num_fetched == 5, "once in each of five steps"
    assert watch.num_operations > 200


def test_greedy_decode_steps_send_the_columns_and_a_changed_table_and_nothing_else(loaded: LoadedModel) -> None:
    config = loaded.config
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, loaded.model.dtype)
    staging = CopiedStaging()
    runner = ModelRunner(
        loaded.model,
        RefillableReference(layout.pages(layout.allocate(24, CPU)), config.windows),
        block_size=BLOCK_SIZE,
        max_seqs=4,
        max_model_tokens=64,
        staging=staging,
        recorder=FakeGraphRecorder(),
    )
    added = [NewSequence(SeqSlot(0), "r", [1, 2, 3, 4, 5], 5, SAMPLINGS["greedy"], [])]
    runner.execute(plan_of(1, [(0, 0, 5)], added, []))
    sent: list[int] = []
    for start in range(5, 12):
        before = staging.num_sent
        runner.execute(plan_of(start, [(0, start, 1)], [], []))
        sent.append(staging.num_sent - before)
    # The first builds the table, and at position 8 the row gets a block.
    assert sent == [2, 1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_fill_(torch.tensor([True, False]), 0),
        lambda x: x[int(x[0])],
        lambda x: x[[0, 1]],
        lambda x: torch.repeat_interleave(x, x.long()),
    ],
)
def test_the_watch_sees_what_would_wait(wait: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(WouldWait), SyncWatch():
        wait(torch.ones(2))


@pytest.mark.parametrize("settles", [True, False])
def test_top_p_alone_waits_only_where_nothing_settles_nuclei_on_the_device(
    loaded: LoadedModel, settles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    if settles:
        monkeypatch.setattr(sampler, "settling_on", lambda _: lambda *tensors: calls.append(len(tensors)))
    samplings = [SamplingParams(top_p=0.9, seed=3)] * 2
    if not settles:
        with pytest.raises(WouldWait):
            run(loaded, samplings, has_graphs=True)
        return
    _, staging = run(loaded, samplings, has_graphs=True)
    assert staging.num_fetched == len(calls) == 5
