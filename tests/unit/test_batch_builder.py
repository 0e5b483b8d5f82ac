"""A batch that is carried over from the step before is the batch that would be built anew."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.batch import StepBatch, build_ragged
from engine.execution.batch_builder import BatchBuilder
from engine.execution.decode_columns import DecodeInputs
from engine.execution.slots import Slots
from engine.execution.staging import SharedStaging, Staging
from engine.ids import BlockId, SeqSlot
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, Work
from tests.fakes.copied_staging import CopiedStaging

MAX_TOKENS = 64
STAGING = SharedStaging(torch.device("cpu"))
COPIED = CopiedStaging()


def filled_slots(lengths: list[int], block_size: int) -> Slots:
    slots = Slots(len(lengths), MAX_TOKENS, block_size, STAGING)
    for i, length in enumerate(lengths):
        slots.add(NewSequence(SeqSlot(i), f"r{i}", [1] * length, length, SamplingParams(), []))
        num_blocks = -(-length // block_size)
        slots.append_blocks([i], [num_blocks], [100 * i + j for j in range(num_blocks)])
    return slots


def decode_work(rng: Random, slots: Slots, order: list[int], starts: dict[int, int]) -> Work:
    """One token for each slot, a block for each that has none left, told to `slots` as the runner does."""
    work = Work()
    for slot in order:
        work.slots.append(SeqSlot(slot))
        work.starts.append(starts[slot])
        work.num_tokens.append(1)
        work.samples.append(True)
        is_full = starts[slot] >= slots.capacity_tokens[slot]
        work.num_new_blocks.append(int(is_full))
        if is_full:
            work.new_block_ids.append(BlockId(rng.randrange(1000, 9999)))
    slots.append_blocks(work.slots, work.num_new_blocks, work.new_block_ids)
    return work


def assert_same(one: StepBatch, other: StepBatch) -> None:
    def flat(batch: StepBatch) -> dict[str, object]:
        names = {field.name for field in fields(batch)} - {"attention", "is_decode"}
        outer = {name: getattr(batch, name) for name in names}
        inner = {field.name: getattr(batch.attention, field.name) for field in fields(batch.attention)}
        del inner["continues"]
        return {
            name: value.tolist() if hasattr(value, "tolist") else value for name, value in {**outer, **inner}.items()
        }

    assert flat(one) == flat(other)


def assert_in_place(batch: StepBatch, inputs: DecodeInputs) -> None:
    """The batch is where graphs read it, and the rows behind it are padding."""
    rows, attention = len(batch.slots), batch.attention
    assert inputs.token_entries[:rows].tolist() == batch.token_entries.tolist()
    assert inputs.positions[:rows].tolist() == attention.positions.tolist()
    buffers = inputs.attention
    assert buffers.context_lens.tolist() == attention.context_lens + [0] * (buffers.num_rows - rows)
    assert buffers.write_slots[:rows].tolist() == attention.write_slots.tolist()
    assert set(buffers.write_slots[rows:].tolist()) <= {-1}
    assert set(inputs.positions[rows:].tolist()) <= {0}
    assert set(inputs.token_entries[rows:].tolist()) <= {0}
    table = attention.block_table
    assert buffers.block_table[:rows, : table.shape[1]].tolist() == table.tolist()


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    block_size=st.sampled_from([3, 8, 16]),
    num_steps=st.integers(1, 12),
    with_prompt_lengths=st.booleans(),
    seed=st.integers(0, 99),
    staging=st.sampled_from([STAGING, COPIED]),
)
def test_carried_over_is_built_anew(
    lengths: list[int], block_size: int, num_steps: int, with_prompt_lengths: bool, seed: int, staging: Staging
) -> None:
    rng = Random(seed)
    slots = filled_slots(lengths, block_size)
    builder = BatchBuilder(slots, staging, with_prompt_lengths)
    starts = dict(enumerate(lengths))
    order = rng.sample(range(len(lengths)), len(lengths))
    for _ in range(num_steps):
        if rng.random() < 0.2:
            # Another order, or fewer rows: nothing can be carried over.
            order = rng.sample(range(len(lengths)), rng.randint(1, len(lengths)))
        work = decode_work(rng, slots, order, starts)
        batch = builder.build(work)
        assert_same(batch, build_ragged(work, slots, staging, with_prompt_lengths))
        if not staging.is_shared:
            assert_in_place(batch, builder.decode_inputs)
        for slot in order:
            starts[slot] += 1


def test_last_token_of_a_slot_is_never_an_input() -> None:
    slots = filled_slots([MAX_TOKENS - 2], 16)
    builder = BatchBuilder(slots, STAGING, with_prompt_lengths=False)
    for start in (MAX_TOKENS - 2, MAX_TOKENS - 1):
        batch = builder.build(decode_work(Random(0), slots, [0], {0: start}))
        assert batch.sample_entries.tolist() == [MAX_TOKENS - 1]
        assert batch.sample_positions.tolist() == [start + 1]


def test_work_beyond_the_blocks_is_refused_when_carried_over() -> None:
    slots = filled_slots([15], 16)
    builder = BatchBuilder(slots, STAGING, with_prompt_lengths=False)
    builder.build(decode_work(Random(0), slots, [0], {0: 15}))
    work = Work([SeqSlot(0)], [16], [1], [True], [0], [])
    with pytest.raises(ValueError, match="fewer blocks"):
        builder.build(work)


def test_a_slot_that_changed_hands_is_looked_up_again() -> None:
    slots = filled_slots([20], 16)
    builder = BatchBuilder(slots, STAGING, with_prompt_lengths=True)
    builder.build(decode_work(Random(0), slots, [0], {0: 20}))
    slots.release(0)
    slots.add(NewSequence(SeqSlot(0), "other", [1] * 22, 9, SamplingParams(), [BlockId(7), BlockId(8)]))
    builder.forget()
    batch = builder.build(decode_work(Random(0), slots, [0], {0: 21}))
    assert batch.attention.block_table.tolist() == [[7, 8]]
    assert batch.num_prompt_tokens is not None
    assert batch.num_prompt_tokens.tolist() == [9]
