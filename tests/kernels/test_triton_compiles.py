"""The kernels of attention through Triton's own compiler for Hopper, which needs no device."""

from typing import Any

import pytest

from tests.kernels.hopper_kernels import compiled_kernels

_KERNELS = ["_write_kv", "_decode", "_decode", "_merge", "_prefill", "_read_kv", "_move_records", "_move_records"]
"""Of a model: decode attention for short and for long contexts, records gathered and scattered."""

_SHARED_BYTES = 227 << 10
"""Of a multiprocessor, for one program (compute capability 9.0)."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled_kernels("compile_for_hopper", tmp_path_factory.mktemp("triton"))


def test_every_kernel_compiles_and_fits_a_multiprocessor(kernels: list[dict[str, Any]]) -> None:
    assert {kernel["name"] for kernel in kernels} == set(_KERNELS)
    assert max(kernel["shared_bytes"] for kernel in kernels) <= _SHARED_BYTES


def test_neither_layer_nor_lengths_nor_alignment_of_a_plan_compile_a_kernel_again(
    kernels: list[dict[str, Any]],
) -> None:
    assert [kernel["name"] for kernel in kernels] == 3 * _KERNELS


def test_16_bit_kernels_keep_what_they_compute_in_registers(kernels: list[dict[str, Any]]) -> None:
    spilled = [kernel["name"] for kernel in kernels[: 2 * len(_KERNELS)] if kernel["stack_bytes"]]
    assert not spilled


def test_products_run_on_tensor_cores_and_loads_are_16_bytes_wide(kernels: list[dict[str, Any]]) -> None:
    first = {kernel["name"]: kernel for kernel in reversed(kernels[: len(_KERNELS)])}
    # 16 rows are too few for the instructions of a whole warpgroup.
    assert first["_decode"]["mma"] > 0
    assert first["_prefill"]["wgmma"] > 0
    for name in ("_decode", "_prefill"):
        assert first[name]["wide_copies"] > 0
        assert first[name]["e4m3_conversions"] > 0
