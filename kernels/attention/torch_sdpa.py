"""Attention over paged blocks with torch's own fused kernel: gather the pages of some rows, then attend.

Decode rows of similar length are gathered into one padded batch; a prefill row is gathered alone. The group of query
heads that share a K/V head is folded into the query length (decode) or reads K and V through a zero stride
(prefill), so no K/V head is ever repeated in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnBatch, AttnPlan
from kernels.attention.torch_pages import TorchPages, WriteTargets

_GROUP_COST_BLOCKS = 16
"""One more group costs about as much as gathering this many blocks of padding (measured, 2 cores, bf16)."""

_GROUP_BYTES = 8 << 20
"""A group's gathered K and V should be read back from cache."""

_QUERY_TILE = 512
"""Queries per masked call, which bounds the mask to tile * context elements."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Consecutive rows with one query each. Their K and V are gathered as [rows, 2, kv_heads, blocks, ...]."""

    tokens: slice
    num_blocks: int
    """Per row, padding included."""
    page_ids: torch.Tensor
    mask: torch.Tensor | None
    """[rows, 1, 1, tokens], added to the scores; None: nothing is hidden."""


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """Some consecutive queries of a prefill row; they see the row's gathered tokens up to `num_visible`."""

    tokens: slice
    num_visible: int
    mask: torch.Tensor | None
    """[queries, num_visible], added to the scores; None: causal from the first gathered token."""


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """A row with several queries."""

    num_blocks: int
    page_ids: torch.Tensor
    tiles: list[PrefillTile]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What the layers of one window share."""

    decode: list[DecodeGroup]
    prefill: list[PrefillRow]


@dataclass(frozen=True, slots=True)
class TorchPlan:
    targets: WriteTargets
    fresh_blocks: torch.Tensor | None
    """Cleared, all layers at once, before the first layer runs."""
    by_window: dict[int | None, WindowPlan]


class TorchAttention:
    """Works on any device that torch has; the choice where there is no kernel of our own."""

    name = "torch"

    def __init__(self, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> None:
        """`windows` has an entry per layer, `dtype` is that of q. Workspaces belong to it: one thread at a time."""
        assert len(windows) == kv.num_layers
        self._windows = tuple(windows)
        self._distinct_windows = set(windows)
        self._kv_heads, self._block_size, self._head_dim = kv.kv_heads, kv.block_size, kv.head_dim
        # A page is one head's K (or V) of a block. Layer l sees the same ids as layer 0, in a shifted view.
        self._pages_per_block = kv.num_layers * 2 * kv.kv_heads
        self._pages = TorchPages(kv, dtype)
        self._head_pages = torch.arange(2 * kv.kv_heads, device=kv.data.device)[:, None]
        self._numbers = torch.arange(0, device=kv.data.device)
        self._visible = torch.zeros((), dtype=dtype, device=kv.data.device)
        self._hidden = torch.full((), float("-inf"), dtype=dtype, device=kv.data.device)
        self._last_table: torch.Tensor | None = None
        self._last_plan: WindowPlan | None = None
        """Of a batch of decode rows without windows, which the next one may continue."""

    def plan(self, batch: AttnBatch) -> TorchPlan:
        return TorchPlan(self._pages.targets(batch.write_slots), batch.fresh_blocks, self._window_plans(batch))

    def _window_plans(self, batch: AttnBatch) -> dict[int | None, WindowPlan]:
        longest = max(batch.context_lens, default=0)
        if batch.continues and self._last_plan is not None and self._has_no_window(longest):
            plan = WindowPlan([self._continued(batch, group) for group in self._last_plan.decode], [])
            by_window: dict[int | None, WindowPlan] = dict.fromkeys(self._distinct_windows, plan)
            self._last_table, self._last_plan = batch.block_table, plan
            return by_window
        self._last_plan = None
        by_window = {}
        for window in self._distinct_windows:
            if window is None or window >= longest:
                if None not in by_window:
                    by_window[None] = self._window_plan(batch, None)
                by_window[window] = by_window[None]
            else:
                by_window[window] = self._window_plan(batch, window)
        if batch.num_tokens == len(batch.context_lens) and self._has_no_window(longest):
            self._last_table, self._last_plan = batch.block_table, by_window[None]
        return by_window

    def _has_no_window(self, longest: int) -> bool:
        """Whether no layer's window hides anything of rows up to this length."""
        return all(window is None or window >= longest for window in self._distinct_windows)

    def _continued(self, batch: AttnBatch, group: DecodeGroup) -> DecodeGroup:
        """The same rows, each one token on: the mask uncovers that token, in place."""
        rows = group.tokens
        longest = max(batch.context_lens[rows])
        if group.mask is None or -(-longest // self._block_size) != group.num_blocks:
            return self._decode_group(batch, rows.start, rows.stop, None)
        group.mask.view(rows.stop - rows.start, -1).scatter_(1, batch.positions[rows, None], 0.0)
        if batch.block_table is self._last_table:
            return group
        ids = batch.block_table[rows, : group.num_blocks]
        return DecodeGroup(rows, group.num_blocks, self._page_ids(ids), group.mask)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, TorchPlan)
        if layer == 0 and plan.fresh_blocks is not None:
            # A gather reads unwritten tails before the mask hides them, and 0 * NaN is NaN.
            self._pages.clear(plan.fresh_blocks)
        # The step's own tokens are read back from their pages like all others: what is attended to never depends on
        # how a prompt was cut into chunks.
        self._pages.write(layer, k, v, plan.targets)
        window_plan = plan.by_window[self._windows[layer]]
        groups = window_plan.decode
        if len(groups) == 1 and not window_plan.prefill:
            return self._decode(q, layer, groups[0]).reshape(q.shape)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in groups:
            out[group.tokens] = self._decode(q[group.tokens], layer, group).view(-1, *q.shape[1:])
        for row in window_plan.prefill:
            self._prefill(q, layer, row, out)
        return out

    def _decode(self, q: torch.Tensor, layer: int, group: DecodeGroup) -> torch.Tensor:
        """[rows, kv_heads, heads per kv head, head_dim]."""
        num_rows = q.shape[0]
        keys, values = self._gather(layer, group.page_ids, num_rows, group.num_blocks).unbind(1)
        folded = q.reshape(num_rows, self._kv_heads, -1, self._head_dim)
        return F.scaled_dot_product_attention(folded, keys, values, attn_mask=group.mask)

    def _prefill(self, q: torch.Tensor, layer: int, row: PrefillRow, out: torch.Tensor) -> None:
        gathered = self._gather(layer, row.page_ids, 1, row.num_blocks)[0]
        group = q.shape[1] // self._kv_heads
        for tile in row.tiles:
            # K/V heads are the batch, the query heads of a group its heads: [kv_heads, group, tokens, head_dim].
            queries = q[tile.tokens].view(-1, self._kv_heads, group, self._head_dim).permute(1, 2, 0, 3)
            keys, values = gathered[:, :, None, : tile.num_visible].expand(-1, -1, group, -1, -1)
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=tile.mask, is_causal=tile.mask is None
            )
            out[tile.tokens] = attended.permute(2, 0, 1, 3).flatten(1, 2)

    def _gather(self, layer: int, page_ids: torch.Tensor, num_rows: int, num_blocks: int) -> torch.Tensor:
        """[rows, 2, kv_heads, num_blocks * block_size, head_dim] in q's dtype; valid until the next gather."""
        shape = (num_rows, 2, self._kv_heads, num_blocks * self._block_size, self._head_dim)
        return self._pages.gather(layer, page_ids).view(shape)

    def _window_plan(self, batch: AttnBatch, window: int | None) -> WindowPlan:
        starts = batch.query_starts
        return WindowPlan(
            [self._decode_group(batch, first, last, window) for first, last in self._decode_runs(batch, window)],
            [self._prefill_row(batch, i, window) for i in range(len(starts) - 1) if starts[i + 1] - starts[i] > 1],
        )

    def _decode_runs(self, batch: AttnBatch, window: int | None) -> list[tuple[int, int]]:
        """Consecutive decode rows to gather together, as [first, last): padding and size are bounded."""
        max_blocks = max(1, _GROUP_BYTES // (2 * self._kv_heads * self._block_size * self._head_dim * 2))
        num_rows, contexts = len(batch.context_lens), batch.context_lens
        if window is None and batch.num_tokens == num_rows:
            # Decode rows alone are often alike enough for one group.
            longest, shortest = -(-max(contexts) // self._block_size), -(-min(contexts) // self._block_size)
            if num_rows * (longest - shortest) <= _GROUP_COST_BLOCKS and num_rows * longest <= max_blocks:
                return [(0, num_rows)]
        runs: list[tuple[int, int]] = []
        first, longest, total = 0, 0, 0
        for row, context in enumerate(batch.context_lens):
            if batch.query_starts[row + 1] - batch.query_starts[row] != 1:
                if row > first:
                    runs.append((first, row))
                first, longest, total = row + 1, 0, 0
                continue
            num_blocks = -(-context // self._block_size) - self._first_block(context, 1, window)
            longest = max(longest, num_blocks)
            padded = longest * (row - first + 1)
            if row > first and (padded - total - num_blocks > _GROUP_COST_BLOCKS or padded > max_blocks):
                runs.append((first, row))
                first, longest, total = row, num_blocks, 0
            total += num_blocks
        if len(batch.context_lens) > first:
            runs.append((first, len(batch.context_lens)))
        return runs

    def _decode_group(self, batch: AttnBatch, first: int, last: int, window: int | None) -> DecodeGroup:
        tokens = slice(batch.query_starts[first], batch.query_starts[last])
        contexts = batch.context_lens[first:last]
        table = batch.block_table[first:last]
        if window is None:
            lengths = contexts
            num_blocks = -(-max(lengths) // self._block_size)
            ids = table[:, :num_blocks]
        else:
            starts = [self._first_block(context, 1, window) for context in contexts]
            lengths = [context - start * self._block_size for context, start in zip(contexts, starts, strict=True)]
            num_blocks = -(-max(lengths) // self._block_size)
            shifted = torch.tensor(starts, device=table.device)[:, None] + self._counting(num_blocks)
            ids = table.gather(1, shifted.clamp_max_(table.shape[1] - 1))
        num_tokens = num_blocks * self._block_size
        mask = None
        if window is not None or min(lengths) < num_tokens:
            position = self._counting(num_tokens)
            if window is None:
                visible = position <= batch.positions[tokens, None, None, None]
            else:
                length = torch.tensor(lengths, device=table.device)[:, None, None, None]
                visible = (position < length) & (position >= length - window)
            mask = torch.where(visible, self._visible, self._hidden)
        return DecodeGroup(tokens, num_blocks, self._page_ids(ids), mask)

    def _prefill_row(self, batch: AttnBatch, row: int, window: int | None) -> PrefillRow:
        first, last = batch.query_starts[row], batch.query_starts[row + 1]
        context = batch.context_lens[row]
        start_block = self._first_block(context, last - first, window)
        end_block = -(-context // self._block_size)
        ids = batch.block_table[row : row + 1, start_block:end_block]
        start_position = start_block * self._block_size
        tiles: list[PrefillTile] = []
        if window is None and context == last - first:
            tiles.append(PrefillTile(slice(first, last), context, None))
        else:
            for tile in range(first, last, _QUERY_TILE):
                tokens = slice(tile, min(tile + _QUERY_TILE, last))
                num_visible = context - (last - tokens.stop) - start_position
                query = batch.positions[tokens, None] - start_position
                key = self._counting(num_visible)
                visible = key <= query
                if window is not None:
                    visible &= key > query - window
                tiles.append(PrefillTile(tokens, num_visible, torch.where(visible, self._visible, self._hidden)))
        return PrefillRow(end_block - start_block, self._page_ids(ids), tiles)

    def _first_block(self, context: int, num_queries: int, window: int | None) -> int:
        """The first block that any of a row's queries sees."""
        return 0 if window is None else max(0, context - num_queries - window + 1) // self._block_size

    def _page_ids(self, block_ids: torch.Tensor) -> torch.Tensor:
        """int64 [rows * 2 * kv_heads * blocks] from block ids [rows, blocks]."""
        return torch.add(self._head_pages, block_ids[:, None], alpha=self._pages_per_block).view(-1)

    def _counting(self, count: int) -> torch.Tensor:
        """0, 1, 2, ... as int64 [count]."""
        if len(self._numbers) < count:
            self._numbers = torch.arange(2 * count, device=self._numbers.device)
        return self._numbers[:count]
