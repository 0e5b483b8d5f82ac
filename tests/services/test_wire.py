"""What is sent is what arrives: sampling, plans, results, log probabilities."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.ids import BlockId, SeqSlot, StepId
from engine.logprobs import Logprobs
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, StepResult, StepTimings, TraceContext, Work
from services.common.logprobs_wire import logprobs_from_wire, logprobs_to_wire, split_entries
from services.common.sampling_wire import sampling_from_wire, sampling_to_wire
from services.scheduler.execution_wire import plan_to_wire, result_from_wire
from services.worker.wire import plan_from_wire, result_to_wire
from tiercel.v1 import common_pb2, execution_pb2

ids = st.integers(0, 2**32 - 1)
floats = st.floats(-1e6, 1e6, width=32)
id_lists = st.lists(ids, max_size=5)

samplings = st.builds(
    SamplingParams,
    temperature=floats,
    top_p=floats,
    top_k=st.integers(0, 2**31 - 1),
    min_p=floats,
    seed=st.integers(0, 2**64 - 1),
    max_tokens=ids,
    min_tokens=ids,
    presence_penalty=floats,
    frequency_penalty=floats,
    repetition_penalty=floats,
    logit_bias=st.lists(st.tuples(ids, floats), max_size=4).map(tuple),
    allowed_token_ids=id_lists.map(tuple),
    stop_token_ids=id_lists.map(tuple),
    bad_words=st.lists(id_lists.map(tuple), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
)


@st.composite
def logprob_columns(draw: st.DrawFn) -> Logprobs:
    logprobs = Logprobs()
    for _ in range(draw(st.integers(0, 4))):
        top = draw(id_lists)
        logprobs.append(draw(ids), draw(floats), draw(ids), top, [draw(floats) for _ in top])
    return logprobs


@given(samplings)
def test_sampling_survives_the_wire(params: SamplingParams) -> None:
    data = sampling_to_wire(params).SerializeToString()
    assert sampling_from_wire(common_pb2.TokenSampling.FromString(data)) == params


@given(logprob_columns())
def test_logprobs_survive_the_wire_and_the_split_into_entries(logprobs: Logprobs) -> None:
    data = logprobs_to_wire(logprobs).SerializeToString()
    again = logprobs_from_wire(common_pb2.LogprobColumns.FromString(data))
    assert again == logprobs
    joined = Logprobs()
    for entry in split_entries(again):
        assert len(entry) == 1
        joined.extend(entry)
    assert joined == logprobs


@given(samplings, id_lists, st.lists(st.tuples(ids, ids, ids, st.booleans(), ids), max_size=4), id_lists)
def test_a_plan_survives_the_wire(
    params: SamplingParams, token_ids: list[int], rows: list[tuple[int, int, int, bool, int]], blocks: list[int]
) -> None:
    sequence = NewSequence(
        slot=SeqSlot(3),
        request_id="1/7",
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        sampling=params,
        block_ids=list(map(BlockId, blocks)),
        trace=TraceContext("00-aa-bb-01", "k=v"),
    )
    columns: list[Any] = [[row[i] for row in rows] for i in range(5)]
    work = Work(columns[0], columns[1], columns[2], columns[3], columns[4], list(map(BlockId, blocks)))
    plan = StepPlan(StepId(9), [SeqSlot(1), SeqSlot(2)], [sequence], work)
    data = plan_to_wire(plan, lambda engine_id: engine_id).SerializeToString()
    assert plan_from_wire(execution_pb2.PlanMessage.FromString(data).plan, 0) == plan


@given(id_lists, logprob_columns())
def test_a_result_survives_the_wire(token_ids: list[int], logprobs: Logprobs) -> None:
    result = StepResult(
        StepId(4),
        [SeqSlot(i) for i in range(len(token_ids))],
        token_ids,
        [SeqSlot(0)] * len(logprobs),
        list(range(len(logprobs))),
        logprobs,
        StepTimings(received_ns=1, start_ns=2, end_ns=3, gap_ns=4),
    )
    data = result_to_wire(result).SerializeToString()
    assert result_from_wire(execution_pb2.WorkerMessage.FromString(data).result) == result
