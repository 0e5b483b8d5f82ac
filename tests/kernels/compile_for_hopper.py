"""Compiles the kernels of attention for compute capability 9.0, without a device; run by test_triton_compiles.py.

Prints a JSON line for each time that a kernel is compiled: name, bytes of shared memory, of stack (spilled registers)
per thread, and how many of some instructions it has. Nothing runs: launches are stopped after the compiler.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.triton import decode_attention as decoding
from kernels.triton import prefill_attention as chunks
from kernels.triton import read_kv as reading
from kernels.triton.move_blocks import gather_blocks, scatter_blocks
from kernels.triton.pages import PageGeometry
from kernels.triton.write_kv import write_kv
from kvstore.layout import BlockLayout

_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


class NoDevice:
    """What the compiler asks of a driver."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def _report(name: str, kernel: Any) -> None:
    ptx = kernel.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [_TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {
        "name": name,
        "shared_bytes": kernel.metadata.shared,
        "stack_bytes": max(int(size) for size in re.findall(r"STACK:(\d+)", usage)),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "mma": len(re.findall(r"mma\.sync", ptx)),
        "loads": len(re.findall(r"ld\.global", ptx)),
        "wide_loads": len(re.findall(r"ld\.global[.\w:]*\.v4\.b32", ptx)),
        "stores": len(re.findall(r"st\.global", ptx)),
        "wide_stores": len(re.findall(r"st\.global[.\w:]*\.v4\.b32", ptx)),
        "wide_copies": len(re.findall(r"cp\.async\.cg", ptx)),
        "e4m3_conversions": len(re.findall(r"cvt\.[^;]*e4m3", ptx)),
    }
    print(json.dumps(found), flush=True)


def report_what_is_launched() -> None:
    """From here on a launch compiles its kernel, reports it and does nothing else."""
    driver.set_active(NoDevice())
    run = JITFunction.run
    known: dict[Any, int] = {}

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        # Several compilations may come to the same code; each takes its time.
        compilations = self.device_caches[0][0]
        if len(compilations) > known.get(self.fn, 0):
            known[self.fn] = len(compilations)
            _report(self.fn.__name__, kernel)
        return kernel

    JITFunction.run = compiled


def main() -> None:
    report_what_is_launched()
    modules: list[Any] = [decoding, chunks, reading]
    for module in modules:
        module.has_native_e4m3 = lambda _device: True
    for dtype, kv_dtype, head_dim, window in (
        (torch.bfloat16, torch.float8_e4m3fn, 128, None),
        (torch.bfloat16, torch.bfloat16, 128, 4096),
        (torch.float32, torch.float32, 128, None),
    ):
        layout = BlockLayout(3, 8, head_dim, 16, kv_dtype)
        pool = layout.allocate(4, torch.device("cpu"))
        pages = PageGeometry.of(layout.pages(pool))
        q = torch.empty(4, 32, head_dim, dtype=dtype)
        out = torch.empty_like(q)
        # A step's numbers are slices, which begin anywhere.
        for first in (0, 1):
            rows, slots = (
                torch.zeros(5, dtype=torch.int32)[first:],
                torch.zeros(5, dtype=torch.int64)[first : first + 4],
            )
            table, tiles = torch.zeros(5, 16 + first, dtype=torch.int32)[first:], torch.zeros(13, dtype=torch.int32)
            spans = tiles[first : first + 12].view(3, 4)
            write_kv(pages, 1 + first, q[:, :8], q[:, 8:16], slots)
            for longest in (200, 4096 + 256 * first):
                decoding.decode_attention(pages, 1 + first, q, out, rows, rows, rows, table, longest, window)
            chunks.prefill_attention(pages, 1 + first, q, out, spans, table, window)
            reading.read_kv(pages, 1 + first, spans, table, torch.empty(2, 96, 8, head_dim, dtype=dtype))
            gather_blocks(pool, rows[:1], pool)
            scatter_blocks(pool, rows[:1], pool)


if __name__ == "__main__":
    main()
