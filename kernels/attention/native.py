"""Attention over paged blocks by the C++ kernels for x86 CPUs (`kernels/cpu/source/isa/attention.h`).

K and V are read where they lie, FP8 included, by online softmax over splits of 512 positions (FlashAttention-2,
arXiv:2307.08691; Flash-Decoding). The cuts depend on positions alone, so a query's result is the same, bit for bit,
whatever else is in the batch, however its prompt was cut into chunks and on any number of threads.

A bf16 model on a CPU with AMX multiplies in bf16: q, K and the weights of the softmax are rounded to it (relative error
2^-9 each), sums are fp32. All else is computed in fp32.
"""

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnBatch, AttnPlan
from kernels.cpu.library import CpuKernels

_ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float8_e4m3fn: 3}
"""`Element` in `paged_kv.h`."""

MAX_HEAD_DIM = 512


class _Pages(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("block_bytes", ctypes.c_int64),
        ("layer_bytes", ctypes.c_int64),
        ("page_bytes", ctypes.c_int64),
        ("scales_offset_bytes", ctypes.c_int64),
        ("block_size", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("element", ctypes.c_int32),
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("num_rows", ctypes.c_int64),
        ("query_starts", ctypes.c_void_p),
        ("context_lens", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("table_stride", ctypes.c_int64),
        ("write_slots", ctypes.c_void_p),
    ]


@dataclass(frozen=True, slots=True)
class NativePlan:
    batch: ctypes.c_void_p
    """The address of what the kernels read; the rest keeps it alive."""
    kept: tuple[object, ...]


def unsupported(kv: PagedKv) -> str | None:
    """Why the kernels cannot attend over these pages, or None."""
    if kv.data.device.type != "cpu":
        return f"the pages are on {kv.data.device}"
    return unsupported_head_dim(kv.head_dim)


def unsupported_head_dim(head_dim: int) -> str | None:
    """Why the kernels cannot attend with such heads, or None."""
    if head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"head_dim {head_dim} is not a multiple of 8 up to {MAX_HEAD_DIM}"
    return None


class NativeAttention:
    """Works on pages of any type and block size in the CPU's memory. One thread at a time."""

    def __init__(self, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, kernels: CpuKernels) -> None:
        """`windows` has an entry per layer, `dtype` is that of q. There must be no reason in `unsupported(kv)`."""
        assert len(windows) == kv.num_layers
        assert unsupported(kv) is None
        self.name = f"cpu-{kernels.isa}"
        self._kv = kv
        self._windows = [window or 0 for window in windows]
        self._element = _ELEMENTS[dtype]
        self._dtype = dtype
        self._is_exact = dtype != torch.bfloat16
        distinct = sorted(set(self._windows))
        self._distinct_windows = (ctypes.c_int64 * len(distinct))(*distinct)
        self._pages = _Pages(
            data=kv.data.data_ptr(),
            block_bytes=kv.data.stride(0),
            layer_bytes=kv.data.stride(1),
            page_bytes=kv.data.stride(3),
            scales_offset_bytes=kv.scales_offset_bytes or 0,
            block_size=kv.block_size,
            head_dim=kv.head_dim,
            kv_heads=kv.kv_heads,
            element=_ELEMENTS[kv.dtype],
        )
        self.pages = ctypes.c_void_p(ctypes.addressof(self._pages))
        """The address of what the kernels take for the pool."""
        pointer, whole, short = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        self._prepare = kernels.function(
            "tiercel_attention_prepare", pointer, pointer, whole, short, pointer, pointer, whole, pointer
        )
        self._layer = kernels.function("tiercel_attention_layer", *[pointer] * 3, whole, whole, short, *[pointer] * 5)
        self._write = kernels.function("tiercel_write_layer", pointer, pointer, whole, short, *[pointer] * 3)
        self._work = pointer()
        kernels.function("tiercel_attention_new", pointer)(ctypes.byref(self._work))
        if not self._work:
            raise MemoryError("there is no memory for the attention's work")
        weakref.finalize(self, kernels.function("tiercel_attention_free", pointer), self._work)
        self._prepared: tuple[NativePlan, int] | None = None
        self._strides = (ctypes.c_int64 * 8)()

    def plan(self, batch: AttnBatch) -> NativePlan:
        starts, contexts = np.array(batch.query_starts, dtype=np.int32), np.array(batch.context_lens, dtype=np.int32)
        table, slots = batch.block_table, batch.write_slots
        if table.stride(1) != 1:
            table = table.contiguous()
        slots = slots.contiguous()
        described = _Batch(
            num_rows=len(contexts),
            query_starts=starts.ctypes.data,
            context_lens=contexts.ctypes.data,
            block_table=table.data_ptr(),
            table_stride=table.stride(0),
            write_slots=slots.data_ptr(),
        )
        return NativePlan(ctypes.c_void_p(ctypes.addressof(described)), (described, starts, contexts, table, slots))

    def prepare(self, plan: NativePlan, num_heads: int) -> ctypes.c_void_p:
        """The kernels' work for this plan; valid until another plan is prepared."""
        if self._prepared is None or self._prepared[0] is not plan or self._prepared[1] != num_heads:
            self._prepared = None
            done = ctypes.c_int32()
            self._prepare(
                self._work,
                self.pages,
                num_heads,
                self._is_exact,
                plan.batch,
                self._distinct_windows,
                len(self._distinct_windows),
                ctypes.byref(done),
            )
            if not done.value:
                raise MemoryError("there is no memory for the attention's work")
            self._prepared = (plan, num_heads)
        return self._work

    def store(self, k: torch.Tensor, v: torch.Tensor, layer: int, plan: NativePlan) -> None:
        """What `run` begins with: write the new K and V, [tokens, kv_heads, head_dim], quantised if the pages are."""
        assert k.dtype == v.dtype == self._dtype
        k, v = (heads if heads.stride(2) == 1 else heads.contiguous() for heads in (k, v))
        strides = (ctypes.c_int64 * 4)(*k.stride()[:2], *v.stride()[:2])
        self._write(self.pages, plan.batch, layer, self._element, k.data_ptr(), v.data_ptr(), strides)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, NativePlan)
        assert q.dtype == k.dtype == v.dtype == self._dtype
        out = torch.empty(q.shape, dtype=q.dtype)
        q, k, v = (heads if heads.stride(2) == 1 else heads.contiguous() for heads in (q, k, v))
        self._strides[:] = [*q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2]]
        self._layer(
            self.prepare(plan, q.shape[1]),
            self.pages,
            plan.batch,
            layer,
            self._windows[layer],
            self._element,
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            out.data_ptr(),
            self._strides,
        )
        return out
