"""Tickets: who may touch a block or a host slot in flight.

    open ──close(DONE | FAILED | CANCELLED)──▶ closed, once and for all

Opening pins the blocks and slots, closing unpins them. A holder may release a block while a ticket is open; the block
is handed out again only after the close. Tickets are opened for step plans, and for transfers between tiers.
"""

import enum
from collections.abc import Collection, Sequence

from engine.blocks.host import HostPool
from engine.blocks.pool import BlockPool
from engine.ids import BlockId, HostSlot


class TicketOutcome(enum.Enum):
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Ticket:
    """One piece of work in flight and the blocks and host slots that it may touch."""

    __slots__ = ("block_ids", "host_slots", "outcome")

    def __init__(self, block_ids: Sequence[BlockId], host_slots: Sequence[HostSlot] = ()) -> None:
        self.block_ids = block_ids
        self.host_slots = host_slots
        self.outcome: TicketOutcome | None = None
        """None while open."""


class TicketRegistry:
    """Opens and closes the tickets of one pool, and of the host slots below it."""

    def __init__(self, pool: BlockPool, host: HostPool | None = None) -> None:
        self._pool = pool
        self._host = host
        self._open: dict[int, Ticket] = {}

    @property
    def open_tickets(self) -> Collection[Ticket]:
        """Oldest first."""
        return self._open.values()

    def open(self, block_ids: Sequence[BlockId], host_slots: Sequence[HostSlot] = ()) -> Ticket:
        """Pin blocks that have holders or content now, and slots. The registry keeps the ticket until it is closed."""
        ticket = Ticket(block_ids, host_slots)
        self._pool.pin(block_ids)
        if host_slots:
            assert self._host is not None
            self._host.pin(host_slots)
        self._open[id(ticket)] = ticket
        return ticket

    def close(self, ticket: Ticket, outcome: TicketOutcome) -> None:
        assert ticket.outcome is None, f"the ticket was already closed as {ticket.outcome}"
        del self._open[id(ticket)]
        ticket.outcome = outcome
        self._pool.unpin(ticket.block_ids)
        if ticket.host_slots:
            assert self._host is not None
            self._host.unpin(ticket.host_slots)
