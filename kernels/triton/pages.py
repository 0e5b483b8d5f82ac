"""A pool's pages as kernels see them: two typed base pointers and the distances between things, in elements."""

from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv

_NATIVE_E4M3_SINCE = (8, 9)
"""Compute capability of the first devices that convert E4M3 by an instruction."""


@dataclass(frozen=True, slots=True)
class PageGeometry:
    """Views of one pool; keeps it alive. Distances are compile-time constants of the kernels: a pool has but one set.

    Element `d` of token `t` of head `h`'s K in block `b` and layer `l` is at
    `b * BLOCK_STRIDE + l * LAYER_STRIDE + h * PAGE_STRIDE + t * head_dim + d` of `elements`, its scale at
    `b * BLOCK_SCALES + l * LAYER_SCALES + h * PAGE_SCALES + SCALES_OFFSET + t` of `scales`. V's are `KV_STRIDE` and
    `KV_SCALES` further. Products with `b` need 64 bits.
    """

    elements: torch.Tensor
    """uint8 (FP8 codes), bf16, fp16 or fp32, over all of the pool's bytes."""
    scales: torch.Tensor
    """bf16 over all of the pool's bytes; without FP8 the elements, never read."""
    kv_heads: int
    head_dim: int
    block_size: int
    constants: dict[str, int | float | bool]
    """The keyword arguments that every kernel over pages takes."""

    @classmethod
    def of(cls, kv: PagedKv) -> "PageGeometry":
        is_fp8 = kv.scales_offset_bytes is not None
        elements = kv.data if is_fp8 else kv.data.view(kv.dtype)
        scales = kv.data.view(torch.bfloat16) if is_fp8 else elements
        block_stride, layer_stride, kv_stride, page_stride, _ = elements.stride()
        block_scales, layer_scales, kv_scales, page_scales, _ = scales.stride()
        constants: dict[str, int | float | bool] = {
            "HEAD_DIM": kv.head_dim,
            "BLOCK_SIZE": kv.block_size,
            "BLOCK_STRIDE": block_stride,
            "LAYER_STRIDE": layer_stride,
            "KV_STRIDE": kv_stride,
            "PAGE_STRIDE": page_stride,
            "BLOCK_SCALES": block_scales,
            "LAYER_SCALES": layer_scales,
            "KV_SCALES": kv_scales,
            "PAGE_SCALES": page_scales,
            "SCALES_OFFSET": (kv.scales_offset_bytes or 0) // torch.bfloat16.itemsize,
            "IS_FP8": is_fp8,
        }
        return cls(elements, scales, kv.kv_heads, kv.head_dim, kv.block_size, constants)


def has_native_e4m3(device: torch.device) -> bool:
    """Whether the device converts E4M3 by an instruction of its own."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _NATIVE_E4M3_SINCE
