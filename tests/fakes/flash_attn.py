"""A fake of the functions of flash-attn that `kernels/attention/flash.py` calls: it insists on what the real ones say
of their arguments (flash-attn 2.8 and flash-attn-4 4.0) and computes the result in plain fp32 torch.
"""

import torch

from kernels.attention.flash import FlashLibrary

_PAGE_TOKENS = 256


class FakeFlashAttn:
    """Counts its calls by function."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.calls = {"varlen": 0, "varlen with pages": 0, "kvcache": 0}

    @property
    def library(self) -> FlashLibrary:
        if self.version == 4:
            return FlashLibrary(4, self._varlen_4, None)
        return FlashLibrary(2, self._varlen_2, self._with_kvcache)

    def _varlen_2(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        block_table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert all(isinstance(side, int) for side in window_size)
        self.calls["varlen" if block_table is None else "varlen with pages"] += 1
        return _varlen(
            q,
            k,
            v,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            softmax_scale,
            causal,
            window_size,
            block_table,
        )

    def _varlen_4(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int | None, int | None] = (None, None),
    ) -> tuple[torch.Tensor, None]:
        assert -1 not in window_size
        self.calls["varlen"] += 1
        sides = (-1 if window_size[0] is None else window_size[0], -1 if window_size[1] is None else window_size[1])
        out = _varlen(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, sides, None
        )
        return out, None

    def _with_kvcache(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        cache_seqlens: torch.Tensor,
        block_table: torch.Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        self.calls["kvcache"] += 1
        rows, queries, heads, head_dim = q.shape
        assert cache_seqlens.shape == (rows,)
        assert cache_seqlens.dtype == torch.int32
        starts = torch.arange(rows + 1) * queries
        lengths = cache_seqlens.tolist()
        out = torch.zeros_like(q)
        for row, keys in enumerate(_paged(k_cache, v_cache, block_table, lengths)):
            if lengths[row]:
                out[row] = _attend(q[row], *keys, softmax_scale, causal, window_size)
        assert starts[-1] == rows * queries
        assert heads % k_cache.shape[2] == 0
        assert head_dim == k_cache.shape[3]
        return out


def _varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
    block_table: torch.Tensor | None,
) -> torch.Tensor:
    for starts in (cu_seqlens_q, cu_seqlens_k):
        assert starts.dtype == torch.int32
        assert starts.is_contiguous()
        assert starts[0] == 0
    assert q.dtype == k.dtype == v.dtype
    assert q.dtype in (torch.bfloat16, torch.float16)
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert len(q) == cu_seqlens_q[-1]
    query_counts, key_counts = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert max_seqlen_q == max(query_counts)
    assert max_seqlen_k == max(key_counts)
    if block_table is None:
        assert k.dim() == v.dim() == 3
        assert len(k) == len(v) == cu_seqlens_k[-1]
        keys = list(zip(k.split(key_counts), v.split(key_counts), strict=True))
    else:
        keys = _paged(k, v, block_table, key_counts)
    rows = [
        _attend(queries, *row, softmax_scale, causal, window_size)
        for queries, row in zip(q.split(query_counts), keys, strict=True)
    ]
    return torch.cat(rows)


def _paged(
    k: torch.Tensor, v: torch.Tensor, block_table: torch.Tensor, lengths: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each row's K and V out of pages [blocks, page, kv_heads, head_dim]."""
    assert k.dim() == v.dim() == 4
    assert k.shape[1] % _PAGE_TOKENS == 0
    assert k.stride(-1) == v.stride(-1) == block_table.stride(-1) == 1
    assert block_table.dtype == torch.int32
    assert len(block_table) == len(lengths)
    rows = []
    for table, length in zip(block_table, lengths, strict=True):
        blocks = table[: -(-length // k.shape[1])].long()
        # Whole pages are multiplied before the mask hides what is past the end, as the real one may.
        assert k[blocks].isfinite().all()
        assert v[blocks].isfinite().all()
        rows.append((k[blocks].flatten(0, 1)[:length], v[blocks].flatten(0, 1)[:length]))
    return rows


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None,
    causal: bool,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """One row, the mask aligned to its bottom right corner: the last query sees the last key."""
    group = q.shape[1] // k.shape[1]
    keys, values = (heads.float().repeat_interleave(group, dim=1) for heads in (k, v))
    scale = q.shape[2] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * scale
    distance = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))
    left, right = window_size[0], 0 if causal else window_size[1]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        hidden |= distance > left
    if right >= 0:
        hidden |= distance < -right
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)
