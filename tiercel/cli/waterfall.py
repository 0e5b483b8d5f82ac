"""One request's time, drawn: a line per phase, where it lay, how long it was, and what it was about."""

from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from tiercel.client import EndedRequest, ReportPhase, RequestReport
from tiercel.phases import NS_PER_MS, PhaseName

_COLOURS = {
    PhaseName.TOKENIZE: "cyan",
    PhaseName.LOOKUP: "yellow",
    PhaseName.QUEUE: "yellow",
    PhaseName.FETCH: "red",
    PhaseName.LOAD: "magenta",
    PhaseName.PREFILL: "blue",
    PhaseName.DECODE: "green",
    PhaseName.TRANSIT: "bright_black",
    PhaseName.DETOKENIZE: "cyan",
}
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MIN_BAR, _MAX_BAR = 20, 60
_FIXED_COLUMNS = 46


@dataclass(frozen=True, slots=True)
class Row:
    phase: ReportPhase
    is_nested: bool
    """Within decode: of a choice that was preempted, or of another choice."""


def rows_of(report: RequestReport) -> list[Row]:
    """In the order in which they began; what lies within decode comes behind it."""
    decode = next((phase for phase in report.phases if phase.name == PhaseName.DECODE), None)
    outer = (PhaseName.DECODE, PhaseName.TRANSIT, PhaseName.DETOKENIZE)
    rows = [
        Row(phase, decode is not None and phase.name not in outer and phase.start_ns >= decode.start_ns)
        for phase in report.phases
    ]
    return sorted(rows, key=lambda row: (row.phase.start_ns, row.is_nested))


def accounted_ns(report: RequestReport) -> int:
    """What the phases explain of `e2e_ns`, counting nothing twice."""
    return sum(row.phase.duration_ns for row in rows_of(report) if not row.is_nested)


def show_waterfall(out: Console, request: EndedRequest) -> None:
    report = request.report
    out.print(_headline(request), soft_wrap=True)
    out.print(_cache_line(request), soft_wrap=True)
    where = "  ".join(part for part in (f"worker {report.worker}" if report.worker else "", _trace(report)) if part)
    if where:
        out.print(Text(where, style="dim"), soft_wrap=True)
    out.print()
    e2e_ns = max(report.e2e_ns, 1)
    width = min(_MAX_BAR, max(_MIN_BAR, out.width - _FIXED_COLUMNS - 30))
    scale = f"0 ms{_ms(e2e_ns).rjust(width - 4)}"
    out.print(Text(f"{'phase':<14}{'start':>10}{'length':>11}{'share':>8}   {scale}", style="bold"), soft_wrap=True)
    for row in rows_of(report):
        out.print(_line(row, e2e_ns, width), soft_wrap=True)
    for event in report.preemption_events:
        about = f"choice {event.choice} preempted, {event.computed_tokens} tokens given up"
        out.print(Text(f"{'! preempted':<14}{_ms(event.at_ns):>10}{'':>19}   {about}", style="red"), soft_wrap=True)
    share = 100 * accounted_ns(report) / e2e_ns
    out.print(Text(f"{'in all':<14}{'':>10}{_ms(report.e2e_ns):>11}{share:>6.1f} %", style="bold"), soft_wrap=True)


def _headline(request: EndedRequest) -> Text:
    report = request.report
    line = Text.assemble((report.request_id, "bold"), f"  {report.model}  " if report.model else "  ")
    if report.error:
        line.append(f"{report.error} after {_ms(report.e2e_ns)}: {report.error_message}", style="red")
    else:
        line.append(f"{_ms(report.e2e_ns)}, first token after {_ms(report.ttft_ns)}")
    return line


def _cache_line(request: EndedRequest) -> Text:
    usage, cached = request.usage, request.usage.cached_tokens
    line = f"{usage.prompt_tokens} prompt tokens, {usage.completion_tokens} generated; "
    if not cached.total:
        return Text(line + "nothing found in the cache")
    share = 100 * cached.total / max(1, usage.prompt_tokens)
    tiers = ", ".join(
        f"{count} on {tier}"
        for tier, count in (("device", cached.device), ("host", cached.host), ("disk", cached.disk))
        if count
    )
    return Text(f"{line}{cached.total} found in the cache ({share:.0f} %): {tiers}")


def _trace(report: RequestReport) -> str:
    return f"trace {report.trace_id}" if report.trace_id else ""


def _line(row: Row, e2e_ns: int, width: int) -> Text:
    phase = row.phase
    name = f"  {phase.name}" if row.is_nested else phase.name
    share = 100 * phase.duration_ns / e2e_ns
    line = Text(f"{name:<14}{_ms(phase.start_ns):>10}{_ms(phase.duration_ns):>11}{share:>6.1f} %   ")
    colour = _COLOURS.get(PhaseName(phase.name), "default") if phase.name in list(PhaseName) else "default"
    bar, words = _bar(phase.start_ns / e2e_ns, phase.end_ns / e2e_ns, width), about(phase)
    line.append(bar if words else bar.rstrip(), style=colour)
    return line.append(f"  {words}" if words else "", style="dim")


def _bar(start: float, end: float, width: int) -> str:
    """Of `width` characters. Something can be seen of everything."""
    first = min(int(start * width), width - 1)
    length = max(1, round((min(end, 1.0) * width - first) * 8))
    blocks = "█" * (length // 8) + (_EIGHTHS[length % 8] if length % 8 else "")
    return (" " * first + blocks)[:width].ljust(width)


def about(phase: ReportPhase) -> str:
    """What else is known of a phase, in a few words."""
    choice = f"choice {phase.choice}, " if phase.choice else ""
    match phase.name:
        case PhaseName.TOKENIZE:
            return f"{phase.tokens} tokens" if phase.tokens else ""
        case PhaseName.FETCH | PhaseName.LOAD:
            source = "disk" if phase.name == PhaseName.FETCH else "host"
            text = f"{choice}{phase.blocks} of {phase.wanted_blocks} blocks from {source}, {_size(phase.bytes)}"
            return text + (", given up" if phase.is_abandoned else "")
        case PhaseName.PREFILL:
            if not phase.tokens:
                return f"{choice}not computed"
            last = phase.first_token + phase.tokens - 1
            return f"{choice}tokens {phase.first_token} to {last}, its step took {_ms(phase.compute_ns)}"
        case PhaseName.DECODE:
            per_token = phase.duration_ns / max(1, phase.tokens - 1)
            return f"{phase.tokens} tokens" + (f", {_ms(per_token)} each" if phase.tokens > 1 else "")
        case _:
            return choice.removesuffix(", ")


def _ms(ns: float) -> str:
    ms = ns / NS_PER_MS
    return f"{ms:.0f} ms" if ms >= 1000 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _size(num_bytes: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} B"
