"""What people and requests ask for by the name of a pin."""

from collections.abc import Sequence

from engine.errors import InvalidRequest, TierFull
from engine.ids import BlockKey
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.figures import PinFigures
from engine.scheduling.live_request import key_chain
from engine.scheduling.pins import PinChange, Pins
from engine.scheduling.request import Request
from engine.scheduling.tiers import Tiers


class PinDesk:
    """Between a scheduler's caller and its tiers. Without tiers nothing can be pinned."""

    def __init__(self, config: SchedulerConfig, pins: Pins, tiers: Tiers | None) -> None:
        self._config = config
        self._pins = pins
        self._tiers = tiers

    @property
    def names(self) -> list[str]:
        return self._pins.names

    def pin(self, name: str, keys: Sequence[BlockKey]) -> None:
        """Keep these blocks: what of them is in the host tier or gets there is not evicted, and all go to disk at once.

        They need not be anywhere yet. Raises TierFull when there is no room; then nothing changes.
        """
        if self._tiers is None:
            raise TierFull(f"{name!r} cannot be pinned: there is no host tier. Start with a host cache above 0")
        self._tiers.pin(name, keys)

    def pin_prompt(self, request: Request) -> None:
        """The prompt's full blocks, under the request's `pin_name`. What is pinned under it already stays so.

        Raises what `pin` raises, and InvalidRequest for a prompt that fills no block.
        """
        chain = key_chain(request, self._config)
        chain.extend(request.prompt_token_ids)
        if not chain.keys:
            raise InvalidRequest(
                f"The prompt has {len(request.prompt_token_ids)} tokens, which fill no block of "
                f"{self._config.block_size}; pin a longer one",
                field="pin_name",
            )
        self.pin(request.pin_name, [*self._pins.keys_of(request.pin_name), *chain.keys])

    def unpin(self, name: str) -> None:
        """A name that is not pinned is ignored."""
        if self._tiers is not None:
            self._tiers.unpin(name)

    def keys_by_name(self) -> dict[str, tuple[BlockKey, ...]]:
        return {name: self._pins.keys_of(name) for name in self._pins.names}

    def figures(self) -> list[PinFigures]:
        """Where the blocks of each name are now. O(pinned blocks)."""
        return [] if self._tiers is None else self._tiers.pin_figures()

    def take_changes(self) -> list[PinChange]:
        """What was pinned or unpinned since the last call, to be kept on the worker's disk."""
        return self._pins.take_changes()
