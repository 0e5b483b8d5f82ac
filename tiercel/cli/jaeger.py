"""A request as Jaeger's query service would give it: a file that can be opened in Jaeger's user interface.

The shape is that of `GET /api/traces/{id}` (jaeger-ui, `src/types/trace.ts`): microseconds, tags with types, references
to parents, a table of processes.
"""

from hashlib import blake2b
from typing import Any

from tiercel.cli.waterfall import rows_of
from tiercel.client import EndedRequest
from tiercel.phases import AttributeValue, PhaseName, phase_attributes

_FRONT, _SCHEDULER = "p1", "p2"
_FRONT_PHASES = (PhaseName.TOKENIZE, PhaseName.TRANSIT, PhaseName.DETOKENIZE)


def jaeger_trace(request: EndedRequest) -> dict[str, Any]:
    """One trace. Ids of spans are made here; that of the trace is the request's own, where it was traced."""
    report, usage = request.report, request.usage
    trace_id = report.trace_id or blake2b(report.request_id.encode(), digest_size=16).hexdigest()
    cached = usage.cached_tokens
    about: dict[str, AttributeValue] = {
        "tiercel.request.id": report.request_id,
        "gen_ai.response.model": report.model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "tiercel.cache.device_tokens": cached.device,
        "tiercel.cache.host_tokens": cached.host,
        "tiercel.cache.disk_tokens": cached.disk,
        "tiercel.worker": report.worker,
    }
    if report.error:
        about |= {"error": True, "error.type": report.error, "otel.status_description": report.error_message}
    spans: list[dict[str, Any]] = []

    def add(
        name: str, parent: str | None, start_ns: int, duration_ns: int, process: str, tags: dict[str, AttributeValue]
    ) -> str:
        span_id = blake2b(f"{trace_id}/{len(spans)}".encode(), digest_size=8).hexdigest()
        references = [] if parent is None else [{"refType": "CHILD_OF", "traceID": trace_id, "spanID": parent}]
        spans.append(
            {
                "traceID": trace_id,
                "spanID": span_id,
                "operationName": name,
                "references": references,
                "startTime": (report.received_unix_ns + start_ns) // 1000,
                "duration": duration_ns // 1000,
                "tags": [_tag(key, value) for key, value in tags.items()],
                "logs": [],
                "processID": process,
                "warnings": None,
            }
        )
        return span_id

    root = add("generate", None, 0, report.e2e_ns, _FRONT, about)
    schedule, decode = root, root
    if report.schedule_ns:
        first = next((phase for phase in report.phases if phase.name == PhaseName.LOOKUP), None)
        start_ns = 0 if first is None else first.start_ns
        tags: dict[str, AttributeValue] = {
            "tiercel.queue.ahead": report.queue_ahead,
            "tiercel.preemptions": report.preemptions,
        }
        schedule = decode = add("schedule", root, start_ns, report.schedule_ns, _SCHEDULER, tags)
    for row in rows_of(report):
        phase = row.phase
        is_front = phase.name in _FRONT_PHASES
        parent = root if is_front else decode if row.is_nested else schedule
        process = _FRONT if is_front else _SCHEDULER
        span = add(phase.name, parent, phase.start_ns, phase.duration_ns, process, phase_attributes(phase))
        if phase.name == PhaseName.DECODE:
            decode = span
            logs = [(phase.start_ns, "first_token")]
            logs += [(event.at_ns, "preempted") for event in report.preemption_events]
            spans[-1]["logs"] = [
                {
                    "timestamp": (report.received_unix_ns + at_ns) // 1000,
                    "fields": [{"key": "event", "type": "string", "value": name}],
                }
                for at_ns, name in logs
            ]
    processes = {
        _FRONT: {"serviceName": "tiercel-tokenizer", "tags": []},
        _SCHEDULER: {"serviceName": "tiercel-scheduler", "tags": []},
    }
    return {"traceID": trace_id, "spans": spans, "processes": processes, "warnings": None}


def _tag(key: str, value: AttributeValue) -> dict[str, Any]:
    match value:
        case bool():
            kind = "bool"
        case int():
            kind = "int64"
        case float():
            kind = "float64"
        case _:
            kind = "string"
    return {"key": key, "type": kind, "value": value}
