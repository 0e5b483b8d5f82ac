"""What the scheduler writes down of one request beside the engine's timeline, and the report that follows from both."""

from dataclasses import dataclass

from opentelemetry.trace import SpanContext

from engine.errors import InferError
from engine.scheduling.request import RequestTimes
from engine.scheduling.timeline import Phase, Stretch
from services.common.status import error_kind
from tiercel.phases import PhaseName
from tiercel.v1 import common_pb2

_NAMES = {
    Phase.QUEUE: PhaseName.QUEUE,
    Phase.FETCH: PhaseName.FETCH,
    Phase.LOAD: PhaseName.LOAD,
    Phase.PREFILL: PhaseName.PREFILL,
}


@dataclass(slots=True)
class RequestRecord:
    """Times are monotonic."""

    received_ns: int
    num_prompt_tokens: int
    parent: SpanContext | None = None
    """The tokenizer's span; None where the request is not traced."""
    context: SpanContext | None = None
    """Of the request's span here; None where it is not written."""
    clock_offset_ns: int = 0
    """From the monotonic clock to that of the trace."""
    routed_ns: int = 0
    """When it was first given to a worker's scheduler, or began to wait for a worker; 0: neither."""
    worker: str = ""
    block_bytes: int = 0

    def on_parked(self, now_ns: int) -> None:
        """It waits for a worker."""
        self.routed_ns = self.routed_ns or now_ns

    def on_routed(self, worker: str, block_bytes: int, now_ns: int) -> None:
        self.worker, self.block_bytes = worker, block_bytes
        self.routed_ns = self.routed_ns or now_ns

    def report(self, times: RequestTimes, error: InferError | None = None) -> common_pb2.RequestReport:
        """The request has ended at `times.end_ns`. Phases count from receipt."""
        end_ns = max(times.end_ns, self.received_ns)
        routed_ns = min(self.routed_ns or end_ns, end_ns)
        report = common_pb2.RequestReport(
            queue_ns=times.queue_ns,
            prefill_ns=times.prefill_ns,
            decode_ns=times.decode_ns,
            preemptions=times.preemptions,
            prefill_chunks=times.prefill_chunks,
            fetch_ns=times.fetch_ns,
            load_ns=times.load_ns,
            lookup_ns=routed_ns - self.received_ns,
            schedule_ns=end_ns - self.received_ns,
            worker=self.worker,
        )
        if error is not None:
            report.error, report.error_message = error_kind(error), error.message
        self._add(report, PhaseName.LOOKUP, self.received_ns, routed_ns)
        self._add_stretches(report, times, routed_ns)
        if times.first_token_ns is not None:
            decode = self._add(report, PhaseName.DECODE, times.first_token_ns, end_ns)
            decode.tokens = times.num_tokens
        for preemption in times.timeline.preemptions:
            report.preemption_events.add(
                choice=preemption.index,
                at_ns=max(0, preemption.at_ns - self.received_ns),
                computed_tokens=preemption.num_computed,
            )
        return report

    def _add_stretches(self, report: common_pb2.RequestReport, times: RequestTimes, routed_ns: int) -> None:
        stretches = times.timeline.stretches
        if stretches and stretches[0].num_ahead:
            report.queue_ahead = stretches[0].num_ahead
        first_ns = stretches[0].start_ns if stretches else times.end_ns
        if first_ns > routed_ns:
            # It waited for a worker, or was handed back by one that left.
            self._add(report, PhaseName.QUEUE, routed_ns, first_ns)
        for stretch in stretches:
            # The engine counts from submit, which the lookup is a part of.
            start_ns = max(stretch.start_ns, routed_ns)
            if stretch.end_ns > start_ns or stretch.num_tokens or stretch.num_wanted_blocks:
                self._fill(self._add(report, _NAMES[stretch.phase], start_ns, stretch.end_ns), stretch)

    def _fill(self, phase: common_pb2.ReportPhase, stretch: Stretch) -> None:
        phase.choice = stretch.index
        phase.number = stretch.number
        phase.first_token = stretch.first_token
        phase.tokens = stretch.num_tokens
        phase.compute_ns = stretch.compute_ns
        phase.blocks = stretch.num_blocks
        phase.wanted_blocks = stretch.num_wanted_blocks
        phase.bytes = stretch.num_blocks * self.block_bytes
        phase.copy_ns = stretch.copy_ns
        phase.is_abandoned = stretch.is_abandoned

    def _add(
        self, report: common_pb2.RequestReport, name: PhaseName, start_ns: int, end_ns: int
    ) -> common_pb2.ReportPhase:
        return report.phases.add(name=name, start_ns=start_ns - self.received_ns, duration_ns=max(0, end_ns - start_ns))
