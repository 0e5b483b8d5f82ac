"""What the front door measures: each request from its arrival to its end, as its client has seen it.

The `gen_ai.server.*` histograms, their attributes and buckets are those of the OpenTelemetry GenAI conventions.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from services.common.metric_spec import counter, gauge, histogram
from services.common.metrics import Exemplar, Reading, ServiceMetrics, exemplar_of
from services.common.status import ERROR_KINDS
from services.tokenizer.top_tenants import TopTenants
from tiercel.v1 import common_pb2

PROVIDER = "tiercel"

_DURATIONS_S = tuple(0.01 * 2**i for i in range(14))
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_PHASES_S = tuple(0.0005 * 4**i for i in range(10))
_TOKENS = tuple(float(2**i) for i in range(18))
_GEN_AI = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")

DURATION = histogram(
    "gen_ai.server.request.duration",
    "s",
    "From the arrival of a request to its last event; with error.type where it ended with an error.",
    *_GEN_AI,
    "error.type",
    buckets=_DURATIONS_S,
    vllm="vllm:e2e_request_latency_seconds",
)
FIRST_TOKEN = histogram(
    "gen_ai.server.time_to_first_token",
    "s",
    "From the arrival of a request to the first piece of its answer on the way to the client.",
    *_GEN_AI,
    buckets=_FIRST_TOKEN_S,
    vllm="vllm:time_to_first_token_seconds",
)
PER_TOKEN = histogram(
    "gen_ai.server.time_per_output_token",
    "s",
    "(duration - time to first token) / (tokens - 1) of a finished request, of its longest choice.",
    *_GEN_AI,
    buckets=_PER_TOKEN_S,
    vllm="vllm:request_time_per_output_token_seconds",
)
PHASE = histogram(
    "tiercel.request.phase.duration",
    "s",
    "Where the time of a finished request went: tokenize, transit (between tokenizer and scheduler, both ways), queue "
    "(lookup, of its prefix, and fetch, waited for disk, are parts of it), prefill, decode, load (waited for host "
    "memory), detokenize.",
    "phase",
    buckets=_PHASES_S,
    vllm="vllm:request_queue_time_seconds, vllm:request_prefill_time_seconds, vllm:request_decode_time_seconds",
)
REQUEST_TOKENS = histogram(
    "tiercel.request.size",
    "{token}",
    "Tokens of a finished request: input, output.",
    "gen_ai.token.type",
    buckets=_TOKENS,
    vllm="vllm:request_prompt_tokens, vllm:request_generation_tokens",
)
REQUESTS = counter(
    "tiercel.requests",
    "{request}",
    "Generate calls that ended, by outcome: stop, length, cancelled or refused.",
    "outcome",
    vllm="vllm:request_success_total",
)
REFUSALS = counter(
    "tiercel.refusals",
    "{request}",
    "Generate calls that ended with an error, by the error's class, for instance Overloaded or DeadlinePassed.",
    "reason",
)
TOKENS = counter(
    "tiercel.tokens",
    "{token}",
    "Tokens of finished requests: input, output.",
    "gen_ai.token.type",
    vllm="vllm:prompt_tokens_total, vllm:generation_tokens_total",
)
CACHED_TOKENS = counter(
    "tiercel.cached_tokens",
    "{token}",
    "Prompt tokens of finished requests that were not computed, by the tier that had them.",
    "tier",
)
TENANT_REQUESTS = counter(
    "tiercel.tenant.requests",
    "{request}",
    "Generate calls that ended, by tenant and outcome. The busiest tenants have a name, the rest is `other`, calls "
    "without a tenant are `none`.",
    "tenant",
    "outcome",
)
TENANT_TOKENS = counter(
    "tiercel.tenant.tokens", "{token}", "Tokens of finished requests by tenant.", "tenant", "gen_ai.token.type"
)
OPEN_CALLS = gauge("tiercel.calls.open", "{request}", "Generate calls that are open now.")
SCHEDULER_CONNECTED = gauge("tiercel.scheduler.connected", "{scheduler}", "1 while the scheduler is connected, else 0.")

SPECS = (
    DURATION,
    FIRST_TOKEN,
    PER_TOKEN,
    PHASE,
    REQUEST_TOKENS,
    REQUESTS,
    REFUSALS,
    TOKENS,
    CACHED_TOKENS,
    TENANT_REQUESTS,
    TENANT_TOKENS,
    OPEN_CALLS,
    SCHEDULER_CONNECTED,
)


@dataclass(frozen=True, slots=True)
class EndedCall:
    """What is to be known of one Generate call when it has ended."""

    operation: str
    """`chat` or `text_completion`."""
    model: str
    tenant: str
    traceparent: str
    duration_ns: int
    ttft_ns: int
    """0: nothing was sent."""
    outcome: str
    """stop, length, cancelled or refused."""
    error: str = ""
    """Class of the error that it was refused with."""
    usage: common_pb2.Usage | None = None
    """With `report`: where it finished."""
    report: common_pb2.RequestReport | None = None
    num_generated_tokens: int = 0
    """Of the longest choice, without those that the client had already."""


class RequestMetrics:
    """On the loop's thread."""

    def __init__(self, metrics: ServiceMetrics, max_tenants: int) -> None:
        self._duration = metrics.histogram(DURATION)
        self._first_token = metrics.histogram(FIRST_TOKEN)
        self._per_token = metrics.histogram(PER_TOKEN)
        self._phase = metrics.histogram(PHASE)
        self._request_tokens = metrics.histogram(REQUEST_TOKENS)
        self._tenants = TopTenants(max_tenants)
        # A series that begins at 0 shows its first event as an increase; one that begins with it does not.
        self._outcomes = Counter(dict.fromkeys(("stop", "length", "cancelled", "refused"), 0))
        self._refusals = Counter(dict.fromkeys(ERROR_KINDS, 0))
        self._tokens = Counter(dict.fromkeys(("input", "output"), 0))
        self._cached = Counter(dict.fromkeys(("device", "host", "disk"), 0))
        self._tenant_outcomes: Counter[tuple[str, str]] = Counter()
        self._tenant_tokens: Counter[tuple[str, str]] = Counter()
        metrics.add(self._read)

    def on_ended(self, call: EndedCall) -> None:
        tenant = self._tenant(call.tenant)
        self._outcomes[call.outcome] += 1
        self._tenant_outcomes[tenant, call.outcome] += 1
        if call.error:
            self._refusals[call.error] += 1
        about = (call.operation, PROVIDER, call.model)
        exemplar = exemplar_of(call.traceparent)
        self._duration.observe(call.duration_ns / 1e9, (*about, call.error), exemplar)
        if call.ttft_ns:
            self._first_token.observe(call.ttft_ns / 1e9, about, exemplar)
        if call.ttft_ns and not call.error and call.num_generated_tokens > 1:
            per_token_ns = (call.duration_ns - call.ttft_ns) / (call.num_generated_tokens - 1)
            self._per_token.observe(per_token_ns / 1e9, about, exemplar)
        if call.usage is not None:
            self._count_usage(call.usage, tenant, exemplar)
        if call.report is not None:
            self._time_phases(call.report, exemplar)

    def _tenant(self, tenant: str) -> str:
        named = self._tenants.named
        label = self._tenants.label(tenant)
        for gone in named - self._tenants.named:
            # Its series ends; were it kept, the number of series would grow for ever.
            for series in (self._tenant_outcomes, self._tenant_tokens):
                for key in [key for key in series if key[0] == gone]:
                    del series[key]
        return label

    def _count_usage(self, usage: common_pb2.Usage, tenant: str, exemplar: Exemplar | None) -> None:
        for kind, num_tokens in (("input", usage.prompt_tokens), ("output", usage.completion_tokens)):
            self._tokens[kind] += num_tokens
            self._tenant_tokens[tenant, kind] += num_tokens
            self._request_tokens.observe(num_tokens, (kind,), exemplar)
        cached = usage.cached_tokens
        for tier, num_tokens in (("device", cached.device), ("host", cached.host), ("disk", cached.disk)):
            self._cached[tier] += num_tokens

    def _time_phases(self, report: common_pb2.RequestReport, exemplar: Exemplar | None) -> None:
        phases = {
            "tokenize": report.tokenize_ns,
            "queue": report.queue_ns,
            "prefill": report.prefill_ns,
            "decode": report.decode_ns,
            "transit": report.transit_ns,
            "detokenize": report.detokenize_ns,
            "lookup": report.lookup_ns,
            "fetch": report.fetch_ns,
            "load": report.load_ns,
        }
        for phase, duration_ns in phases.items():
            # A fetch or load that did not happen is not one that took no time.
            if duration_ns or phase not in ("fetch", "load"):
                self._phase.observe(duration_ns / 1e9, (phase,), exemplar)

    def _read(self) -> Iterator[Reading]:
        for outcome, count in self._outcomes.items():
            yield Reading(REQUESTS, count, (outcome,))
        for reason, count in self._refusals.items():
            yield Reading(REFUSALS, count, (reason,))
        for kind, count in self._tokens.items():
            yield Reading(TOKENS, count, (kind,))
        for tier, count in self._cached.items():
            yield Reading(CACHED_TOKENS, count, (tier,))
        for labels, count in self._tenant_outcomes.items():
            yield Reading(TENANT_REQUESTS, count, labels)
        for labels, count in self._tenant_tokens.items():
            yield Reading(TENANT_TOKENS, count, labels)
