"""`infer-cli trace`: where a request's time went, without any collector."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.jaeger import jaeger_trace
from tiercel.cli.tables import table
from tiercel.cli.target import Address, front_doors
from tiercel.cli.values import Target
from tiercel.cli.waterfall import accounted_ns, show_waterfall
from tiercel.client import Client, EndedRequest, ReportPhase
from tiercel.errors import NotFound
from tiercel.phases import NS_PER_MS

_MAX_LISTED = 1000


@click.command()
@click.argument("request_id", required=False)
@click.option("--slowest", type=click.IntRange(1, _MAX_LISTED), metavar="N", help="List the N slowest requests.")
@click.option("--latest", type=click.IntRange(1, _MAX_LISTED), metavar="N", help="List the N latest requests.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["text", "json", "jaeger"]),
    default="text",
    help="jaeger: a file that Jaeger's user interface opens (Upload).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; as --format json.")
@click.option("--target", type=Target(), help="The stack to ask, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on.")
@click.pass_obj
def trace(
    consoles: Consoles,
    request_id: str | None,
    slowest: int | None,
    latest: int | None,
    shape: str,
    as_json: bool,
    target: str | None,
    port: int | None,
    ca: Path | None,
) -> int:
    """Show where the time of the request REQUEST_ID went, phase by phase.

    Without REQUEST_ID, lists what the front door remembers: its last few thousand requests.
    """
    if sum(each is not None for each in (request_id, slowest, latest)) > 1:
        raise click.UsageError("give one of REQUEST_ID, --slowest and --latest")
    if as_json and shape == "jaeger":
        raise click.UsageError("--json is --format json; give one of them")
    shape = "json" if as_json else shape
    clients = front_doors(Address(target, port, ca))
    if not clients:
        raise CommandFailed("no stack is running; start one with `infer-cli up`")
    with contextlib.ExitStack() as open_clients:
        for client in clients:
            open_clients.enter_context(client)
        requests = _asked_for(clients, request_id, slowest, latest)
    if shape == "jaeger":
        consoles.write(json.dumps({"data": [jaeger_trace(request) for request in requests]}) + "\n")
    elif shape == "json":
        objects = [as_object(request) for request in requests]
        consoles.write(json.dumps(objects[0] if request_id is not None else {"requests": objects}) + "\n")
    elif request_id is not None:
        show_waterfall(consoles.out, requests[0])
    else:
        _show_list(consoles, requests)
    return 0


def _asked_for(
    clients: Sequence[Client], request_id: str | None, slowest: int | None, latest: int | None
) -> Sequence[EndedRequest]:
    """Each front door knows the requests that came to it."""
    if request_id is None:
        limit = slowest or latest or 10
        found = [each for client in clients for each in client.ended_requests(limit, slowest=slowest is not None)]
        if len(clients) > 1:
            found.sort(key=_duration_ns if slowest is not None else _ended_ns, reverse=True)
        return found[:limit]
    reason = ""
    for client in clients:
        try:
            return [client.ended_request(request_id)]
        except NotFound as error:
            reason = error.message
    raise CommandFailed(
        f"{reason}; `infer-cli trace` lists those that are remembered, and a request that still runs has no report yet"
    )


def _duration_ns(request: EndedRequest) -> int:
    return request.report.e2e_ns


def _ended_ns(request: EndedRequest) -> int:
    return request.report.received_unix_ns + request.report.e2e_ns


def _show_list(consoles: Consoles, requests: Sequence[EndedRequest]) -> None:
    if not requests:
        consoles.note("no request has ended here yet")
        return
    rows = table(
        "", "request", "outcome", "#in", "#cached", "#out", "#queue", "#prefill", "#decode", "#first token", "#in all"
    )
    for request in requests:
        report, usage = request.report, request.usage
        times = (report.queue_ns, report.prefill_ns, report.decode_ns, report.ttft_ns, report.e2e_ns)
        rows.add_row(
            report.request_id,
            f"[red]{report.error}[/]" if report.error else "done",
            *(str(count) for count in (usage.prompt_tokens, usage.cached_tokens.total, usage.completion_tokens)),
            *(f"{ns / NS_PER_MS:.1f} ms" for ns in times),
        )
    consoles.out.print(rows)


def as_object(request: EndedRequest) -> dict[str, Any]:
    """What `--json` prints: times in milliseconds, phases with what belongs to them."""
    report, usage = request.report, request.usage
    cached = usage.cached_tokens
    return {
        "request_id": report.request_id,
        "model": report.model,
        "trace_id": report.trace_id,
        "worker": report.worker,
        "received_unix_ms": report.received_unix_ns / NS_PER_MS,
        "error": report.error or None,
        "error_message": report.error_message or None,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": {"device": cached.device, "host": cached.host, "disk": cached.disk},
        },
        "e2e_ms": report.e2e_ns / NS_PER_MS,
        "ttft_ms": report.ttft_ns / NS_PER_MS,
        "accounted_ms": accounted_ns(report) / NS_PER_MS,
        "queue_ahead": report.queue_ahead,
        "phases": [_phase(phase) for phase in report.phases],
        "preemptions": [
            {"choice": event.choice, "at_ms": event.at_ns / NS_PER_MS, "computed_tokens": event.computed_tokens}
            for event in report.preemption_events
        ],
    }


def _phase(phase: ReportPhase) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": phase.name,
        "start_ms": phase.start_ns / NS_PER_MS,
        "duration_ms": phase.duration_ns / NS_PER_MS,
        "choice": phase.choice,
    }
    counts = {
        "first_token": phase.first_token,
        "tokens": phase.tokens,
        "blocks": phase.blocks,
        "wanted_blocks": phase.wanted_blocks,
        "bytes": phase.bytes,
    }
    content |= {name: count for name, count in counts.items() if count}
    content |= {
        name: ns / NS_PER_MS for name, ns in (("compute_ms", phase.compute_ns), ("copy_ms", phase.copy_ns)) if ns
    }
    return content | ({"abandoned": True} if phase.is_abandoned else {})
