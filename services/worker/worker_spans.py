"""What the worker adds to traces: its steps, and the blocks that it moves.

A step belongs to all of its requests and so to none: it is the root of a trace of its own, with links to their spans.
It tells the time by this host's clock. What a request waits for is a part of that request's trace and tells the time
by the trace's.
"""

import time
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from engine.ids import SeqSlot, StepId
from engine.scheduling.plan import StepPlan, StepResult, TraceContext
from kvstore.transfer import MoveKind, Tier, Transfer, TransferResult
from services.common.telemetry import Telemetry
from services.common.trace_context import new_child, span_context
from services.worker.engine_session import StepFault

_MAX_LINKS = 128
"""The SDK's own default."""

_NS_PER_MS = 1e6
_ROUTES = {
    MoveKind.SPILL: (Tier.DEVICE, Tier.HOST),
    MoveKind.LOAD: (Tier.HOST, Tier.DEVICE),
    MoveKind.PERSIST: (Tier.HOST, Tier.DISK),
    MoveKind.FETCH: (Tier.DISK, Tier.HOST),
}


@dataclass(frozen=True, slots=True)
class _Step:
    links: list[Link]
    num_sequences: int
    num_new: int
    num_tokens: int
    num_prefill_tokens: int


class WorkerSpans:
    """Of one session; on the loop's thread. Does nothing where nobody is told."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        self._writer = telemetry.spans
        self._traced: dict[SeqSlot, SpanContext] = {}
        self._steps: dict[StepId, _Step] = {}
        self._transfers: dict[int, tuple[Transfer, TraceContext]] = {}

    def on_plan(self, plan: StepPlan) -> None:
        if self._writer is None:
            return
        for slot in plan.released_slots:
            self._traced.pop(slot, None)
        for sequence in plan.new_sequences:
            context = span_context(sequence.trace)
            if context is not None:
                self._traced[sequence.slot] = context
        work = plan.work
        if not self._traced:
            return
        traced = (self._traced.get(slot) for slot in work.slots)
        contexts = {context.span_id: context for context in traced if context is not None}
        if contexts:
            self._steps[plan.step_id] = _Step(
                [Link(context) for context in list(contexts.values())[:_MAX_LINKS]],
                len(work),
                len(plan.new_sequences),
                work.total_tokens,
                sum(count for count in work.num_tokens if count > 1),
            )

    def on_result(self, result: StepResult) -> None:
        step = self._steps.pop(result.step_id, None)
        if step is not None:
            timings = result.timings
            self._write_step(result.step_id, step, timings.start_ns, timings.end_ns, timings.gap_ns, None)

    def on_fault(self, fault: StepFault) -> None:
        """The session is void, unless the fault names the slots that it is about: then the result follows."""
        step = None if fault.slots else self._steps.pop(fault.step_id, None)
        if step is not None:
            now_ns = time.monotonic_ns()
            self._write_step(fault.step_id, step, now_ns, now_ns, 0, f"{fault.kind}: {fault.message}")

    def on_transfer(self, transfer: Transfer, trace: TraceContext) -> None:
        """`trace` is of the request that waits for it; empty: nobody does."""
        if self._writer is not None:
            self._transfers[transfer.transfer_id] = (transfer, trace)

    def on_transferred(self, result: TransferResult) -> None:
        transfer, trace = self._transfers.pop(result.transfer_id, (None, None))
        if transfer is None or trace is None or self._writer is None:
            return
        name = "kv.copy" if transfer.kind in (MoveKind.SPILL, MoveKind.LOAD) else "kv.disk"
        source, target = _ROUTES[transfer.kind]
        attributes = {
            "tiercel.kv.move": transfer.kind.value,
            "tiercel.kv.source_tier": source.value,
            "tiercel.kv.target_tier": target.value,
            "tiercel.kv.blocks": result.num_done,
            "tiercel.kv.wanted_blocks": transfer.num_rows,
            "tiercel.kv.bytes": result.num_bytes,
            "tiercel.kv.wait_ms": result.wait_ns / _NS_PER_MS,
            "tiercel.kv.copy_ms": result.copy_ns / _NS_PER_MS,
        }
        error = None if result.failure is None else result.failure.value
        if error is not None:
            attributes["error.type"] = error
        end_ns = result.finished_ns or time.monotonic_ns()
        start_ns = end_ns - result.copy_ns
        waiting = span_context(trace)
        if waiting is not None:
            offset_ns = trace.clock_offset_ns
            self._writer.write(
                name,
                new_child(waiting),
                waiting,
                start_ns + offset_ns,
                end_ns + offset_ns,
                attributes,
                error=error,
            )
            return
        offset_ns = _clock_offset_ns()
        span = self._tracer.start_span(name, Context(), attributes=attributes, start_time=start_ns + offset_ns)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns + offset_ns)

    def _write_step(
        self, step_id: StepId, step: _Step, start_ns: int, end_ns: int, gap_ns: int, error: str | None
    ) -> None:
        offset_ns = _clock_offset_ns()
        attributes = {
            "tiercel.step.id": step_id,
            "tiercel.step.sequences": step.num_sequences,
            "tiercel.step.new_sequences": step.num_new,
            "tiercel.step.tokens": step.num_tokens,
            "tiercel.step.prefill_tokens": step.num_prefill_tokens,
            "tiercel.step.gap_ms": gap_ns / _NS_PER_MS,
        }
        # The sampler sees links and attributes, as they are there from the start.
        span = self._tracer.start_span(
            "step", Context(), attributes=attributes, links=step.links, start_time=start_ns + offset_ns
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns + offset_ns)


def _clock_offset_ns() -> int:
    """From the monotonic clock to the wall clock."""
    return time.time_ns() - time.monotonic_ns()
