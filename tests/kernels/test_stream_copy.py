"""The copy past the caches: the bytes arrive, and no others change."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu.library import ISAS, load_kernels

HERE = ISAS[ISAS.index(load_kernels().isa) :]


@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 130), source_start=st.integers(0, 130), size=st.one_of(st.integers(0, 300), st.just(70_001))
)
def test_exactly_the_bytes_asked_for_are_copied(isa: str, start: int, source_start: int, size: int) -> None:
    copy = load_kernels(isa).function("tiercel_stream_copy", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    generator = torch.Generator().manual_seed(size)
    source = torch.randint(0, 256, (size + 300,), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 256, (size + 300,), dtype=torch.uint8, generator=generator)
    want = target.clone()
    want[start : start + size] = source[source_start : source_start + size]
    copy(target.data_ptr() + start, source.data_ptr() + source_start, size)
    assert torch.equal(target, want)
