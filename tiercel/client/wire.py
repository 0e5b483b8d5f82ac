"""From received messages to the client's own types. The only reader of generated event and status types."""

from collections.abc import Iterator

from tiercel.client.events import (
    Alternative,
    CachedTokens,
    ChoiceEnd,
    Delta,
    EndedRequest,
    Event,
    Finished,
    FinishReason,
    Preemption,
    PromptLogprobs,
    ReportPhase,
    RequestReport,
    Started,
    TokenLogprob,
    Usage,
)
from tiercel.client.status import ModelInfo, MoveStatus, ServiceStatus, StackStatus, TierStatus, WorkerStatus
from tiercel.v1 import common_pb2, inference_pb2

_REASONS = {
    common_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    common_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    common_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}


def event(message: inference_pb2.GenerateEvent) -> Event | None:
    """None for an event of a later version that this client does not know."""
    match message.WhichOneof("event"):
        case "delta":
            delta = message.delta
            return Delta(delta.index, delta.text, list(delta.token_ids), logprobs(delta.logprobs))
        case "started":
            started = message.started
            return Started(
                started.request_id, started.model, started.prompt_tokens, cached_tokens(started.cached_tokens)
            )
        case "prompt_logprobs":
            return PromptLogprobs(logprobs(message.prompt_logprobs.logprobs))
        case "finished":
            finished = message.finished
            ends = tuple(_choice_end(end) for end in finished.choices)
            return Finished(ends, usage(finished.usage), report(finished.report))
        case _:
            return None


def _choice_end(end: inference_pb2.ChoiceEnd) -> ChoiceEnd:
    return ChoiceEnd(
        index=end.index,
        reason=_REASONS[end.reason],
        completion_tokens=end.completion_tokens,
        stop=end.stop or None,
        stop_token_id=end.stop_token_id if end.HasField("stop_token_id") else None,
    )


def cached_tokens(message: common_pb2.CachedTokens) -> CachedTokens:
    return CachedTokens(message.device, message.host, message.disk)


def usage(message: common_pb2.Usage) -> Usage:
    return Usage(message.prompt_tokens, message.completion_tokens, cached_tokens(message.cached_tokens))


def report(message: common_pb2.RequestReport) -> RequestReport:
    return RequestReport(
        request_id=message.request_id,
        queue_ns=message.queue_ns,
        prefill_ns=message.prefill_ns,
        decode_ns=message.decode_ns,
        ttft_ns=message.ttft_ns,
        e2e_ns=message.e2e_ns,
        tokenize_ns=message.tokenize_ns,
        preemptions=message.preemptions,
        prefill_chunks=message.prefill_chunks,
        worker=message.worker,
        received_unix_ns=message.received_unix_ns,
        fetch_ns=message.fetch_ns,
        load_ns=message.load_ns,
        lookup_ns=message.lookup_ns,
        schedule_ns=message.schedule_ns,
        transit_ns=message.transit_ns,
        detokenize_ns=message.detokenize_ns,
        queue_ahead=message.queue_ahead,
        model=message.model,
        trace_id=message.trace_id,
        error=message.error,
        error_message=message.error_message,
        phases=tuple(_phase(phase) for phase in message.phases),
        preemption_events=tuple(
            Preemption(event.choice, event.at_ns, event.computed_tokens) for event in message.preemption_events
        ),
    )


def ended_request(message: inference_pb2.GetReportResponse) -> EndedRequest:
    return EndedRequest(report(message.report), usage(message.usage))


def _phase(message: common_pb2.ReportPhase) -> ReportPhase:
    return ReportPhase(
        name=message.name,
        start_ns=message.start_ns,
        duration_ns=message.duration_ns,
        choice=message.choice,
        first_token=message.first_token,
        tokens=message.tokens,
        compute_ns=message.compute_ns,
        blocks=message.blocks,
        wanted_blocks=message.wanted_blocks,
        bytes=message.bytes,
        copy_ns=message.copy_ns,
        is_abandoned=message.is_abandoned,
    )


def logprobs(columns: common_pb2.LogprobColumns) -> tuple[TokenLogprob, ...]:
    return tuple(_logprob_rows(columns)) if columns.token_ids else ()


def _logprob_rows(columns: common_pb2.LogprobColumns) -> Iterator[TokenLogprob]:
    first_top = 0
    for i, token_id in enumerate(columns.token_ids):
        end_top = first_top + columns.num_top[i]
        top = tuple(Alternative(columns.top_token_ids[j], columns.top_logprobs[j]) for j in range(first_top, end_top))
        yield TokenLogprob(token_id, columns.logprobs[i], columns.ranks[i], top)
        first_top = end_top


def model_info(message: inference_pb2.ModelInfo) -> ModelInfo:
    return ModelInfo(
        message.id, message.fingerprint, message.max_model_tokens, message.vocab_size, message.has_chat_template
    )


def stack_status(message: inference_pb2.GetStatusResponse) -> StackStatus:
    return StackStatus(
        services=tuple(_service_status(service) for service in message.services),
        models=tuple(model_info(model) for model in message.models),
    )


def _service_status(message: common_pb2.ServiceStatus) -> ServiceStatus:
    return ServiceStatus(
        role=message.role,
        address=message.address,
        pid=message.pid,
        state=message.state,
        uptime_ns=message.uptime_ns,
        detail=message.detail,
        worker=_worker_status(message.worker) if message.HasField("worker") else None,
        metrics_address=message.metrics_address,
    )


def _worker_status(message: common_pb2.WorkerStatus) -> WorkerStatus:
    return WorkerStatus(
        model=message.model,
        device=message.device,
        dtype=message.dtype,
        kv_dtype=message.kv_dtype,
        attention_backend=message.attention_backend,
        weights=message.weights,
        weight_bytes=message.weight_bytes,
        block_size_tokens=message.block_size_tokens,
        block_bytes=message.block_bytes,
        max_model_tokens=message.max_model_tokens,
        max_batched_tokens=message.max_batched_tokens,
        max_seqs=message.max_seqs,
        running=message.running,
        waiting=message.waiting,
        steps=message.steps,
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        preemptions=message.preemptions,
        tiers=tuple(_tier_status(tier) for tier in message.tiers),
        step_gap_p50_ns=message.step_gap_p50_ns,
        step_gap_p99_ns=message.step_gap_p99_ns,
        back_to_back_steps=message.back_to_back_steps,
        moves=tuple(_move_status(move) for move in message.moves),
    )


def _tier_status(message: common_pb2.TierStatus) -> TierStatus:
    return TierStatus(
        message.tier,
        message.capacity_blocks,
        message.in_use_blocks,
        message.cached_blocks,
        message.lookup_tokens,
        message.hit_tokens,
        message.pinned_blocks,
        message.evicted_blocks,
        message.note,
    )


def _move_status(message: common_pb2.MoveStatus) -> MoveStatus:
    return MoveStatus(
        message.move,
        message.transfers,
        message.blocks,
        message.bytes,
        message.copy_ns,
        message.wait_ns,
        message.failed_transfers,
        dict(message.failures),
    )
