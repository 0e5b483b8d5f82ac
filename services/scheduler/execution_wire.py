"""The scheduler's side of execution.proto: plans out, results in."""

from collections.abc import Callable

from engine.errors import ConfigError
from engine.ids import SeqSlot, StepId, TransferId
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.pins import PinChange
from engine.scheduling.plan import (
    NewSequence,
    StepPlan,
    StepResult,
    StepTimings,
    TierEvents,
    Transfer,
    TransferFailure,
    TransferKind,
    TransferResult,
)
from services.common.keys_wire import keys_from_wire, keys_to_wire
from services.common.logprobs_wire import logprobs_from_wire
from services.common.sampling_wire import sampling_to_wire
from services.common.trace_context import child_context, span_context, trace_of, trace_to_wire
from services.scheduler.config import SchedulerServiceConfig
from tiercel.v1 import common_pb2, execution_pb2


def plan_to_wire(plan: StepPlan, client_id: Callable[[str], str]) -> execution_pb2.PlanMessage:
    """`client_id` gives the id that the client knows a request by, which is what the worker's logs should say."""
    work = plan.work
    return execution_pb2.PlanMessage(
        plan=execution_pb2.StepPlan(
            step_id=plan.step_id,
            released_slots=plan.released_slots,
            new_sequences=[_new_sequence(sequence, client_id) for sequence in plan.new_sequences],
            work=execution_pb2.WorkColumns(
                slots=work.slots,
                starts=work.starts,
                num_tokens=work.num_tokens,
                samples=work.samples,
                num_new_blocks=work.num_new_blocks,
                new_block_ids=work.new_block_ids,
            ),
        )
    )


def _new_sequence(sequence: NewSequence, client_id: Callable[[str], str]) -> execution_pb2.NewSequence:
    return execution_pb2.NewSequence(
        slot=sequence.slot,
        request_id=client_id(sequence.request_id),
        token_ids=sequence.token_ids,
        num_prompt_tokens=sequence.num_prompt_tokens,
        sampling=sampling_to_wire(sequence.sampling),
        block_ids=sequence.block_ids,
        trace=trace_to_wire(sequence.trace),
    )


_KINDS = {
    TransferKind.SPILL: execution_pb2.TRANSFER_KIND_SPILL,
    TransferKind.LOAD: execution_pb2.TRANSFER_KIND_LOAD,
    TransferKind.PERSIST: execution_pb2.TRANSFER_KIND_PERSIST,
    TransferKind.FETCH: execution_pb2.TRANSFER_KIND_FETCH,
}
_FAILURES = {
    execution_pb2.TRANSFER_FAILURE_UNSPECIFIED: None,
    execution_pb2.TRANSFER_FAILURE_MISSING: TransferFailure.MISSING,
    execution_pb2.TRANSFER_FAILURE_CORRUPT: TransferFailure.CORRUPT,
    execution_pb2.TRANSFER_FAILURE_FULL: TransferFailure.FULL,
    execution_pb2.TRANSFER_FAILURE_IO_ERROR: TransferFailure.IO_ERROR,
    execution_pb2.TRANSFER_FAILURE_TIMEOUT: TransferFailure.TIMEOUT,
    execution_pb2.TRANSFER_FAILURE_CANCELLED: TransferFailure.CANCELLED,
}


def transfers_to_wire(transfers: list[Transfer]) -> execution_pb2.PlanMessage:
    rows = [
        execution_pb2.Transfer(
            transfer_id=transfer.transfer_id,
            kind=_KINDS[transfer.kind],
            keys=keys_to_wire(transfer.keys),
            block_ids=transfer.block_ids,
            host_slots=transfer.host_slots,
            depths=transfer.depths,
            tenant=transfer.tenant,
            timeout_ns=transfer.timeout_ns,
            trace=_transfer_trace(transfer),
        )
        for transfer in transfers
    ]
    return execution_pb2.PlanMessage(transfers=execution_pb2.Transfers(transfers=rows))


def _transfer_trace(transfer: Transfer) -> common_pb2.TraceContext | None:
    """Of the span that will tell of the wait for it."""
    waiting = span_context(transfer.trace)
    if waiting is None or not transfer.stretch:
        return None
    return trace_to_wire(trace_of(child_context(waiting, transfer.stretch), transfer.trace.clock_offset_ns))


def transfer_result_from_wire(message: execution_pb2.TransferResult) -> TransferResult:
    return TransferResult(
        TransferId(message.transfer_id),
        message.num_done,
        # A reason that this release does not know is a failure all the same.
        _FAILURES.get(message.failure, TransferFailure.IO_ERROR),
        message.num_bytes,
        message.wait_ns,
        message.copy_ns,
    )


def tier_events_from_wire(message: execution_pb2.TierEvents) -> TierEvents:
    return TierEvents(
        keys_from_wire(message.stored),
        keys_from_wire(message.evicted),
        keys_from_wire(message.corrupt),
        message.begins_listing,
        message.ends_listing,
    )


def pin_to_wire(change: PinChange) -> execution_pb2.PlanMessage:
    return execution_pb2.PlanMessage(
        pin=execution_pb2.PinnedKeys(name=change.name, keys=keys_to_wire(change.keys), is_removed=not change.keys)
    )


def result_from_wire(message: execution_pb2.StepResult) -> StepResult:
    timings = message.timings
    result = StepResult(
        StepId(message.step_id),
        list(map(SeqSlot, message.slots)),
        list(message.token_ids),
        timings=StepTimings(timings.received_ns, timings.start_ns, timings.end_ns, timings.gap_ns),
    )
    if message.logprob_slots:
        result.logprob_slots = list(map(SeqSlot, message.logprob_slots))
        result.logprob_positions = list(message.logprob_positions)
        result.logprobs = logprobs_from_wire(message.logprobs)
    return result


def scheduler_config(ready: execution_pb2.Ready, config: SchedulerServiceConfig) -> SchedulerConfig:
    """Limits from what the worker says and the operator set. A context beyond the pool is cut to the pool.

    Raises ConfigError for a worker whose figures make no sense.
    """
    if not ready.num_blocks or not ready.block_size_tokens:
        raise ConfigError("the worker reports a pool without blocks")
    return SchedulerConfig(
        num_blocks=ready.num_blocks,
        block_size=ready.block_size_tokens,
        max_seqs=ready.max_seqs,
        max_batched_tokens=ready.max_batched_tokens,
        max_model_tokens=min(ready.max_model_tokens, ready.num_blocks * ready.block_size_tokens),
        namespace=ready.namespace,
        max_waiting=config.max_waiting,
        prefix_cache=config.prefix_cache,
        plans_in_flight=config.plans_in_flight,
        rope_length_dependent_from=ready.rope_length_dependent_from_tokens,
        num_host_slots=ready.num_host_slots,
        block_bytes=ready.block_bytes,
        has_disk=bool(ready.disk_id),
        max_pinned_disk_blocks=ready.max_pinned_disk_blocks,
        always_bring=config.always_bring,
        host_tenant_cap_bytes=config.tenant_host_cache or 0,
    )
