"""Opens the tiers below one worker's device pool. A tier that cannot be had is said, and done without."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kvstore.courtesy import ComputeGauge
from kvstore.disk import DiskTier
from kvstore.disk_limit import ReadLimit
from kvstore.disk_store import DiskStore
from kvstore.errors import TierError
from kvstore.executor import CPU_LIMITS, ExecutorLimits, TierExecutor
from kvstore.host_memory import available_bytes
from kvstore.slab import HostSlab
from kvstore.transfer import Tier, TierFault, Transfer
from services.common import logs
from services.worker.config import WorkerConfig
from services.worker.disk_keeper import DiskKeeper
from services.worker.loaded_engine import LoadProgress, TierNews

_log = logs.get_logger(__name__)

_MAX_DEFAULT_HOST_BYTES = 4 << 30
_MAX_DEFAULT_DISK_BYTES = 8 << 30

_SETTLE_S = 30.0
_CLOSE_S = 5.0


class Mover:
    """Carries the transfers of one worker out; owns the threads, the slab and the disk."""

    def __init__(
        self,
        pool: torch.Tensor,
        slab: HostSlab,
        disk: DiskTier | None,
        disk_read_limit: int | None,
        gauge: ComputeGauge,
        tell: Callable[[TierNews], None],
    ) -> None:
        """`disk_read_limit` is in bytes a second; None or 0: none."""
        self._disk = disk
        self._slab = slab
        self._tell = tell
        self.keeper = None if disk is None else DiskKeeper(disk, tell)
        store: DiskStore | None = disk
        if disk is not None and disk_read_limit:
            store = ReadLimit(disk, slab.slot_bytes, disk_read_limit)
        limits = CPU_LIMITS if pool.device.type == "cpu" else ExecutorLimits()
        self._executor = TierExecutor(
            pool, slab, store, on_result=tell, on_events=tell, on_fault=tell, limits=limits, gauge=gauge
        )

    def submit(self, transfer: Transfer) -> None:
        self._executor.submit(transfer)

    def settle(self) -> None:
        """Raises TierError when something hangs: its blocks and slots can then be given to nobody else."""
        if not self._executor.drain(_SETTLE_S):
            raise TierError(f"transfers of the session before still hang after {_SETTLE_S:.0f} s")

    def announce(self) -> None:
        if self.keeper is None:
            return
        try:
            self.keeper.listing.tell_pins()
            self.keeper.listing.tell_keys()
        except (TierError, OSError) as error:
            # What is not announced is not fetched; nothing else is lost.
            self._tell(TierFault(Tier.DISK, f"cannot list what is on disk: {error}"))

    def close(self) -> None:
        has_ended = self.keeper is None or self.keeper.close(_CLOSE_S)
        if self._executor.close(_CLOSE_S) and has_ended:
            if self._disk is not None:
                self._disk.close()
            self._slab.close()


@dataclass(frozen=True, slots=True)
class OpenTiers:
    """What there is below the device. `mover` is None where there is no host tier."""

    mover: Mover | None = None
    num_host_slots: int = 0
    host_is_pinned: bool = False
    disk_id: bytes = b""
    disk_capacity_bytes: int = 0
    host_note: str = ""
    disk_note: str = ""
    max_pinned_disk_blocks: int = 0


def open_tiers(
    config: WorkerConfig,
    pool: torch.Tensor,
    namespace: bytes,
    gauge: ComputeGauge,
    progress: LoadProgress,
    tell: Callable[[TierNews], None],
) -> OpenTiers:
    """`pool` is the device's, `uint8[num_blocks, block_bytes]`. Whatever is wrong with a tier ends up in its note.

    `gauge` says when the model computes.
    """
    block_bytes = pool.shape[1]
    host_bytes = _host_bytes(config, pool)
    if host_bytes < block_bytes:
        is_off = config.host_cache == 0
        note = "" if is_off else f"a host cache of {host_bytes} bytes holds no block of {block_bytes}; give it more"
        return OpenTiers(host_note=note, disk_note="" if is_off else "the disk tier needs a host tier")
    try:
        slab = HostSlab(host_bytes // block_bytes, block_bytes, pool.device, progress)
    except TierError as error:
        _log.error("no host tier", extra=logs.fields(reason=str(error)))
        return OpenTiers(host_note=str(error), disk_note="the disk tier needs a host tier")
    disk, disk_note = _open_disk(config, namespace, block_bytes)
    _log.info(
        "tiers open",
        extra=logs.fields(
            host_slots=slab.num_slots,
            host_bytes=slab.num_bytes,
            pinned=slab.is_pinned,
            disk=str(_directory(config)) if disk is not None else "none",
            disk_bytes=disk.options.cap_bytes if disk is not None else 0,
        ),
    )
    return OpenTiers(
        mover=Mover(pool, slab, disk, config.disk_read_limit, gauge, tell),
        num_host_slots=slab.num_slots,
        host_is_pinned=slab.is_pinned,
        disk_id=disk.disk_id if disk is not None else b"",
        disk_capacity_bytes=disk.options.cap_bytes if disk is not None else 0,
        host_note=slab.pin_failure or "",
        disk_note=disk_note,
        max_pinned_disk_blocks=0 if disk is None else disk.options.max_pinned_bytes // disk.options.slot_bytes,
    )


def _open_disk(config: WorkerConfig, namespace: bytes, block_bytes: int) -> tuple[DiskTier | None, str]:
    """The tier, or why there is none; both empty where it is switched off."""
    directory = _directory(config)
    try:
        cap_bytes = _disk_bytes(config, directory)
        if not cap_bytes:
            return None, ""
        disk = DiskTier.open(
            directory,
            namespace=namespace,
            block_bytes=block_bytes,
            cap_bytes=cap_bytes,
            tenant_cap_bytes=config.tenant_disk_cache,
        )
    except (TierError, OSError) as error:
        _log.error("no disk tier", extra=logs.fields(directory=str(directory), reason=str(error)))
        return None, str(error)
    return disk, ""


def _directory(config: WorkerConfig) -> Path:
    """By default as the XDG base directory specification has it."""
    if config.cache_dir is not None:
        return config.cache_dir
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tiercel" / "kv"


def _host_bytes(config: WorkerConfig, pool: torch.Tensor) -> int:
    """As much as the device's pool, within an eighth of the memory that is there."""
    if config.host_cache is not None:
        return config.host_cache
    return min(pool.numel(), available_bytes() // 8, _MAX_DEFAULT_HOST_BYTES)


def _disk_bytes(config: WorkerConfig, directory: Path) -> int:
    """A tenth of the space that is there, within a limit."""
    if config.disk_cache is not None:
        return config.disk_cache
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return min(shutil.disk_usage(existing).free // 10, _MAX_DEFAULT_DISK_BYTES)
