"""Decode steps from graphs: which graph, padding, buffers filled anew, and the results of the eager way.

The graphs are fake (`tests/fakes/graph_recorder.py`, `operation_recorder.py`), and so is the copying to a device;
models, plans and batches are real.
"""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.execution import graphs
from engine.execution.graphs import context_ladder, ladder, why_not
from engine.execution.loading import LoadedModel, load_model
from engine.execution.runner import ModelRunner
from engine.ids import BlockId, SeqSlot, StepId
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, StepResult, Work
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint
from tests.fakes.copied_staging import CopiedStaging
from tests.fakes.dense_attention import DenseDecode
from tests.fakes.graph_recorder import FakeGraphRecorder
from tests.fakes.operation_recorder import OperationRecorder
from tests.fakes.refillable_attention import RefillableReference
from tests.fakes.sync_watch import WouldWait

CPU = torch.device("cpu")
BLOCK_SIZE = 8
MAX_SEQS = 12
NUM_BLOCKS = 60


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = make_checkpoint(tmp_path_factory.mktemp("graphs"), request.param)
    return load_model(directory, device=CPU, max_model_tokens=64, isa=None)


class Stack:
    """A runner, with the pool it works on."""

    def __init__(self, loaded: LoadedModel, *, has_graphs: bool, replays_operations: bool = False) -> None:
        config = loaded.config
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, loaded.model.dtype)
        self.pool = layout.allocate(NUM_BLOCKS, CPU)
        self.recorder = OperationRecorder() if replays_operations else FakeGraphRecorder()
        pages = layout.pages(self.pool)
        self.runner = ModelRunner(
            loaded.model,
            DenseDecode(pages) if replays_operations else RefillableReference(pages, config.windows),
            block_size=BLOCK_SIZE,
            max_seqs=MAX_SEQS,
            max_model_tokens=64,
            staging=CopiedStaging() if has_graphs else None,
            recorder=self.recorder if has_graphs else None,
        )

    def replayed(self) -> list[int]:
        """How often each graph ran, from the one for most rows to the one for one."""
        return [graph.num_replays for graph in self.recorder.graphs]


def prompt_of(slot: int) -> list[int]:
    return torch.randint(0, 512, (3 + 5 * slot,), generator=torch.Generator().manual_seed(slot)).tolist()


