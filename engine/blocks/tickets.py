"""Tickets: who may touch a block in flight.

    open ──close(DONE | FAILED | CANCELLED)──▶ closed, once and for all

Opening pins the blocks, closing unpins them. A holder may release a block while a ticket is open; the block is
handed out again only after the close. Tickets are opened for step plans, and for transfers between tiers.
"""

import enum
from collections.abc import Collection, Sequence

from engine.blocks.pool import BlockPool
from engine.ids import BlockId


class TicketOutcome(enum.Enum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ticket:
    """One piece of work in flight and the blocks that it may touch."""

    __slots__ = ("block_ids", "outcome")

    def __init__(self, block_ids: Sequence[BlockId]) -> None:
        self.block_ids = block_ids
        self.outcome: TicketOutcome | None = None
        """None while open."""


class TicketRegistry:
    """Opens and closes the tickets of one pool."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._open: dict[int, Ticket] = {}

    @property
    def open_tickets(self) -> Collection[Ticket]:
        """Oldest first."""
        return self._open.values()

    def open(self, block_ids: Sequence[BlockId]) -> Ticket:
        """Pin blocks that have holders now. The registry keeps the ticket until it is closed."""
        ticket = Ticket(block_ids)
        self._pool.pin(block_ids)
        self._open[id(ticket)] = ticket
        return ticket

    def close(self, ticket: Ticket, outcome: TicketOutcome) -> None:
        assert ticket.outcome is None, f"the ticket was already closed as {ticket.outcome}"
        del self._open[id(ticket)]
        ticket.outcome = outcome
        self._pool.unpin(ticket.block_ids)
