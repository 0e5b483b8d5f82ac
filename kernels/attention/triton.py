"""Attention over paged blocks by Triton's kernels (`kernels/triton`), for CUDA devices.

K and V are read where they lie, FP8 included. A decode row's result is the same, bit for bit, whatever else is in the
batch, and its launches do not depend on what is on the device, so that they can be captured in a CUDA graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnBatch, AttnPlan, DecodeBuffers
from kernels.triton.decode_attention import decode_attention
from kernels.triton.pages import PageGeometry
from kernels.triton.prefill_attention import prefill_attention, prefill_tiles
from kernels.triton.write_kv import write_kv

MAX_HEAD_DIM = 256

_WIDE_ROW_BYTES = 256
"""Tiles of queries and keys wider than this take more shared memory than some devices have."""

_WIDE_SHARED_BYTES = 160 << 10

_LEAST_CAPABILITY = (8, 0)
"""Compute capability from which tensor cores multiply bf16."""


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rows with one new token each; int32 tensors on the device."""

    tokens: torch.Tensor
    """[rows]: where each row's query is in q."""
    rows: torch.Tensor
    """[rows]: of the block table."""
    context_lens: torch.Tensor
    """[rows]; 0: padding."""
    max_context: int
    """No context is longer, now or when the plan's tensors have been filled anew."""


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """A step's rows. Where `TritonAttention.decode_plan` made it, its tensors are the caller's buffers: fill them anew
    in place, and the same plan, or a graph captured with it, attends for the new rows.
    """

    write_slots: torch.Tensor
    block_table: torch.Tensor
    decode: DecodeRows | None
    tiles: torch.Tensor | None
    """Of the rows with several new tokens, for `group`: see `prefill_tiles`."""
    group: int
    chunks: Sequence[int]
    batch: AttnBatch | None


