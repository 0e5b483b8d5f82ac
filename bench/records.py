"""What one request experienced, and the figures that follow from it.

TTFT: request sent to first token received. TPOT: (last - first) / (n - 1) per request. Throughput: tokens of all
requests over the time from the first send to the last token. One message may hold several tokens: tokens are
counted, not messages.
"""

import statistics
from dataclasses import dataclass

from bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """Seconds on one clock; `num_tokens` is what came back."""

    sent_s: float
    first_s: float
    last_s: float
    num_tokens: int

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        return (self.last_s - self.first_s) / (self.num_tokens - 1) if self.num_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Round:
    """One workload, once, on one peer."""

    output_tokens_per_s: float
    prefill_tokens_per_s: float
    """Prompt tokens over the time to first token; meaningful for one request in turn."""
    ttft_s: float
    tpot_s: float | None
    first_ttft_s: float
    """Of the first request: of requests in turn that share a beginning, the one that finds nothing cached."""
    rest_ttft_s: float | None
    """Median of the others; None where there is one alone."""


def summarize(workload: Workload, records: list[RequestRecord]) -> Round:
    """Medians over the requests of a round. Raises where a peer returned another number of tokens than asked."""
    for request, record in zip(workload.requests, records, strict=True):
        if record.num_tokens != request.max_tokens:
            raise RuntimeError(f"{workload.name}: asked for {request.max_tokens} tokens, got {record.num_tokens}")
    wall_s = max(record.last_s for record in records) - min(record.sent_s for record in records)
    ttft_s = statistics.median(record.ttft_s for record in records)
    tpots = [record.tpot_s for record in records if record.tpot_s is not None]
    return Round(
        output_tokens_per_s=workload.output_tokens / wall_s,
        prefill_tokens_per_s=workload.prompt_tokens / len(records) / ttft_s,
        ttft_s=ttft_s,
        tpot_s=statistics.median(tpots) if tpots else None,
        first_ttft_s=records[0].ttft_s,
        rest_ttft_s=statistics.median(record.ttft_s for record in records[1:]) if len(records) > 1 else None,
    )
