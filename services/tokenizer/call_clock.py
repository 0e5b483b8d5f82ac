"""When things happened to one call, at the tokenizer, and the report that follows."""

import time

from tiercel.phases import PhaseName
from tiercel.v1 import common_pb2


class CallClock:
    """Times are monotonic, counted from receipt."""

    def __init__(self) -> None:
        self.received_unix_ns = time.time_ns()
        self.received_ns = time.monotonic_ns()
        self.tokenize_ns = 0
        self.submitted_ns = 0
        self.answered_ns = 0
        """The scheduler's last word."""
        self.ttft_ns = 0

    @property
    def offset_ns(self) -> int:
        """From the monotonic clock to the wall clock, which is the clock of the whole trace."""
        return self.received_unix_ns - self.received_ns

    def since_received_ns(self) -> int:
        return time.monotonic_ns() - self.received_ns

    def on_tokenized(self) -> None:
        self.tokenize_ns = self.since_received_ns()

    def on_submitted(self) -> None:
        self.submitted_ns = self.since_received_ns()

    def on_answered(self) -> None:
        self.answered_ns = self.since_received_ns()

    def on_first_delta(self) -> None:
        if not self.ttft_ns:
            self.ttft_ns = self.since_received_ns()

    def fill(self, report: common_pb2.RequestReport, num_prompt_tokens: int) -> None:
        """Add the tokenizer's part to what the scheduler has said, whose phases count from its own receipt.

        Nobody knows which part of the message's way lay before and which behind; all of it is put behind.
        """
        report.received_unix_ns = self.received_unix_ns
        report.tokenize_ns = self.tokenize_ns
        report.ttft_ns = self.ttft_ns
        report.e2e_ns = self.since_received_ns()
        schedule = list(report.phases)
        del report.phases[:]
        tokenize = report.phases.add(
            name=PhaseName.TOKENIZE, duration_ns=self.submitted_ns or report.e2e_ns, tokens=num_prompt_tokens
        )
        at_ns = tokenize.duration_ns
        for phase in schedule:
            phase.start_ns += at_ns
        report.phases.extend(schedule)
        for preemption in report.preemption_events:
            preemption.at_ns += at_ns
        if not self.answered_ns or not report.schedule_ns:
            return
        at_ns = min(at_ns + report.schedule_ns, self.answered_ns)
        report.transit_ns = self.answered_ns - at_ns
        report.detokenize_ns = report.e2e_ns - self.answered_ns
        report.phases.add(name=PhaseName.TRANSIT, start_ns=at_ns, duration_ns=report.transit_ns)
        report.phases.add(name=PhaseName.DETOKENIZE, start_ns=self.answered_ns, duration_ns=report.detokenize_ns)