def unsupported(kv: PagedKv, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot attend over these pages when computing in `dtype`, or None."""
    device = kv.data.device
    if device.type != "cuda":
        if not triton.knobs.runtime.interpret:
            return f"the pages are on {device}, where Triton's kernels run in its interpreter alone"
    elif (capability := torch.cuda.get_device_capability(device)) < _LEAST_CAPABILITY:
        return f"the device's compute capability is {capability[0]}.{capability[1]}; 8.0 is the least"
    if kv.head_dim > MAX_HEAD_DIM:
        return f"head_dim {kv.head_dim} is more than {MAX_HEAD_DIM}"
    if dtype == torch.float32 and kv.head_dim > MAX_HEAD_DIM // 2:
        return f"head_dim {kv.head_dim} in fp32 is more than {MAX_HEAD_DIM // 2}"
    if device.type == "cuda" and triton.next_power_of_2(kv.head_dim) * dtype.itemsize > _WIDE_ROW_BYTES:
        properties: Any = torch.cuda.get_device_properties(device)
        shared = properties.shared_memory_per_block_optin
        if shared < _WIDE_SHARED_BYTES:
            return f"head_dim {kv.head_dim} in {dtype} needs {_WIDE_SHARED_BYTES} bytes of shared memory, not {shared}"
    return None


class TritonAttention:
    """Works on pages of any type and block size. One thread at a time."""

    name = "triton"

    def __init__(self, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> None:
        """`windows` has an entry per layer, `dtype` is that of q. `unsupported(kv, dtype)` must give no reason."""
        assert len(windows) == kv.num_layers
        assert unsupported(kv, dtype) is None
        self._pages = PageGeometry.of(kv)
        self._windows = tuple(windows)
        self._dtype = dtype
        self._device = kv.data.device
        self._group = 1
        """Query heads per K/V head, as last seen."""

    def plan(self, batch: AttnBatch) -> TritonPlan:
        """One copy from pinned memory to the device, without waiting for it."""
        starts = batch.query_starts
        return self.plan_rows(batch, [row for row in range(len(starts) - 1) if starts[row + 1] - starts[row] > 1])

    def plan_rows(self, batch: AttnBatch, chunks: Sequence[int]) -> TritonPlan:
        """A plan that leaves out rows with several new tokens but for those in `chunks`."""
        starts, contexts = batch.query_starts, batch.context_lens
        alone = [row for row in range(len(contexts)) if starts[row + 1] - starts[row] == 1]
        tiles = prefill_tiles(starts, contexts, chunks, self._group)
        values = [starts[row] for row in alone] + alone + [contexts[row] for row in alone]
        values.extend(value for tile in tiles for value in tile)
        staged = self.staged(values)
        decode = None
        if alone:
            tokens, rows, lengths = staged[: 3 * len(alone)].view(3, -1)
            decode = DecodeRows(tokens, rows, lengths, max(contexts[row] for row in alone))
        return TritonPlan(
            write_slots=batch.write_slots,
            block_table=_with_plain_rows(batch.block_table),
            decode=decode,
            tiles=staged[3 * len(alone) :].view(-1, 4) if tiles else None,
            group=self._group,
            chunks=chunks,
            batch=batch,
        )

    def decode_plan(self, buffers: DecodeBuffers) -> TritonPlan:
        """A plan over `buffers`, which stay the caller's: `run` reads them on the device when its kernels run.

        The grid covers `block_table.shape[1]` blocks per row; for a row of context length 0 the result is zeros, and
        for write slot -1 nothing is written. Workspaces come from torch's allocator within `run`, which a capture
        keeps in the graph's own pool.
        """
        numbers = torch.arange(buffers.num_rows, dtype=torch.int32, device=self._device)
        max_context = buffers.block_table.shape[1] * self._pages.block_size
        assert buffers.block_table.stride(1) == 1
        return TritonPlan(
            write_slots=buffers.write_slots,
            block_table=buffers.block_table,
            decode=DecodeRows(numbers, numbers, buffers.context_lens, max_context),
            tiles=None,
            group=self._group,
            chunks=(),
            batch=None,
        )

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, TritonPlan)
        self.write(k, v, layer, plan.write_slots)
        q = _with_plain_rows(q)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if plan.decode is not None:
            self.decode(q, out, layer, plan)
        self.prefill(q, out, layer, plan)
        return out

    def write(self, k: torch.Tensor, v: torch.Tensor, layer: int, write_slots: torch.Tensor) -> None:
        """Store a step's K and V."""
        assert k.dtype == v.dtype == self._dtype
        write_kv(self._pages, layer, _with_plain_rows(k), _with_plain_rows(v), write_slots)

    def decode(self, q: torch.Tensor, out: torch.Tensor, layer: int, plan: TritonPlan) -> None:
        """Fill the rows of out that are decode rows' queries."""
        rows = plan.decode
        assert rows is not None
        decode_attention(
            self._pages,
            layer,
            q,
            out,
            rows.tokens,
            rows.rows,
            rows.context_lens,
            plan.block_table,
            rows.max_context,
            self._windows[layer],
        )

    def prefill(self, q: torch.Tensor, out: torch.Tensor, layer: int, plan: TritonPlan) -> None:
        """Fill the rows of out that are of chunks, if the plan has any."""
        group = q.shape[1] // self._pages.kv_heads
        if plan.tiles is not None and group != plan.group and plan.batch is not None:
            # The first step's plan is made before a query has been seen.
            self._group = group
            plan = self.plan_rows(plan.batch, plan.chunks)
        if plan.tiles is not None:
            prefill_attention(self._pages, layer, q, out, plan.tiles, plan.block_table, self._windows[layer])

    def staged(self, values: list[int]) -> torch.Tensor:
        """int32 on the device, copied from pinned memory without waiting."""
        staging = torch.tensor(values, dtype=torch.int32, pin_memory=self._device.type == "cuda")
        return staging.to(self._device, non_blocking=True)


def _with_plain_rows(values: torch.Tensor) -> torch.Tensor:
    """As it is where the elements of the last dimension lie side by side."""
    return values if values.stride(-1) == 1 else values.contiguous()
