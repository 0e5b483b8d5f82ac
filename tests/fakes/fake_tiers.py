"""The tiers of a fake worker: transfers on symbolic contents, done at any later moment, in part, or never.

Below the device there are host slots, and a disk that outlives the worker. Whatever a transfer names is watched while
it is in flight: a source that changes or a target that is read meanwhile raises PlanViolation, and so does content that
comes to be known by the wrong key. Targets hold garbage from the moment a transfer is sent until its rows are done,
and rows that are not done leave it there.
"""

from dataclasses import dataclass

from engine.ids import BlockId, BlockKey, HostSlot, TransferId
from engine.scheduling.plan import TierEvents, Transfer, TransferFailure, TransferKind, TransferResult
from tests.fakes.fake_worker import FakeWorker, PlanViolation

Content = tuple[bytes, ...]
"""The digests of one block's positions."""


@dataclass(slots=True)
class FakeDisk:
    """What a disk holds, and what each key has ever stood for. Shared by the workers of a host."""

    contents: dict[BlockKey, Content]
    meanings: dict[BlockKey, Content]

    @classmethod
    def empty(cls) -> "FakeDisk":
        return cls({}, {})

    def check_meaning(self, key: BlockKey, content: Content) -> None:
        """Equal keys mean equal bytes, wherever they come from."""
        if self.meanings.setdefault(key, content) != content:
            raise PlanViolation(f"key {key.hex()[:8]} stands for two contents")

    def evict(self, key: BlockKey) -> TierEvents:
        del self.contents[key]
        return TierEvents(evicted=[key])


@dataclass(slots=True)
class _Moving:
    transfer: Transfer
    sources: list[Content]
    """What the rows are to carry, as it was when the transfer was sent; empty for a FETCH."""


class FakeTiers:
    """Host slots of one worker, and the transfers that it has been sent. The caller says when each one is done."""

    def __init__(self, worker: FakeWorker, num_slots: int, block_bytes: int, disk: FakeDisk) -> None:
        self._worker = worker
        self._block_bytes = block_bytes
        self._disk = disk
        self._slots: list[Content | None] = [None] * num_slots
        self._moving: dict[TransferId, _Moving] = {}

    @property
    def in_flight(self) -> list[Transfer]:
        """In the order in which they were sent."""
        return [moving.transfer for moving in self._moving.values()]

    def send(self, transfer: Transfer) -> None:
        """Take over one transfer. Raises PlanViolation."""
        num_rows = len(transfer.keys)
        touches_device = transfer.kind in (TransferKind.SPILL, TransferKind.LOAD)
        _check(transfer.transfer_id not in self._moving, f"transfer {transfer.transfer_id} is sent twice")
        _check(num_rows > 0, "a transfer has no rows")
        _check(len(transfer.host_slots) == len(transfer.depths) == num_rows, "columns differ in length")
        _check(len(transfer.block_ids) == (num_rows if touches_device else 0), "the block ids are not as the kind asks")
        _check(len(set(transfer.host_slots)) == num_rows, "a host slot is named twice")
        _check(len(set(transfer.block_ids)) == len(transfer.block_ids), "a block is named twice")
        _check(all(0 <= slot < len(self._slots) for slot in transfer.host_slots), "a host slot does not exist")
        _check(transfer.timeout_ns > 0, "a transfer has no time at all")
        self._check_conflicts(transfer)
        moving = _Moving(transfer, self._sources(transfer))
        for key, content in zip(transfer.keys, moving.sources, strict=bool(moving.sources)):
            self._disk.check_meaning(key, content)
        self._moving[transfer.transfer_id] = moving
        match transfer.kind:
            case TransferKind.SPILL | TransferKind.FETCH:
                for slot in transfer.host_slots:
                    self._slots[slot] = None
            case TransferKind.LOAD:
                for block in transfer.block_ids:
                    self._worker.spoil(block)
            case TransferKind.PERSIST:
                pass

    def finish(
        self, transfer_id: TransferId, num_done: int, failure: TransferFailure | None, copy_ns: int = 0
    ) -> TransferResult:
        """Do the first rows of a transfer and answer it. Fetches stop at the first key that the disk does not hold."""
        moving = self._moving.pop(transfer_id)
        transfer = moving.transfer
        _check(self._sources(transfer) == moving.sources, f"the source of {transfer.kind} {transfer_id} has changed")
        for i in range(num_done):
            key, slot = transfer.keys[i], transfer.host_slots[i]
            match transfer.kind:
                case TransferKind.SPILL:
                    self._slots[slot] = moving.sources[i]
                case TransferKind.LOAD:
                    self._worker.write_block(transfer.block_ids[i], moving.sources[i])
                case TransferKind.PERSIST:
                    self._disk.contents[key] = moving.sources[i]
                case TransferKind.FETCH:
                    content = self._disk.contents.get(key)
                    if content is None:
                        num_done, failure = i, TransferFailure.MISSING
                        break
                    self._slots[slot] = content
        num_bytes = num_done * self._block_bytes
        return TransferResult(transfer_id, num_done, failure, num_bytes, copy_ns=copy_ns if num_done else 0)

    def finish_all(self, transfer_id: TransferId, copy_ns: int = 0) -> TransferResult:
        """As `finish`, without a failure of its own."""
        return self.finish(transfer_id, len(self._moving[transfer_id].transfer.keys), None, copy_ns)

    def _sources(self, transfer: Transfer) -> list[Content]:
        match transfer.kind:
            case TransferKind.SPILL:
                return [self._worker.read_block(block) for block in transfer.block_ids]
            case TransferKind.LOAD | TransferKind.PERSIST:
                return [self._content_of(slot) for slot in transfer.host_slots]
            case TransferKind.FETCH:
                return []

    def _content_of(self, slot: HostSlot) -> Content:
        content = self._slots[slot]
        if content is None:
            raise PlanViolation(f"host slot {slot} is read, but holds nothing")
        return content

    def _check_conflicts(self, transfer: Transfer) -> None:
        """Several transfers may read one place at once; whoever writes to it is alone."""
        read_blocks, written_blocks, read_slots, written_slots = _touched(transfer)
        for moving in self._moving.values():
            others = _touched(moving.transfer)
            blocks_clash = (read_blocks | written_blocks) & others[1] or written_blocks & others[0]
            slots_clash = (read_slots | written_slots) & others[3] or written_slots & others[2]
            _check(not blocks_clash, f"blocks {blocks_clash} are in two transfers, one of which writes")
            _check(not slots_clash, f"host slots {slots_clash} are in two transfers, one of which writes")


def _touched(transfer: Transfer) -> tuple[set[BlockId], set[BlockId], set[HostSlot], set[HostSlot]]:
    """Blocks read, blocks written, slots read, slots written."""
    blocks, slots = set(transfer.block_ids), set(transfer.host_slots)
    match transfer.kind:
        case TransferKind.SPILL:
            return blocks, set(), set(), slots
        case TransferKind.LOAD:
            return set(), blocks, slots, set()
        case TransferKind.PERSIST:
            return set(), set(), slots, set()
        case TransferKind.FETCH:
            return set(), set(), set(), slots


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise PlanViolation(message)
