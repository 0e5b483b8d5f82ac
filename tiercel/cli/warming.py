"""Has prefixes computed ahead of traffic: each is a request for a single token that keeps its prompt's blocks."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from tiercel.cli.prefix_file import Prefix
from tiercel.client import CachedTokens, Client, Usage
from tiercel.errors import TiercelError, Unavailable

_NUM_AT_ONCE = 4
"""Enough to fill steps with short prefixes, few enough to leave room to other requests."""


@dataclass(slots=True)
class Warmed:
    """What has come of a file of prefixes."""

    num_prefixes: int = 0
    """Computed, or found."""
    prompt_tokens: int = 0
    cached: CachedTokens = field(default_factory=CachedTokens)
    is_settled: bool = True
    """Whether all of it has arrived in host memory and on disk, as far as there is room."""
    refused: dict[int, str] = field(default_factory=dict)
    """What the stack said against a prefix, by its line."""

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached.total

    def add(self, usage: Usage) -> None:
        cached, more = self.cached, usage.cached_tokens
        self.num_prefixes += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached = CachedTokens(cached.device + more.device, cached.host + more.host, cached.disk + more.disk)


def warm(client: Client, prefixes: Sequence[Prefix], on_done: Callable[[], None]) -> Warmed:
    """`on_done` is called after each prefix. A prefix that is refused keeps none of the others back.

    Raises Unavailable once nobody answers. On any exception what runs is cancelled and `client` closed.
    """
    warmed = Warmed()
    waiting = iter(prefixes)
    running: dict[Future[Usage], Prefix] = {}
    with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        try:
            while True:
                while len(running) < _NUM_AT_ONCE and (prefix := next(waiting, None)) is not None:
                    running[pool.submit(keep, client, prefix)] = prefix
                if not running:
                    return warmed
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    prefix = running.pop(future)
                    try:
                        warmed.add(future.result())
                    except Unavailable:
                        raise
                    except TiercelError as error:
                        warmed.refused[prefix.line] = error.message
                    on_done()
        except BaseException:
            # The pool's end waits for what runs.
            client.close()
            raise


def keep(client: Client, prefix: Prefix, pin_name: str = "") -> Usage:
    """Compute one prefix, bring it down, and pin it where a name is given."""
    answer = client.generate(
        prefix.prompt,
        cache_salt=prefix.cache_salt,
        keep_prefix=True,
        pin_name=pin_name,
        max_tokens=1,
        temperature=0.0,
    )
    return answer.usage
