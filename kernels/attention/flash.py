"""Attention by Tri Dao's flash-attn, versions 2 and 4, where its kernels are ahead: chunks of prompts, and decode rows
over large 16-bit pages. All else is `TritonAttention`'s: storing K and V, and decode rows over other pages.

flash-attn knows no FP8 rows with scales of their own and version 2 no pages but of multiples of 256 tokens, so a chunk
attends over a scratch into which its context is gathered and dequantised, one layer at a time. That moves the context's
bytes twice more, which is little beside the products of a long chunk.
"""

import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnBatch, AttnPlan, DecodeBuffers
from kernels.attention.triton import TritonAttention, TritonPlan
from kernels.attention.triton import unsupported as unsupported_by_triton
from kernels.triton.pages import PageGeometry
from kernels.triton.read_kv import read_kv, read_tiles

_SCRATCH_TOKENS = 1 << 16
"""Most tokens of context gathered at once: 256 MiB of K and V with 8 heads of 128. Longer ones are Triton's."""

_LEAST_TOKENS = 256
"""New tokens of a row from which gathering its context pays. It moves some 5 bytes per element of K and V, 3 ns a token
with 8 heads of 128 at 3.3 TB/s; a query saves about 14 ps of each with 32 heads, if products run at 600 in place of 400
TFLOP/s. An estimate, not a measurement: `python -m bench.gpu_attention` shows both."""

_PAGE_TOKENS = 256
"""Version 2 takes pages of multiples of this."""

MAX_HEAD_DIM = 256
_MAX_HEAD_DIM_BLACKWELL = 128


class FlashUnavailable(Exception):
    """Why flash-attn cannot be had."""


@dataclass(frozen=True, slots=True)
class FlashLibrary:
    """The functions of flash-attn that are called here."""

    version: int
    """2 or 4."""
    varlen: Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]]
    """`flash_attn_varlen_func`; version 4 returns the sums of its softmax too."""
    with_kvcache: Callable[..., torch.Tensor] | None
    """`flash_attn_with_kvcache`; version 4 has none."""


def load_flash(device: torch.device) -> FlashLibrary:
    """What is installed: version 4 (package flash-attn-4) on Hopper and newer, else version 2 (flash-attn).

    Raises FlashUnavailable where there is neither, or it does not load.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability >= (9, 0):
        try:
            return FlashLibrary(4, importlib.import_module("flash_attn.cute").flash_attn_varlen_func, None)
        except (ImportError, AttributeError, OSError):
            pass
    try:
        package = importlib.import_module("flash_attn")
        return FlashLibrary(2, package.flash_attn_varlen_func, package.flash_attn_with_kvcache)
    except (ImportError, AttributeError, OSError) as error:
        raise FlashUnavailable(f"flash-attn does not load: {error}") from error


def unsupported(kv: PagedKv, dtype: torch.dtype, capability: tuple[int, int]) -> str | None:
    """Why flash-attn cannot attend for these pages when computing in `dtype` on such a device, or None."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"flash-attn computes in bf16 and fp16, not in {dtype}"
    if capability < (8, 0):
        return f"the device's compute capability is {capability[0]}.{capability[1]}; 8.0 is the least"
    most = _MAX_HEAD_DIM_BLACKWELL if capability >= (10, 0) else MAX_HEAD_DIM
    if kv.head_dim % 8 or kv.head_dim > most:
        return f"head_dim {kv.head_dim} is not a multiple of 8 up to {most}"
    return unsupported_by_triton(kv, dtype)


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """Adjacent rows with several new tokens each, attended to together; int32 tensors on the device."""

    tokens: slice
    """Of q."""
    query_starts: torch.Tensor
    """[rows + 1] among these tokens."""
    key_starts: torch.Tensor
    """[rows + 1] in the scratch, or of the rows' contexts laid one behind the other."""
    longest_query: int
    longest_key: int
    num_keys: int
    tiles: torch.Tensor
    """Of `read_kv`; none where flash-attn reads the pages."""
    block_table: torch.Tensor
    """These rows'."""


@dataclass(frozen=True, slots=True)
class PagedRows:
    """Decode rows whose pages flash-attn reads."""

    tokens: torch.Tensor
    """int64 [rows]: in q."""
    context_lens: torch.Tensor
    """int32 [rows]"""
    block_table: torch.Tensor
    """int32 [rows, max_blocks]"""