def plan_of(step: int, rows: list[tuple[int, int, int]], added: list[NewSequence] | None = None) -> StepPlan:
    """`rows` are (slot, start, number of tokens); blocks come as they are needed, those of a slot scattered."""
    work = Work()
    for slot, start, count in rows:
        first, last = -(-start // BLOCK_SIZE), -(-(start + count) // BLOCK_SIZE)
        work.slots.append(SeqSlot(slot))
        work.starts.append(start)
        work.num_tokens.append(count)
        work.samples.append(True)
        work.num_new_blocks.append(last - first)
        work.new_block_ids.extend(BlockId(slot + MAX_SEQS * number) for number in range(first, last))
    return StepPlan(StepId(step), [], added or [], work)


def prefill(step: int, slots: list[int], params: SamplingParams) -> StepPlan:
    added = [NewSequence(SeqSlot(s), f"r{s}", prompt_of(s), len(prompt_of(s)), params, []) for s in slots]
    return plan_of(step, [(slot, 0, len(prompt_of(slot))) for slot in slots], added)


def ids_by_slot(result: StepResult) -> dict[int, int]:
    return dict(zip(result.slots, result.token_ids, strict=True))


@given(st.integers(1, 1000))
def test_every_number_of_rows_has_a_rung_above_it(max_rows: int) -> None:
    rungs = ladder(max_rows)
    assert rungs == sorted(set(rungs))
    assert rungs[0] == 1
    assert rungs[-1] == max_rows
    for lower, upper in pairwise(rungs):
        assert upper - lower <= max(1, lower, 8 if upper <= 256 else 16)


def test_the_ladder_of_the_default() -> None:
    assert ladder(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert ladder(1) == [1]
    assert ladder(3) == [1, 2, 3]


@given(st.integers(1, 20_000), st.sampled_from([1, 8, 16, 24, 256]))
def test_every_context_has_a_width_at_most_four_times_as_wide(max_blocks: int, block_size: int) -> None:
    widths = context_ladder(max_blocks, block_size)
    assert widths == sorted(set(widths))
    assert widths[-1] == max_blocks
    for lower, upper in pairwise(widths):
        assert upper <= 4 * lower
    assert widths[0] * block_size < 4096 + block_size or widths == [max_blocks]


def test_a_step_takes_the_narrowest_graph_that_holds_its_longest_row(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_FIRST_CONTEXT_TOKENS", 2 * BLOCK_SIZE)
    stack, eager = Stack(loaded, has_graphs=True), Stack(loaded, has_graphs=False)
    assert len(stack.recorder.graphs) == 2 * len(ladder(MAX_SEQS))
    plans = [prefill(1, [0, 2], SamplingParams(temperature=0.0))]
    assert [len(prompt_of(slot)) for slot in (0, 2)] == [3, 13]
    plans += [plan_of(2 + step, [(0, 3 + step, 1), (2, 13 + step, 1)]) for step in range(5)]
    for plan in plans:
        assert ids_by_slot(stack.runner.execute(plan)) == ids_by_slot(eager.runner.execute(plan))
    # Of the graphs for two rows, the wide one is recorded first. Contexts go from 14 to 18.
    assert stack.replayed() == [0, 0, 0, 0, 0, 0, 2, 3, 0, 0]


@pytest.mark.parametrize("replays_operations", [False, True], ids=["calls", "operations"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_from_graphs_give_what_the_eager_way_gives(
    loaded: LoadedModel, temperature: float, replays_operations: bool
) -> None:
    params = SamplingParams(temperature=temperature, max_tokens=40, seed=5)
    eager = Stack(loaded, has_graphs=False)
    graphed = Stack(loaded, has_graphs=True, replays_operations=replays_operations)
    assert len(graphed.recorder.graphs) == len(ladder(MAX_SEQS)) == 5
    lengths = {slot: len(prompt_of(slot)) for slot in range(6)}
    plans = [prefill(1, list(range(6)), params)]
    # Rows come and go between the steps, so that what an earlier batch left in the buffers would show.
    batches = [[0, 1, 2, 3, 4, 5]] * 3 + [[5, 0, 2]] * 9 + [[4]] * 2 + [[1, 4, 0, 3, 2]] * 3
    for batch in batches:
        plans.append(plan_of(len(plans) + 1, [(slot, lengths[slot], 1) for slot in batch]))
        lengths.update({slot: lengths[slot] + 1 for slot in batch})
    for plan in plans:
        assert ids_by_slot(graphed.runner.execute(plan)) == ids_by_slot(eager.runner.execute(plan))
    # For 12, 8, 4, 2 and 1 rows.
    assert graphed.replayed() == [0, 6, 9, 0, 2]
    # The last block is where one of the fakes writes what padding gives.
    # Padding changes the shape of products, and with it how torch rounds.
    assert torch.allclose(graphed.pool[:-1].view(torch.float32), eager.pool[:-1].view(torch.float32), atol=1e-4)


def test_the_fake_that_replays_operations_keeps_what_the_host_said_and_refuses_what_asks_the_device() -> None:
    x, out, added = torch.zeros(2), torch.zeros(2), [1.0]
    graph = OperationRecorder().record(lambda: out.copy_(x.view(2) + added[0]))
    added[0] = 100.0
    x.fill_(2.0)
    graph.replay()
    assert out.tolist() == [3.0, 3.0]
    with pytest.raises(WouldWait):
        OperationRecorder().record(lambda: out.fill_(x.sum().item()))


def test_padding_writes_nothing(loaded: LoadedModel) -> None:
    stack = Stack(loaded, has_graphs=True)
    assert not stack.pool.any(), "neither when graphs are recorded, of padding alone"
    stack.runner.execute(prefill(1, [0, 1, 2], SamplingParams(temperature=0.0)))
    stack.pool[BLOCK_SIZE * 0 + MAX_SEQS * 3 :] = 7
    before = stack.pool.clone()
    rows = [(slot, len(prompt_of(slot)), 1) for slot in range(3)]
    stack.runner.execute(plan_of(2, rows))
    assert stack.recorder.num_replays == 1
    touched = {slot + MAX_SEQS * (start // BLOCK_SIZE) for slot, start, _ in rows}
    for block in range(NUM_BLOCKS):
        assert torch.equal(stack.pool[block], before[block]) == (block not in touched)


def test_mixed_steps_and_prompt_scores_go_the_eager_way(loaded: LoadedModel) -> None:
    params = SamplingParams(temperature=0.0, logprobs=1, prompt_logprobs=0)
    stack, eager = Stack(loaded, has_graphs=True), Stack(loaded, has_graphs=False)
    one = NewSequence(SeqSlot(0), "one", [3], 1, params, [])
    plans = [
        plan_of(1, [(0, 0, 1)], [one]),
        plan_of(2, [(0, 1, 1), (1, 0, 8)], [NewSequence(SeqSlot(1), "two", prompt_of(1), 8, params, [])]),
        plan_of(3, [(0, 2, 1), (1, 8, 1)]),
    ]
    for number, (plan, replays) in enumerate(zip(plans, [1, 1, 2], strict=True)):
        result, want = stack.runner.execute(plan), eager.runner.execute(plan)
        assert stack.recorder.num_replays == replays, f"after plan {number}"
        assert ids_by_slot(result) == ids_by_slot(want)
        assert result.logprob_positions == want.logprob_positions
        assert result.logprobs.logprobs == pytest.approx(want.logprobs.logprobs, abs=1e-5)


def test_a_prompt_that_is_scored_while_a_row_samples_goes_the_eager_way(loaded: LoadedModel) -> None:
    """A resumed sequence whose plan computes its prompt token by token."""
    params = SamplingParams(temperature=0.0, prompt_logprobs=0)
    stack = Stack(loaded, has_graphs=True)
    added = [NewSequence(SeqSlot(0), "one", [3, 4, 5], 3, params, [])]
    result = stack.runner.execute(plan_of(1, [(0, 0, 1)], added))
    assert stack.recorder.num_replays == 0
    assert result.logprob_positions == [1]


def test_a_reset_leaves_graphs_usable(loaded: LoadedModel) -> None:
    params = SamplingParams(temperature=0.0)
    stack = Stack(loaded, has_graphs=True)
    plans = [prefill(1, [0, 1], params), plan_of(2, [(0, len(prompt_of(0)), 1), (1, len(prompt_of(1)), 1)])]
    first = [stack.runner.execute(plan).token_ids for plan in plans]
    stack.runner.reset()
    assert [stack.runner.execute(plan).token_ids for plan in plans] == first
    assert stack.recorder.num_replays == 2


def test_what_cannot_be_captured_is_said(loaded: LoadedModel, tmp_path: Path) -> None:
    layout = BlockLayout(2, 2, 16, BLOCK_SIZE, torch.float32)
    attention = RefillableReference(layout.pages(layout.allocate(1, CPU)), [None, None])
    assert why_not(loaded.model, attention) is None
    assert "plans each step on the host" in str(why_not(loaded.model, object()))
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    dynamic = load_model(make_checkpoint(tmp_path, rope_parameters=rope), device=CPU, max_model_tokens=64, isa=None)
    assert "dynamic RoPE" in str(why_not(dynamic.model, attention))
