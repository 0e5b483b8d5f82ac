"""The kernels of layers and of sampling through Triton's own compiler for Hopper, which needs no device."""

from typing import Any

import pytest

from tests.kernels.hopper_kernels import compiled_kernels


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled_kernels("compile_layers_for_hopper", tmp_path_factory.mktemp("triton"))


def test_every_kernel_compiles_and_spills_nothing(kernels: list[dict[str, Any]]) -> None:
    names = {kernel["name"] for kernel in kernels}
    assert names == {"_rms_norm", "_add_rms_norm", "_rotate_heads", "_silu_mul", "_settle"}
    assert not [kernel["name"] for kernel in kernels if kernel["stack_bytes"]]


def test_layers_load_and_store_16_bytes_at_once(kernels: list[dict[str, Any]]) -> None:
    layers = [kernel for kernel in kernels if kernel["name"] != "_settle"]
    assert len(layers) == 15
    for kernel in layers:
        assert kernel["wide_loads"] == kernel["loads"] > 0, kernel
        assert kernel["wide_stores"] == kernel["stores"] > 0, kernel
