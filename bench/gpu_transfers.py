"""Spills and loads of blocks beside one copy between the device and page-locked memory."""

import random
import time

import torch

from bench.gpu_ceilings import DeviceCeilings
from bench.gpu_figures import Figure, rate
from kvstore.copier import BlockCopier
from kvstore.layout import BlockLayout
from kvstore.slab import HostSlab
from kvstore.streams import copy_stream
from kvstore.transfer import MoveKind

TRANSFER_SHARE = 0.85
PIECE_BYTES = 32 << 20
"""As `kvstore.executor.ExecutorLimits` has it where a device does the copying."""


def measure_transfers(
    layout: BlockLayout, num_bytes: int, ceilings: DeviceCeilings, device: torch.device
) -> list[Figure]:
    """Through the copier, piece by piece as the executor does it, with blocks and slots in order and scattered."""
    num_rows = max(2, num_bytes // layout.block_bytes)
    pool = layout.allocate(num_rows, device)
    slab = HostSlab(num_rows, layout.block_bytes, device)
    copier = BlockCopier(pool, slab.tensor, copy_stream(device))
    piece_rows = max(1, PIECE_BYTES // layout.block_bytes)
    in_order = list(range(num_rows))
    scattered = random.Random(1).sample(in_order, num_rows)
    figures: list[Figure] = []
    for name, blocks in (("in order", in_order), ("scattered", scattered)):
        for kind, ceiling in (
            (MoveKind.SPILL, ceilings.to_host_bytes_per_s),
            (MoveKind.LOAD, ceilings.to_device_bytes_per_s),
        ):
            taken = min(_seconds(copier, kind, blocks, piece_rows) for _ in range(4))
            label = f"{kind.value} of {layout.block_bytes / 1e6:.2g} MB blocks, {name}"
            label += "" if slab.is_pinned or device.type != "cuda" else f" ({slab.pin_failure})"
            figures.append(
                rate(label, num_rows * layout.block_bytes / taken / 1e9, "GB/s", ceiling / 1e9, TRANSFER_SHARE)
            )
    slab.close()
    return figures


def _seconds(copier: BlockCopier, kind: MoveKind, blocks: list[int], piece_rows: int) -> float:
    fence = copier.stream.fence()
    started = time.perf_counter()
    for start in range(0, len(blocks), piece_rows):
        part = slice(start, start + piece_rows)
        copier.copy(kind, blocks[part], range(len(blocks))[part], fence)
    return time.perf_counter() - started
