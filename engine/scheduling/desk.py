"""The transfers of one worker session: opened with a ticket, taken by the caller, closed by their one result."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from engine.blocks.tickets import Ticket, TicketOutcome, TicketRegistry
from engine.errors import WorkerLost
from engine.ids import BlockId, BlockKey, HostSlot, TransferId
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.figures import MoveFigures
from engine.scheduling.plan import TraceContext, Transfer, TransferKind, TransferResult
from engine.scheduling.rates import Rates
from engine.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One block to move. `block_id` is None where the device is not touched."""

    key: BlockKey
    depth: int
    block_id: BlockId | None
    host_slot: HostSlot


@dataclass(slots=True)
class _InFlight:
    transfer: Transfer
    ticket: Ticket
    opened_ns: int
    queued_bytes: int
    """Of the same kind, in flight when this one was opened."""
    was_beside_steps: bool


class TransferDesk:
    """Gives transfers their ids, keeps what they name pinned, and counts what comes of them."""

    def __init__(self, config: SchedulerConfig, rates: Rates) -> None:
        self._config = config
        self._rates = rates
        self._outbox: list[Transfer] = []
        self._in_flight: dict[TransferId, _InFlight] = {}
        self._num_in_flight = dict.fromkeys(TransferKind, 0)
        self._num_rows = dict.fromkeys(TransferKind, 0)
        self._num_opened = 0
        self.moves = {kind: MoveFigures() for kind in TransferKind}
        self._budgets = {
            TransferKind.SPILL: config.spill_budget_bytes,
            TransferKind.PERSIST: config.persist_budget_bytes,
            TransferKind.FETCH: config.fetch_budget_bytes,
        }

    @property
    def num_in_flight(self) -> int:
        """Transfers whose results are outstanding, those not yet taken included."""
        return len(self._in_flight)

    def num_of(self, kind: TransferKind) -> int:
        return self._num_in_flight[kind]

    def num_blocks_of(self, kind: TransferKind) -> int:
        """Rows in flight."""
        return self._num_rows[kind]

    def room_blocks(self, kind: TransferKind) -> int:
        """How many more blocks the budget of this kind lets into flight."""
        limit = max(1, self._budgets[kind] // self._config.block_bytes)
        return max(0, limit - self.num_blocks_of(kind))

    def open(
        self,
        kind: TransferKind,
        rows: Rows[Row],
        tickets: TicketRegistry,
        timeout_ns: int,
        now_ns: int,
        tenant: str = "",
        waiting: Sequence | None = None,
    ) -> Transfer:
        """Put one transfer of at most `max_transfer_blocks` rows into the outbox and pin what it names.

        `waiting` is the sequence that waits for it, the first one where there are several.
        """
        assert 0 < len(rows) <= self._config.max_transfer_blocks
        self._num_opened += 1
        transfer = Transfer(
            TransferId(self._num_opened),
            kind,
            [row.key for row in rows],
            [row.block_id for row in rows if row.block_id is not None],
            [row.host_slot for row in rows],
            [row.depth for row in rows],
            tenant,
            timeout_ns,
            *((TraceContext(), 0) if waiting is None else _whose(waiting)),
        )
        assert len(transfer.block_ids) in (0, len(rows))
        ticket = tickets.open(transfer.block_ids, transfer.host_slots)
        rates = self._rates
        self._in_flight[transfer.transfer_id] = _InFlight(
            transfer, ticket, now_ns, rates.queued_bytes[kind], rates.is_beside_steps
        )
        self._count(transfer, 1)
        self._outbox.append(transfer)
        return transfer

    def take(self) -> list[Transfer]:
        """What was opened since the last call: loads, then fetches, then what nobody waits for."""
        outbox, self._outbox = self._outbox, []
        return sorted(outbox, key=lambda transfer: _URGENCY[transfer.kind])

    def find(self, result: TransferResult) -> Transfer:
        """The transfer that this answers. Raises WorkerLost when there is none, or it cannot be its answer."""
        entry = self._in_flight.get(result.transfer_id)
        if entry is None:
            raise WorkerLost(f"The worker answered transfer {result.transfer_id}, but it is not in flight")
        num_rows = len(entry.transfer.keys)
        if not 0 <= result.num_done <= num_rows or (result.failure is None) != (result.num_done == num_rows):
            raise WorkerLost(
                f"Transfer {result.transfer_id} has {num_rows} rows; the worker says that {result.num_done} are done "
                f"and the failure is {result.failure}"
            )
        return entry.transfer

    def close(self, result: TransferResult, tickets: TicketRegistry, now_ns: int) -> None:
        """Release what the transfer named. Whoever wanted it has been told before."""
        entry = self._in_flight.pop(result.transfer_id)
        transfer = entry.transfer
        kind = transfer.kind
        self._count(transfer, -1)
        elapsed_ns = now_ns - entry.opened_ns
        self._rates.add_transfer(
            kind, result.num_bytes, result.copy_ns, elapsed_ns, entry.queued_bytes, entry.was_beside_steps, now_ns
        )
        move = self.moves[kind]
        move.num_transfers += 1
        move.num_blocks += result.num_done
        move.num_bytes += result.num_bytes
        move.wait_ns += result.wait_ns
        move.copy_ns += result.copy_ns
        if result.failure is not None:
            move.num_failures += 1
            move.failures[result.failure] = move.failures.get(result.failure, 0) + 1
        tickets.close(entry.ticket, TicketOutcome.DONE if result.failure is None else TicketOutcome.FAILED)

    def reset(self) -> None:
        """The session is over and its pools with it: no result will come."""
        self._outbox.clear()
        for entry in self._in_flight.values():
            self._count(entry.transfer, -1)
        self._in_flight.clear()

    def _count(self, transfer: Transfer, sign: int) -> None:
        kind, num_rows = transfer.kind, sign * len(transfer.keys)
        self._num_in_flight[kind] += sign
        self._num_rows[kind] += num_rows
        self._rates.queued_bytes[kind] += num_rows * self._config.block_bytes


def _whose(waiting: Sequence) -> tuple[TraceContext, int]:
    return waiting.request.request.trace, 0 if waiting.stretch is None else waiting.stretch.number


_URGENCY = {TransferKind.LOAD: 0, TransferKind.FETCH: 1, TransferKind.SPILL: 2, TransferKind.PERSIST: 2}
