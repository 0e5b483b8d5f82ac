"""Step plans and results as protobuf columns. Runs on the asyncio thread, never on the engine's."""

from engine.ids import BlockId, SeqSlot, StepId
from engine.scheduling.plan import NewSequence, StepPlan, StepResult, Work
from services.common.logprobs_wire import logprobs_to_wire
from services.common.sampling_wire import sampling_from_wire
from services.common.trace_context import trace_from_wire
from services.worker.engine_session import StepFault
from services.worker.loaded_engine import WorkerFacts
from tiercel.v1 import execution_pb2


def plan_from_wire(message: execution_pb2.StepPlan, received_ns: int) -> StepPlan:
    """`received_ns` is monotonic."""
    work = message.work
    return StepPlan(
        StepId(message.step_id),
        list(map(SeqSlot, message.released_slots)),
        [_new_sequence(sequence, received_ns) for sequence in message.new_sequences],
        Work(
            list(map(SeqSlot, work.slots)),
            list(work.starts),
            list(work.num_tokens),
            list(work.samples),
            list(work.num_new_blocks),
            list(map(BlockId, work.new_block_ids)),
        ),
    )


def _new_sequence(message: execution_pb2.NewSequence, received_ns: int) -> NewSequence:
    return NewSequence(
        slot=SeqSlot(message.slot),
        request_id=message.request_id,
        token_ids=list(message.token_ids),
        num_prompt_tokens=message.num_prompt_tokens,
        sampling=sampling_from_wire(message.sampling),
        block_ids=list(map(BlockId, message.block_ids)),
        trace=trace_from_wire(message.trace, received_ns),
    )


def result_to_wire(result: StepResult) -> execution_pb2.WorkerMessage:
    timings = result.timings
    message = execution_pb2.StepResult(
        step_id=result.step_id,
        slots=result.slots,
        token_ids=result.token_ids,
        timings=execution_pb2.StepTimings(
            start_ns=timings.start_ns,
            end_ns=timings.end_ns,
            gap_ns=timings.gap_ns,
            received_ns=timings.received_ns,
        ),
    )
    if result.logprob_slots:
        message.logprob_slots.extend(result.logprob_slots)
        message.logprob_positions.extend(result.logprob_positions)
        message.logprobs.CopyFrom(logprobs_to_wire(result.logprobs))
    return execution_pb2.WorkerMessage(result=message)


def fault_to_wire(fault: StepFault) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(
        fault=execution_pb2.Fault(kind=fault.kind, message=fault.message, slots=fault.slots, step_id=fault.step_id)
    )


def ready_to_wire(facts: WorkerFacts, pid: int, metrics_address: str) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(
        ready=execution_pb2.Ready(
            model=facts.model,
            fingerprint=facts.fingerprint,
            namespace=facts.namespace,
            block_size_tokens=facts.block_size_tokens,
            block_bytes=facts.block_bytes,
            num_blocks=facts.num_blocks,
            max_seqs=facts.max_seqs,
            max_model_tokens=facts.max_model_tokens,
            max_batched_tokens=facts.max_batched_tokens,
            vocab_size=facts.vocab_size,
            device=facts.device,
            dtype=facts.dtype,
            kv_dtype=facts.kv_dtype,
            attention_backend=facts.attention_backend,
            weights=facts.weights,
            weight_bytes=facts.weight_bytes,
            pid=pid,
            rope_length_dependent_from_tokens=facts.rope_length_dependent_from_tokens,
            num_host_slots=facts.num_host_slots,
            host_is_pinned=facts.host_is_pinned,
            disk_id=facts.disk_id,
            disk_capacity_bytes=facts.disk_capacity_bytes,
            host_note=facts.host_note,
            disk_note=facts.disk_note,
            metrics_address=metrics_address,
            max_pinned_disk_blocks=facts.max_pinned_disk_blocks,
        )
    )
