"""A fake library behind the runners' protocol: counts tokens and computes nothing. The variant says how it goes wrong.

`sound`; `no-model`: cannot load; `refuses`: fails a run with more than one request and goes on; `dies`: ends in the
middle of a run; `forgets`: returns a token too few.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "runners"))

from lines import Peer, driven, serve


class CountingEngine:
    def __init__(self, variant: str) -> None:
        self._variant = variant
        self._left: dict[int, int] = {}

    def add(self, index: int, prompt_ids: list[int], max_tokens: int) -> None:
        assert prompt_ids
        if self._variant == "refuses" and index > 0:
            self._left.clear()
            raise ValueError("one request at a time")
        self._left[index] = max_tokens - (self._variant == "forgets")

    def step(self) -> Iterable[tuple[int, int]] | None:
        print("what a library prints does not disturb")
        if self._variant == "dies":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if not self._left:
            return None
        came = [(index, 1) for index in self._left]
        self._left = {index: left - 1 for index, left in self._left.items() if left > 1}
        return came


def load(variant: str, model: Path) -> Peer:
    if variant == "no-model":
        raise FileNotFoundError(model)
    return Peer("1.0", f"{variant}, {model.name}", driven(CountingEngine(variant)))


if __name__ == "__main__":
    serve(load)
