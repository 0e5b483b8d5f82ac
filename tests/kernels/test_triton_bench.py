"""The benchmark of the attention kernels with tiny shapes: that it measures each, and what it says without a device."""

import pytest
import torch
from click.testing import CliRunner

from bench import gpu_attention
from bench.gpu_attention import Cases, Heads, main, measure_attention, table_of
from bench.gpu_ceilings import DeviceCeilings
from tests.kernels import triton_products  # noqa: F401
from tests.kernels.triton_device import DEVICE

TINY = Cases(
    heads=(Heads(2, 1, 16),),
    decode=((2, 40),),
    single=(20,),
    prefill=((0, 20),),
    moved_blocks=2,
    past_cache_bytes=1,
    rounds=1,
)
CEILINGS = DeviceCeilings(2e9, 4e12, 1e9, 1e9)


def test_each_kernel_is_measured_beside_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_attention, "least_seconds", lambda call, _device, _rounds: call() or 0.5)
    rows = measure_attention(DEVICE, TINY, CEILINGS)
    values = {row.name: row for row in rows}
    decode = values["decode attention 2/1x16 fp8 2 x 40"]
    # K and V of 80 tokens: 16 bytes and a scale of two each.
    assert decode.value == pytest.approx(80 * 2 * (16 + 2) / 0.5 / 1e9)
    assert (decode.unit, decode.ceiling) == ("GB/s", 2.0)
    assert decode.share == pytest.approx(decode.value / 2.0)
    assert values["attention of a single query 2/1x16 bf16 1 x 20"].value == pytest.approx(20 * 2 * 32 / 0.5 / 1e9)
    prefill = values["prefill attention 2/1x16 bf16 20 after 0, triton"]
    assert prefill.value == pytest.approx(4 * 2 * 16 * 210 / 0.5 / 1e12)
    assert (prefill.unit, prefill.ceiling) == ("TFLOP/s", 4.0)
    assert len([name for name in values if name.startswith(("gathering", "scattering"))]) == 2
    assert table_of(rows, "a device").row_count == len(rows)


def test_a_part_can_be_measured_alone() -> None:
    rows = measure_attention(DEVICE, TINY, CEILINGS, parts=("moves",))
    assert [row.name.split()[0] for row in rows] == ["gathering", "scattering"]
    assert all(row.value > 0 for row in rows)


def test_without_a_cuda_device_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 1
    assert "torch finds none here" in done.output
