"""The scheduler's spans of a request, written from its report when it has ended, after its last message was sent.

schedule ─┬─ kv.lookup
          ├─ queue, kv.fetch, kv.load, prefill, ...
          └─ decode ─── queue, kv.load, prefill of what was preempted, and of the other choices
"""

import asyncio
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanContext

from engine.scheduling.plan import TraceContext
from engine.scheduling.request import CachedTokens
from services.common.trace_context import child_context, new_child, span_context, trace_of
from services.scheduler.request_record import RequestRecord
from tiercel.phases import PhaseName, phase_attributes
from tiercel.v1 import common_pb2

if TYPE_CHECKING:
    from services.common.span_writer import SpanWriter

OUTCOME_CANCELLED = "cancelled"


class RequestSpans:
    """On the loop's thread. Nothing happens where nobody is told, or the request is not traced."""

    def __init__(self, writer: "SpanWriter | None") -> None:
        self._writer = writer

    def enter(self, record: RequestRecord, trace: TraceContext) -> TraceContext:
        """A request has come with this context. Returns the one that its parts belong to."""
        record.clock_offset_ns = trace.clock_offset_ns
        record.parent = span_context(trace)
        if self._writer is None or record.parent is None:
            return trace
        record.context = new_child(record.parent)
        return trace_of(record.context, trace.clock_offset_ns)

    def leave(
        self,
        record: RequestRecord,
        report: common_pb2.RequestReport,
        request_id: str,
        cached: CachedTokens,
        outcome: str,
    ) -> None:
        """The request has ended. `outcome` is a finish reason, the class of an error, or `cancelled`."""
        if record.context is not None:
            # Whatever else this turn of the loop has to do comes first.
            asyncio.get_running_loop().call_soon(self._write, record, report, request_id, cached, outcome)

    def _write(
        self,
        record: RequestRecord,
        report: common_pb2.RequestReport,
        request_id: str,
        cached: CachedTokens,
        outcome: str,
    ) -> None:
        from services.common.span_writer import AttributeValue, SpanEvent

        writer, context = self._writer, record.context
        if writer is None or context is None:
            return
        zero_ns = record.received_ns + record.clock_offset_ns
        decode = next((phase for phase in report.phases if phase.name == PhaseName.DECODE), None)
        decode_context = None if decode is None else new_child(context)
        first_token_ns = None if decode is None else decode.start_ns
        before: list[SpanEvent] = []
        after: list[SpanEvent] = []
        if first_token_ns is not None:
            after.append(SpanEvent("first_token", zero_ns + first_token_ns))
        for preemption in report.preemption_events:
            is_after = first_token_ns is not None and preemption.at_ns >= first_token_ns
            event = SpanEvent(
                "preempted",
                zero_ns + preemption.at_ns,
                {"tiercel.choice": preemption.choice, "tiercel.computed_tokens": preemption.computed_tokens},
            )
            (after if is_after else before).append(event)
        hits: dict[str, AttributeValue] = {
            "gen_ai.usage.input_tokens": record.num_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached.total,
            "tiercel.cache.device_tokens": cached.device,
            "tiercel.cache.host_tokens": cached.host,
            "tiercel.cache.disk_tokens": cached.disk,
        }
        attributes: dict[str, AttributeValue] = {
            "tiercel.request.id": request_id,
            "tiercel.outcome": outcome,
            "tiercel.worker": report.worker,
            "tiercel.queue.ahead": report.queue_ahead,
            "tiercel.preemptions": report.preemptions,
            **hits,
        }
        error = report.error_message if report.error else None
        if report.error:
            attributes["error.type"] = report.error
        for phase in report.phases:
            start_ns = zero_ns + phase.start_ns
            own, parent = self._place(phase, context, decode_context, first_token_ns)
            writer.write(
                phase.name,
                own,
                parent,
                start_ns,
                start_ns + phase.duration_ns,
                hits if phase.name == PhaseName.LOOKUP else phase_attributes(phase),
                events=after if phase is decode else (),
            )
        writer.write(
            "schedule",
            context,
            record.parent,
            zero_ns,
            zero_ns + report.schedule_ns,
            attributes,
            events=before,
            error=error,
        )

    @staticmethod
    def _place(
        phase: common_pb2.ReportPhase,
        context: SpanContext,
        decode_context: SpanContext | None,
        first_token_ns: int | None,
    ) -> tuple[SpanContext, SpanContext]:
        """The phase's context and its parent's. The worker knows those of numbered phases already."""
        own = child_context(context, phase.number) if phase.number else new_child(context)
        if decode_context is None or first_token_ns is None:
            return own, context
        if phase.name == PhaseName.DECODE:
            return decode_context, context
        return own, decode_context if phase.number and phase.start_ns >= first_token_ns else context
