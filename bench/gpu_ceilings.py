"""What a device can do at most, measured: copying its memory, multiplying matrices, copying from and to the host."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_cuda: Any = torch.cuda  # its classes have no annotations


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the measurements; much smaller ones only show that they run."""

    copy_bytes: int = 4 << 30
    matrix: int = 8192
    host_bytes: int = 1 << 30
    rounds: int = 10


@dataclass(frozen=True, slots=True)
class DeviceCeilings:
    copy_bytes_per_s: float
    """Bytes read and bytes written, both counted, of a copy within the device's memory."""
    bf16_flops_per_s: float
    """Of a product of two square matrices of random numbers, sums in fp32."""
    to_device_bytes_per_s: float
    """Of one copy from page-locked memory."""
    to_host_bytes_per_s: float


def least_seconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The best of some calls, after two that do not count: other work only ever slows one down."""
    for _ in range(2):
        call()
    if device.type != "cuda":
        times: list[float] = []
        for _ in range(rounds):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return min(times)
    pairs = [(_cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize(device)
    return min(float(begin.elapsed_time(end)) for begin, end in pairs) / 1000


def measure_ceilings(device: torch.device, sizes: Sizes) -> DeviceCeilings:
    """Takes seconds, and `2 * copy_bytes` of the device's memory for that time."""
    copying = _copy_seconds(device, sizes)
    product = _product_seconds(device, sizes)
    host = torch.empty(sizes.host_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda").fill_(1)
    there = torch.empty(sizes.host_bytes, dtype=torch.uint8, device=device)
    down = least_seconds(lambda: there.copy_(host, non_blocking=True), device, sizes.rounds)
    up = least_seconds(lambda: host.copy_(there, non_blocking=True), device, sizes.rounds)
    return DeviceCeilings(
        copy_bytes_per_s=2 * sizes.copy_bytes / copying,
        bf16_flops_per_s=2 * sizes.matrix**3 / product,
        to_device_bytes_per_s=sizes.host_bytes / down,
        to_host_bytes_per_s=sizes.host_bytes / up,
    )


def _copy_seconds(device: torch.device, sizes: Sizes) -> float:
    source = torch.full((sizes.copy_bytes,), 3, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return least_seconds(lambda: target.copy_(source), device, sizes.rounds)


def _product_seconds(device: torch.device, sizes: Sizes) -> float:
    generator = torch.Generator(device).manual_seed(1)
    shape = sizes.matrix, sizes.matrix
    a, b = (torch.randn(shape, dtype=torch.bfloat16, device=device, generator=generator) for _ in range(2))
    out = torch.empty_like(a)
    return least_seconds(lambda: torch.mm(a, b, out=out), device, sizes.rounds)