@dataclass(frozen=True, slots=True)
class FlashPlan:
    rest: TritonPlan
    """Where to write, and the rows that are not flash-attn's."""
    decode: PagedRows | None
    by_window: dict[int | None, list[ChunkRows]]
    fresh_blocks: torch.Tensor | None


class FlashAttention:
    """Works on pages of any type and block size, for bf16 and fp16 models. One thread at a time."""

    name = "flash"

    def __init__(self, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, library: FlashLibrary) -> None:
        """`windows` has an entry per layer, `dtype` is that of q. `unsupported` must give no reason."""
        self._triton = TritonAttention(kv, windows, dtype)
        self._library = library
        self._pages = PageGeometry.of(kv)
        self._pool = kv.data
        self._windows = tuple(windows)
        self._dtype = dtype
        is_paged = library.with_kvcache is not None and kv.dtype == dtype and kv.block_size % _PAGE_TOKENS == 0
        self._cache = kv.elements.transpose(3, 4) if is_paged else None
        """[blocks, layers, 2, block_size, kv_heads, head_dim], strided, where flash-attn reads the pages itself."""

    def plan(self, batch: AttnBatch) -> FlashPlan:
        """Two copies from pinned memory to the device, without waiting for them."""
        starts, contexts = batch.query_starts, batch.context_lens
        several = [row for row in range(len(contexts)) if starts[row + 1] - starts[row] > 1]
        is_paged = self._cache is not None
        ours = [
            row
            for row in several
            if is_paged or (contexts[row] <= _SCRATCH_TOKENS and starts[row + 1] - starts[row] >= _LEAST_TOKENS)
        ]
        rest = self._triton.plan_rows(batch, [row for row in several if row not in set(ours)])
        decode = None
        if is_paged and rest.decode is not None:
            rows = rest.decode
            table = batch.block_table.index_select(0, rows.rows)
            decode = PagedRows(rows.tokens.long(), rows.context_lens, table)
        return FlashPlan(rest, decode, self._chunks(batch, ours), batch.fresh_blocks if is_paged else None)

    def decode_plan(self, buffers: DecodeBuffers) -> FlashPlan:
        """As `TritonAttention.decode_plan`, and so with pages that flash-attn reads itself."""
        rest = self._triton.decode_plan(buffers)
        decode = None
        if self._cache is not None:
            tokens = torch.arange(buffers.num_rows, device=buffers.context_lens.device)
            decode = PagedRows(tokens, buffers.context_lens, buffers.block_table)
        return FlashPlan(rest, decode, {window: [] for window in self._windows}, None)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, FlashPlan)
        if layer == 0 and plan.fresh_blocks is not None:
            # Tiles of pages are read whole: what an earlier owner left behind the last token must not be NaN.
            self._pool.index_fill_(0, plan.fresh_blocks, 0)
        self._triton.write(k, v, layer, plan.rest.write_slots)
        q = q if q.stride(2) == 1 else q.contiguous()
        chunks = plan.by_window[self._windows[layer]]
        if plan.rest.decode is None and plan.rest.tiles is None and len(chunks) == 1:
            return self._attend(q, layer, chunks[0])
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if plan.decode is not None:
            out.index_copy_(
                0, plan.decode.tokens, self._decode(q.index_select(0, plan.decode.tokens), layer, plan.decode)
            )
        elif plan.rest.decode is not None:
            self._triton.decode(q, out, layer, plan.rest)
        self._triton.prefill(q, out, layer, plan.rest)
        for rows in chunks:
            out[rows.tokens] = self._attend(q[rows.tokens], layer, rows)
        return out

    def _decode(self, q: torch.Tensor, layer: int, rows: PagedRows) -> torch.Tensor:
        """[rows, heads, head_dim] for one query per row."""
        assert self._cache is not None
        assert self._library.with_kvcache is not None
        keys, values = self._cache[:, layer].unbind(1)
        attended = self._library.with_kvcache(
            q[:, None],
            keys,
            values,
            cache_seqlens=rows.context_lens,
            block_table=rows.block_table,
            softmax_scale=self._pages.head_dim**-0.5,
            causal=True,
            window_size=self._window(layer),
        )
        return attended[:, 0]

    def _attend(self, q: torch.Tensor, layer: int, rows: ChunkRows) -> torch.Tensor:
        """[tokens, heads, head_dim] for these rows' queries."""
        pages: dict[str, torch.Tensor] = {}
        if self._cache is not None:
            keys, values = self._cache[:, layer].unbind(1)
            pages["block_table"] = rows.block_table
        else:
            shape = (2, rows.num_keys, self._pages.kv_heads, self._pages.head_dim)
            scratch = torch.empty(shape, dtype=q.dtype, device=q.device)
            read_kv(self._pages, layer, rows.tiles, rows.block_table, scratch)
            keys, values = scratch.unbind()
        attended = self._library.varlen(
            q,
            keys,
            values,
            cu_seqlens_q=rows.query_starts,
            cu_seqlens_k=rows.key_starts,
            max_seqlen_q=rows.longest_query,
            max_seqlen_k=rows.longest_key,
            softmax_scale=self._pages.head_dim**-0.5,
            causal=True,
            window_size=self._window(layer),
            **pages,
        )
        return attended[0] if isinstance(attended, tuple) else attended

    def _window(self, layer: int) -> tuple[int | None, int | None]:
        """Keys that are seen to the left and to the right of a query's own position."""
        window = self._windows[layer]
        if window is not None:
            return window - 1, 0
        return (-1, -1) if self._library.version == 2 else (None, None)

    def _chunks(self, batch: AttnBatch, rows: Sequence[int]) -> dict[int | None, list[ChunkRows]]:
        """The groups of each window: what has to be on the device for all of them goes there in one copy."""
        by_window: dict[int | None, list[ChunkRows]] = {window: [] for window in self._windows}
        if not rows:
            return by_window
        staged: list[int] = []
        described: list[tuple[int | None, list[tuple[int, int, int]], int]] = []
        for window in dict.fromkeys(self._windows):
            for spans in self._groups(batch, rows, window):
                described.append((window, spans, len(staged)))
                queries = [batch.query_starts[row] - batch.query_starts[spans[0][0]] for row, _, _ in spans]
                last = spans[-1][0]
                staged += [*queries, batch.query_starts[last + 1] - batch.query_starts[spans[0][0]]]
                staged += itertools.accumulate((end - start for _, start, end in spans), initial=0)
                if self._cache is None:
                    relative = [(row - spans[0][0], start, end) for row, start, end in spans]
                    staged += itertools.chain.from_iterable(read_tiles(relative))
        values = self._triton.staged(staged)
        ends = [start for _, _, start in described[1:]] + [len(staged)]
        for (window, spans, start), end in zip(described, ends, strict=True):
            first, last, count = spans[0][0], spans[-1][0] + 1, len(spans) + 1
            starts = batch.query_starts[first : last + 1]
            lengths = [end - start for _, start, end in spans]
            by_window[window].append(
                ChunkRows(
                    tokens=slice(starts[0], starts[-1]),
                    query_starts=values[start : start + count],
                    key_starts=values[start + count : start + 2 * count],
                    longest_query=max(after - before for before, after in itertools.pairwise(starts)),
                    longest_key=max(lengths),
                    num_keys=sum(lengths),
                    tiles=values[start + 2 * count : end].view(-1, 4),
                    block_table=batch.block_table[first:last],
                )
            )
        return by_window

    def _groups(self, batch: AttnBatch, rows: Sequence[int], window: int | None) -> list[list[tuple[int, int, int]]]:
        """Adjacent rows whose keys fit the scratch together, each as (row, first position that is seen, context)."""
        groups: list[list[tuple[int, int, int]]] = []
        size = 0
        for row in rows:
            context, start = batch.context_lens[row], 0
            if window is not None and self._cache is None:
                count = batch.query_starts[row + 1] - batch.query_starts[row]
                start = max(0, context - count - window + 1)
            size += context - start
            if groups and groups[-1][-1][0] == row - 1 and (self._cache is not None or size <= _SCRATCH_TOKENS):
                groups[-1].append((row, start, context))
            else:
                groups.append([(row, start, context)])
                size = context - start
        return groups
