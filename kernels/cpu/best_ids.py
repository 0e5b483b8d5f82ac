"""Greedy choices by the C++ kernels: one pass over the logits, in place of a dozen operations that each start anew."""

import ctypes

import torch

from kernels.cpu.library import CpuKernels


class NativeBestIds:
    """The same as `engine.execution.vocab_chunks.best_ids`, for float32 logits in the CPU's memory."""

    def __init__(self, kernels: CpuKernels) -> None:
        pointer, whole = ctypes.c_void_p, ctypes.c_int64
        self._best_ids = kernels.function("tiercel_best_ids", pointer, whole, whole, whole, pointer)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: float32 [rows, vocab], whose rows may lie apart. int64 [rows]."""
        assert logits.dtype == torch.float32
        assert logits.device.type == "cpu"
        assert logits.stride(1) == 1
        num_rows, vocab_size = logits.shape
        ids = torch.empty(num_rows, dtype=torch.int64)
        self._best_ids(logits.data_ptr(), num_rows, logits.stride(0), vocab_size, ids.data_ptr())
        return ids
