"""What every runner speaks: a workload a line on stdin, its records a line on stdout, all JSON.

A runner is started as `python run_NAME.py VARIANT CHECKPOINT`. Its first line is
`{"ready": {"version": ..., "settings": ...}}`; then each `{"at_once": bool, "requests": [[ids, max tokens], ...]}`
is answered with `{"records": [[sent, first token, last token, number of tokens], ...]}`, seconds on a clock of its own.
`{"error": ...}` takes the place of either. The end of stdin ends it. What the peer itself prints goes to stderr.

Runs in the peers' environments: the standard library alone.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Request = tuple[list[int], int]
"""Prompt ids, tokens to generate."""

Record = list[float]
"""Sent, first token, last token, number of tokens."""


class Engine(Protocol):
    """A peer that is driven step by step. Greedy; no token ends a request but its last."""

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None: ...

    def step(self) -> Iterable[tuple[int, int]] | None:
        """Compute once; requests with the number of new tokens of each. None where nothing is left to do."""
        ...


@dataclass(slots=True)
class Track:
    """When a request was sent and its tokens came."""

    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    num_tokens: int = 0

    def note(self, num_tokens: int, now_s: float) -> None:
        if num_tokens:
            self.first_s = self.first_s or now_s
            self.last_s = now_s
            self.num_tokens += num_tokens

    @property
    def record(self) -> Record:
        return [self.sent_s, self.first_s, self.last_s, self.num_tokens]


Run = Callable[[list[Request], bool], list[Record]]


@dataclass(frozen=True, slots=True)
class Peer:
    version: str
    settings: str
    """What differs from the library's defaults."""
    run: Run


def driven(engine: Engine) -> Run:
    """Requests all at once, or each when the one before it has ended."""

    def run(requests: list[Request], at_once: bool) -> list[Record]:
        tracks: dict[int, Track] = {}
        numbered = list(enumerate(requests))
        for batch in [numbered] if at_once else [[each] for each in numbered]:
            for index, (prompt_ids, max_tokens) in batch:
                tracks[index] = Track(time.perf_counter())
                engine.add(index, prompt_ids, max_tokens)
            while (came := engine.step()) is not None:
                now = time.perf_counter()
                for index, num_tokens in came:
                    tracks[index].note(num_tokens, now)
        return [track.record for track in tracks.values()]

    return run


def serve(load: Callable[[str, Path], Peer]) -> None:
    """`load` takes the variant and the checkpoint, or what was converted from it."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(answer: dict[str, object]) -> None:
        out.write(json.dumps(answer) + "\n")

    try:
        peer = load(sys.argv[1], Path(sys.argv[2]))
    except Exception as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"ready": {"version": peer.version, "settings": peer.settings}})
    for line in sys.stdin:
        workload = json.loads(line)
        try:
            say({"records": peer.run([(ids, count) for ids, count in workload["requests"]], workload["at_once"])})
        except Exception as error:
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"})
