"""The copy past the caches: the bytes arrive, and no others change."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu.library import ISAS, load_kernels

HERE = ISAS[ISAS.index(load_kernels().isa) :]


def copy_rows(isa: str, target: torch.Tensor, source: torch.Tensor, row_bytes: int, runs: torch.Tensor) -> None:
    """`runs` is `int64[number, 3]`: source, target, number of rows."""
    copy = load_kernels(isa).function(
        "tiercel_copy_rows", *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
    )
    copy(target.data_ptr(), source.data_ptr(), row_bytes, runs.data_ptr(), len(runs))


@pytest.mark.parametrize("isa", HERE)
@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 130), source_start=st.integers(0, 130), size=st.one_of(st.integers(0, 300), st.just(70_001))
)
def test_exactly_the_bytes_asked_for_are_copied(isa: str, start: int, source_start: int, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    source = torch.randint(0, 256, (size + 300,), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 256, (size + 300,), dtype=torch.uint8, generator=generator)
    want = target.clone()
    want[start : start + size] = source[source_start : source_start + size]
    copy_rows(isa, target[start:], source[source_start:], size, torch.tensor([[0, 0, 1]]))
    assert torch.equal(target, want)


@pytest.mark.parametrize("isa", HERE)
def test_each_run_of_rows_comes_to_its_place(isa: str) -> None:
    source = torch.randint(0, 256, (9, 12_352), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    target = torch.zeros_like(source)
    copy_rows(isa, target, source, 12_352, torch.tensor([[0, 5, 2], [7, 0, 1], [3, 2, 3]]))
    want = torch.zeros_like(source)
    want[5:7], want[0], want[2:5] = source[0:2], source[7], source[3:6]
    assert torch.equal(target, want)
