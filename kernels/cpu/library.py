"""The compiled kernels as Python calls them: plain C functions through ctypes, which lets the interpreter lock go.

Calls take addresses; who calls keeps the tensors alive and sees to shapes and strides. The threads are OpenMP's, which
torch's own operations use too, so the number that `torch.set_num_threads` sets holds for both.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the library: it shall find torch's OpenMP runtime, not bring a second one with threads of its own.
import torch  # noqa: F401

from kernels.cpu.build import BuildError, find_or_build

ISAS = ("amx", "avx512bf16", "avx512", "avx2")
"""Instruction sets, best first."""

BF16_ISAS = ("amx", "avx512bf16")
"""Those whose products are of bf16, of weights that are kept in 12 bits."""


class KernelsUnavailable(Exception):
    """There are no native kernels here; the message says why. Whoever has another way takes it."""


class _Ceilings(ctypes.Structure):
    _fields_ = [
        ("read_bytes_per_s", ctypes.c_double),
        ("copy_bytes_per_s", ctypes.c_double),
        ("fp32_flops_per_s", ctypes.c_double),
        ("bf16_flops_per_s", ctypes.c_double),
        ("int8_ops_per_s", ctypes.c_double),
    ]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine can do at best, on all of OpenMP's threads."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    """Bytes copied: half of those that move."""
    fp32_flops_per_s: float
    """Fused multiply-adds in registers."""
    bf16_flops_per_s: float
    """AMX tiles from the first cache, else dot products in registers; 0 where there are neither."""
    int8_ops_per_s: float


class CpuKernels:
    """The loaded library with one instruction set chosen."""

    def __init__(self, path: Path, isa: str) -> None:
        """Raises KernelsUnavailable where the CPU has none of `ISAS`; `isa` names the best to use, "" is any."""
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise KernelsUnavailable(f"cannot load {path}: {error}") from error
        choose, name = self._library["tiercel_choose"], self._library["tiercel_name"]
        choose.argtypes, choose.restype = [ctypes.c_char_p], ctypes.c_void_p
        name.argtypes, name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._table: int | None = choose(isa.encode())
        if self._table is None:
            raise KernelsUnavailable("this CPU has neither AVX2 with FMA nor AVX-512")
        self.isa: str = name(self._table).decode()

    def function(self, name: str, *argument_types: type[Any]) -> Callable[..., None]:
        """One of the library's functions that return nothing, for the instruction set."""
        function = self._library[name]
        function.argtypes, function.restype = [ctypes.c_void_p, *argument_types], None
        return functools.partial(function, self._table)

    def ceilings(self, num_bytes: int = 1 << 30) -> Ceilings:
        """Measure, within a second or two; `num_bytes` is the size of the memory that is streamed."""
        measured = _Ceilings()
        self.function("tiercel_measure_ceilings", ctypes.c_int64, ctypes.c_void_p)(num_bytes, ctypes.byref(measured))
        return Ceilings(*(getattr(measured, field[0]) for field in _Ceilings._fields_))


def load_kernels(isa: str = "") -> CpuKernels:
    """The kernels for this machine, compiled if need be. Raises KernelsUnavailable."""
    try:
        return CpuKernels(find_or_build(), isa)
    except BuildError as error:
        raise KernelsUnavailable(str(error)) from error
