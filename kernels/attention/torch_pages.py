"""How the torch backend writes to pages and gathers them: a cast for most types, the E4M3 codec for FP8."""

from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv
from kernels.kv_codec.torch_e4m3 import TorchE4m3

_CHUNK_ELEMENTS = 1 << 18
"""Converted at a time, so that the passes of a conversion find their data in cache."""


@dataclass(frozen=True, slots=True)
class WriteTargets:
    """Where a step's K and V go in layer 0; the other layers see the same ids in a shifted view."""

    pages: torch.Tensor
    """int64 [tokens, 2 * kv_heads]: the K heads' pages, then the V heads'."""
    tokens: torch.Tensor
    """int64 [tokens, 1]: within the page."""


class TorchPages:
    """The pages of one pool, read and written in `dtype`. Workspaces belong to it: one thread at a time."""

    def __init__(self, kv: PagedKv, dtype: torch.dtype) -> None:
        self._dtype, self._stored_dtype = dtype, kv.dtype
        self._kv_heads, self._block_size, self._head_dim = kv.kv_heads, kv.block_size, kv.head_dim
        self._pages_per_block = kv.num_layers * 2 * kv.kv_heads
        self._page_bytes, self._element_bytes = kv.data.shape[-1], kv.element_bytes
        self._records = kv.data.view(len(kv.data), -1).view(torch.int64)
        # Rows are copied as the widest integers that they consist of, whatever they hold.
        self._word = _widest_word(kv.head_dim * kv.dtype.itemsize, self._page_bytes)
        pages = kv.data.view(-1, self._page_bytes)
        rows = pages[:, : self._element_bytes].view(self._word).view(len(pages), kv.block_size, -1)
        per_layer = 2 * kv.kv_heads
        self._pages = [pages[layer * per_layer :] for layer in range(kv.num_layers)]
        self._rows = [rows[layer * per_layer :] for layer in range(kv.num_layers)]
        self._scales: list[torch.Tensor] = []
        self._scale_bytes = slice(0)
        if kv.scales_offset_bytes is not None:
            self._scale_bytes = slice(kv.scales_offset_bytes, kv.scales_offset_bytes + 2 * kv.block_size)
            self._scales = [pages[:, self._scale_bytes].view(torch.bfloat16) for pages in self._pages]
        self._codec = TorchE4m3(dtype, kv.data.device)
        self._is_plain = kv.dtype == dtype and self._page_bytes == self._element_bytes
        self._head_pages = torch.arange(per_layer, device=kv.data.device)
        self._chunk_pages = max(1, _CHUNK_ELEMENTS // (kv.block_size * kv.head_dim))
        self._gathered = torch.empty(0, dtype=dtype, device=kv.data.device)
        self._raw = torch.empty(0, self._page_bytes, dtype=torch.uint8, device=kv.data.device)

    def targets(self, write_slots: torch.Tensor) -> WriteTargets:
        """For int64 [tokens] of block_id * block_size + offset."""
        blocks = torch.div(write_slots, self._block_size, rounding_mode="trunc")
        pages = torch.add(self._head_pages, blocks[:, None], alpha=self._pages_per_block)
        return WriteTargets(pages, torch.sub(write_slots, blocks, alpha=self._block_size)[:, None])

    def clear(self, block_ids: torch.Tensor) -> None:
        """Zero whole records."""
        self._records.index_fill_(0, block_ids, 0)

    def write(self, layer: int, k: torch.Tensor, v: torch.Tensor, targets: WriteTargets) -> None:
        """Store k and v [tokens, kv_heads, head_dim]."""
        if self._scales:
            for part in self._token_chunks(len(k)):
                codes, scales = self._codec.encode(torch.cat((k[part], v[part]), dim=1))
                where = targets.pages[part], targets.tokens[part]
                self._rows[layer].index_put_(where, codes.view(self._word))
                self._scales[layer].index_put_(where, scales)
            return
        for heads, pages in zip((k, v), torch.split(targets.pages, self._kv_heads, dim=1), strict=True):
            words = heads.to(self._stored_dtype).view(self._word)
            self._rows[layer].index_put_((pages, targets.tokens), words)

    def gather(self, layer: int, page_ids: torch.Tensor) -> torch.Tensor:
        """[pages, block_size * head_dim] of layer 0's page ids, int64; valid until the next gather."""
        num_pages = page_ids.numel()
        size = num_pages * self._block_size * self._head_dim
        if self._gathered.numel() < size:
            self._gathered = self._gathered.new_empty(size)
        target = self._gathered[:size].view(num_pages, -1)
        if self._is_plain:
            torch.index_select(self._pages[layer], 0, page_ids, out=target.view(torch.uint8))
            return target
        for start in range(0, num_pages, self._chunk_pages):
            part = slice(start, start + self._chunk_pages)
            self._convert(layer, page_ids[part], target[part])
        return target

    def _token_chunks(self, num_tokens: int) -> list[slice]:
        count = max(1, _CHUNK_ELEMENTS // (2 * self._kv_heads * self._head_dim))
        return [slice(start, start + count) for start in range(0, num_tokens, count)]

    def _convert(self, layer: int, page_ids: torch.Tensor, target: torch.Tensor) -> None:
        num_pages = page_ids.numel()
        if len(self._raw) < num_pages:
            self._raw = self._raw.new_empty(num_pages, self._page_bytes)
        raw = self._raw[:num_pages]
        torch.index_select(self._pages[layer], 0, page_ids, out=raw)
        elements = raw[:, : self._element_bytes]
        if self._scales:
            shape = (num_pages, self._block_size, self._head_dim)
            self._codec.decode(elements.view(shape), raw[:, self._scale_bytes].view(torch.bfloat16), target.view(shape))
        else:
            target.copy_(elements.view(self._stored_dtype))


def _widest_word(row_bytes: int, page_bytes: int) -> torch.dtype:
    """The widest integer type that rows and the distances between pages are multiples of."""
    for word in (torch.int64, torch.int32, torch.int16):
        if row_bytes % word.itemsize == 0 and page_bytes % word.itemsize == 0:
            return word
    return torch.uint8
