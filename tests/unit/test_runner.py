"""The model runner carries out plans: slots, blocks, chunks, samples, log probabilities."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.execution.loading import LoadedModel, load_model
from engine.execution.runner import ModelRunner
from engine.ids import BlockId, SeqSlot, StepId
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, Work
from kernels.attention.choice import choose_attention
from kvstore.layout import BlockLayout
from tests.checkpoints import make_checkpoint

CPU = torch.device("cpu")
BLOCK_SIZE = 8
GREEDY = SamplingParams(temperature=0.0, max_tokens=16)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(make_checkpoint(tmp_path_factory.mktemp("runner")), device=CPU, max_model_tokens=64)


def make_runner(loaded: LoadedModel, max_seqs: int = 4) -> ModelRunner:
    config = loaded.config
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, loaded.model.dtype)
    attention = choose_attention(layout.pages(layout.allocate(40, CPU)), config.windows, loaded.model.dtype)
    return ModelRunner(loaded.model, attention, block_size=BLOCK_SIZE, max_seqs=max_seqs, max_model_tokens=64)


def new(slot: int, token_ids: list[int], params: SamplingParams = GREEDY, num_prompt: int | None = None) -> NewSequence:
    return NewSequence(SeqSlot(slot), f"r{slot}", token_ids, num_prompt or len(token_ids), params, [])


def make_plan(
    step: int,
    rows: Sequence[tuple[int, int, int, bool, list[int]]] = (),
    added: Sequence[NewSequence] = (),
    released: Sequence[int] = (),
) -> StepPlan:
    """`rows` are (slot, start, number of tokens, samples, new blocks)."""
    work = Work()
    for slot, start, count, samples, blocks in rows:
        work.slots.append(SeqSlot(slot))
        work.starts.append(start)
        work.num_tokens.append(count)
        work.samples.append(samples)
        work.num_new_blocks.append(len(blocks))
        work.new_block_ids.extend(BlockId(block) for block in blocks)
    return StepPlan(StepId(step), [SeqSlot(slot) for slot in released], list(added), work)


def ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_a_decode_row_takes_the_token_sampled_in_the_plan_before(loaded: LoadedModel) -> None:
    prompt = ids(5)
    runner = make_runner(loaded)
    first = runner.execute(make_plan(1, [(0, 0, 5, True, [3])], [new(0, prompt)])).token_ids
    second = runner.execute(make_plan(2, [(0, 5, 1, True, [])])).token_ids
    resumed = make_runner(loaded)
    plan = make_plan(1, [(2, 0, 6, True, [7])], [new(2, prompt + first, num_prompt=5)])
    assert resumed.execute(plan).token_ids == second


def test_results_do_not_depend_on_the_order_of_the_plan(loaded: LoadedModel) -> None:
    prompts = {0: ids(3, 1), 1: ids(9, 2), 3: ids(1, 3)}
    alone = {}
    for slot, prompt in prompts.items():
        plan = make_plan(1, [(slot, 0, len(prompt), True, [1, 2])], [new(slot, prompt)])
        alone[slot] = make_runner(loaded).execute(plan).token_ids[0]
    for order in ([3, 0, 1], [1, 3, 0]):
        runner = make_runner(loaded)
        rows = [(slot, 0, len(prompts[slot]), True, [2 * slot, 2 * slot + 1]) for slot in order]
        result = runner.execute(make_plan(1, rows, [new(slot, prompts[slot]) for slot in order]))
        assert dict(zip(result.slots, result.token_ids, strict=True)) == alone


def test_rows_that_do_not_sample_are_not_in_the_result(loaded: LoadedModel) -> None:
    runner = make_runner(loaded)
    rows = [(0, 0, 4, False, [0]), (1, 0, 2, True, [1])]
    result = runner.execute(make_plan(1, rows, [new(0, ids(6)), new(1, ids(2, 4))]))
    assert result.slots == [1]
    assert runner.execute(make_plan(2, [(0, 4, 1, False, [])])).slots == []


def test_a_released_slot_is_free_in_the_same_plan(loaded: LoadedModel) -> None:
    prompt = ids(6, 5)
    expected = make_runner(loaded).execute(make_plan(1, [(0, 0, 6, True, [0])], [new(0, prompt)])).token_ids
    runner = make_runner(loaded)
    runner.execute(make_plan(1, [(0, 0, 20, True, [0, 1, 2])], [new(0, ids(20, 6))]))
    plan = make_plan(2, [(0, 0, 6, True, [1])], [new(0, prompt)], released=[0])
    assert runner.execute(plan).token_ids == expected


def test_a_plan_without_work_is_answered(loaded: LoadedModel) -> None:
    runner = make_runner(loaded)
    runner.execute(make_plan(1, [(0, 0, 6, True, [0])], [new(0, ids(6))]))
    result = runner.execute(make_plan(2, released=[0]))
    assert (result.step_id, result.slots) == (2, [])
    assert result.timings.end_ns >= result.timings.start_ns > 0


@pytest.mark.parametrize("chunks", [[20], [1, 7, 12], [8, 8, 4], [19, 1]])
def test_prompt_scores_cover_every_prompt_position_once_however_it_is_cut(
    loaded: LoadedModel, chunks: list[int]
) -> None:
    prompt = ids(20, 7)
    params = SamplingParams(temperature=0.0, max_tokens=4, prompt_logprobs=2, logprobs=1)
    runner = make_runner(loaded)
    positions: list[int] = []
    logprobs: list[float] = []
    start = 0
    for step, count in enumerate(chunks):
        end = start + count
        rows = [(0, start, count, end == 20, [4, 5, 6] if start == 0 else [])]
        result = runner.execute(make_plan(step + 1, rows, [new(0, prompt, params)] if start == 0 else []))
        positions.extend(result.logprob_positions)
        logprobs.extend(result.logprobs.logprobs)
        start = end
    assert positions == list(range(1, 21)), "19 of the prompt, and the sampled token"
    whole = make_runner(loaded).execute(make_plan(1, [(0, 0, 20, True, [1, 2, 3])], [new(0, prompt, params)]))
    assert logprobs == pytest.approx(whole.logprobs.logprobs, abs=1e-4)
    assert whole.logprobs.token_ids == [*prompt[1:], whole.token_ids[0]]
    assert whole.logprobs.num_top == [2] * 19 + [1]


def test_only_rows_that_ask_are_scored(loaded: LoadedModel) -> None:
    runner = make_runner(loaded)
    asks = SamplingParams(temperature=0.0, max_tokens=4, logprobs=0)
    rows = [(0, 0, 3, True, [0]), (1, 0, 3, True, [1])]
    result = runner.execute(make_plan(1, rows, [new(0, ids(3)), new(1, ids(3), asks)]))
    assert result.logprob_slots == [1]
    assert result.logprob_positions == [3]
    assert result.logprobs.token_ids == [result.token_ids[1]]


def test_a_row_without_finite_logits_voids_its_slot_and_no_other(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    state = load_file(directory / "model.safetensors")
    state["model.embed_tokens.weight"][13] = float("nan")
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(directory, device=CPU, max_model_tokens=64)
    sound = [token for token in ids(12, 8) if token != 13]
    expected = make_runner(loaded).execute(make_plan(1, [(0, 0, len(sound), True, [0, 1])], [new(0, sound)]))
    runner = make_runner(loaded)
    rows = [(1, 0, 2, True, [5]), (0, 0, len(sound), True, [0, 1])]
    result = runner.execute(make_plan(1, rows, [new(1, [13, 4]), new(0, sound)]))
    assert runner.void_slots == [1]
    assert (result.slots, result.token_ids) == ([0], expected.token_ids)
    # The slot may be in the next plan already; and its block may go to another sequence afterwards.
    runner.execute(make_plan(2, [(1, 2, 1, True, [])]))
    reused = runner.execute(make_plan(3, [(2, 0, len(sound), True, [5, 0])], [new(2, sound)], released=[1, 0]))
    assert runner.void_slots == []
    assert reused.token_ids == expected.token_ids


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (make_plan(1, [(0, 0, 9, True, [0])], [new(0, ids(9))]), r"slots \[0\] have fewer blocks"),
        (make_plan(1, [(0, 0, 0, True, [0])], [new(0, ids(9))]), "at least one token"),
        (make_plan(1, added=[new(0, ids(3)), new(0, ids(3))]), "slot 0 is taken"),
        (make_plan(1, added=[new(9, ids(3))]), "slot 9 is outside"),
        (make_plan(1, added=[new(0, ids(65))]), "has 65 tokens; a sequence has 1 to 64"),
    ],
)
def test_a_contradictory_plan_is_refused(loaded: LoadedModel, plan: StepPlan, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_runner(loaded).execute(plan)


def test_a_runner_that_was_warmed_up_gives_what_a_new_one_gives(loaded: LoadedModel) -> None:
    plan = make_plan(1, [(0, 0, 20, True, [1, 0, 2])], [new(0, ids(20))])
    warm = make_runner(loaded)
    warm.warm_up(63)
    assert warm.execute(plan).token_ids == make_runner(loaded).execute(plan).token_ids
    assert warm.void_slots == []


def test_reset_forgets_every_sequence(loaded: LoadedModel) -> None:
    runner = make_runner(loaded)
    plan = make_plan(1, [(0, 0, 6, True, [0])], [new(0, ids(6))])
    first = runner.execute(plan).token_ids
    runner.reset()
    assert runner.execute(plan).token_ids == first
