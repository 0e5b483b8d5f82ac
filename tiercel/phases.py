"""The phases of a request, by the names that spans, reports and the waterfall share, and what is said of each."""

from enum import StrEnum
from typing import Protocol

NS_PER_MS = 1e6


class PhaseName(StrEnum):
    """In the order in which a request usually passes through them."""

    TOKENIZE = "tokenize"
    """At the tokenizer, from receipt to submission: text to ids, and every check at the door."""
    LOOKUP = "kv.lookup"
    """At the scheduler: checked, its blocks named and looked for, a worker chosen."""
    QUEUE = "queue"
    FETCH = "kv.fetch"
    """In the queue, waiting for blocks from disk."""
    LOAD = "kv.load"
    """In a slot, waiting for blocks from host memory."""
    PREFILL = "prefill"
    """One chunk, from when it could be computed to when it was."""
    DECODE = "decode"
    """From the first token to the last, preemptions included."""
    TRANSIT = "transit"
    """Between tokenizer and scheduler, both ways."""
    DETOKENIZE = "detokenize"
    """At the tokenizer, from the scheduler's last word to the last event."""


AttributeValue = str | bool | int | float


class PhaseLike(Protocol):
    """`tiercel.v1.common_pb2.ReportPhase`, or the client's own form of it."""

    @property
    def name(self) -> str: ...
    @property
    def choice(self) -> int: ...
    @property
    def first_token(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def compute_ns(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def wanted_blocks(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def copy_ns(self) -> int: ...
    @property
    def is_abandoned(self) -> bool: ...


def phase_attributes(phase: PhaseLike) -> dict[str, AttributeValue]:
    """Of the span that tells of this phase."""
    match phase.name:
        case PhaseName.TOKENIZE:
            return {"gen_ai.usage.input_tokens": phase.tokens}
        case PhaseName.FETCH | PhaseName.LOAD:
            source, target = ("disk", "host") if phase.name == PhaseName.FETCH else ("host", "device")
            return {
                "tiercel.choice": phase.choice,
                "tiercel.kv.source_tier": source,
                "tiercel.kv.target_tier": target,
                "tiercel.kv.blocks": phase.blocks,
                "tiercel.kv.wanted_blocks": phase.wanted_blocks,
                "tiercel.kv.bytes": phase.bytes,
                "tiercel.kv.copy_ms": phase.copy_ns / NS_PER_MS,
                "tiercel.kv.abandoned": phase.is_abandoned,
            }
        case PhaseName.PREFILL:
            return {
                "tiercel.choice": phase.choice,
                "tiercel.prefill.first_token": phase.first_token,
                "tiercel.prefill.tokens": phase.tokens,
                "tiercel.prefill.compute_ms": phase.compute_ns / NS_PER_MS,
            }
        case PhaseName.QUEUE:
            return {"tiercel.choice": phase.choice}
        case PhaseName.DECODE:
            return {"gen_ai.usage.output_tokens": phase.tokens}
        case _:
            return {}
