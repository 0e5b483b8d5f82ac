"""Weights of bfloat16 in 12 bits are the same weights, to the bit, for whoever reads them."""

import pytest
import torch

from bench.products import product
from kernels.cpu.compact import CompactWeight, compact
from kernels.cpu.library import BF16_ISAS, ISAS, load_kernels
from kernels.cpu.packing import PANEL, pack_weight, padded

STEP = 1024


def normal(outputs: int, inputs: int) -> torch.Tensor:
    return 0.02 * torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))


def zeros(outputs: int, inputs: int) -> torch.Tensor:
    return torch.zeros(outputs, inputs)


def pruned(outputs: int, inputs: int) -> torch.Tensor:
    weight = normal(outputs, inputs)
    return weight * (weight.abs() > 0.015)


def with_rare_ones(outputs: int, inputs: int) -> torch.Tensor:
    """The first and the last of all, and neighbours."""
    weight = normal(outputs, inputs)
    places = weight.view(-1)
    places[0], places[-1], places[100], places[101] = 1e30, -1e-30, 2e30, -3e30
    return weight


def with_no_numbers(outputs: int, inputs: int) -> torch.Tensor:
    weight = normal(outputs, inputs)
    weight[0, 0], weight[-1, -1] = float("nan"), -float("inf")
    return weight


KINDS = {kind.__name__: kind for kind in (normal, zeros, pruned, with_rare_ones, with_no_numbers)}


def whole(coded: CompactWeight, panel_size: int) -> torch.Tensor:
    """The packed weight again, int16."""
    steps = coded.values.view(-1, STEP // 2 * 3)
    lower = steps[:, :STEP].reshape(-1, 32, 2).transpose(1, 2).reshape(-1).int()
    pairs = steps[:, STEP:].reshape(-1, 32, 2)
    codes = torch.stack((pairs[..., 1] & 15, pairs[..., 0] & 15, pairs[..., 1] >> 4, pairs[..., 0] >> 4), dim=1)
    bits = coded.upper_bytes[codes.reshape(-1).int()].int() << 8 | lower
    starts = coded.patch_starts.tolist()
    for panel in range(len(starts) - 1):
        patches = coded.patches[starts[panel] : starts[panel + 1]]
        bits[patches[:, 0] + panel * panel_size] = patches[:, 1]
    return bits.short()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (70, 40), (331, 576), (5000, 1000)])
def test_a_weight_is_made_whole_to_the_bit(kind: str, outputs: int, inputs: int) -> None:
    packed = pack_weight(KINDS[kind](outputs, inputs))
    panel_size = padded(inputs) * PANEL
    coded = compact(packed, panel_size)
    assert coded is not None
    assert torch.equal(whole(coded, panel_size), packed.view(torch.int16))
    assert coded.values.nbytes == packed.nbytes * 3 // 4


def test_a_weight_of_too_many_exponents_is_left_as_it_is() -> None:
    weight = normal(64, 256) * 2.0 ** torch.randint(-60, 60, (64, 256), generator=torch.Generator().manual_seed(1))
    assert compact(pack_weight(weight), 256 * PANEL) is None


CODED = [isa for isa in ISAS[ISAS.index(load_kernels().isa) :] if isa in BF16_ISAS]


@pytest.mark.skipif(not CODED, reason="only AMX and AVX-512 with BF16 multiply by weights in 12 bits")
@pytest.mark.parametrize("isa", CODED)
@pytest.mark.parametrize("kind", ["normal", "pruned", "with_rare_ones"])
@pytest.mark.parametrize(("outputs", "inputs"), [(32, 32), (96, 576), (331, 1000), (64, 3072)])
def test_products_are_those_of_whole_weights_to_the_bit(isa: str, kind: str, outputs: int, inputs: int) -> None:
    weight = KINDS[kind](outputs, inputs).bfloat16()
    # More panels, of any exponents, keep a weight from being coded.
    spread = 2.0 ** torch.randint(-60, 60, (padded(outputs), inputs), generator=torch.Generator().manual_seed(2))
    filled = torch.cat((weight, torch.zeros(padded(outputs) - outputs, inputs)))
    wide = torch.cat((filled, spread)).bfloat16()
    assert compact(pack_weight(wide), padded(inputs) * PANEL) is None
    coded, plain = (product(load_kernels(isa), each, int8=False) for each in (weight, wide))
    for num_rows in (1, 3, 8, 9, 16, 17, 32, 33, 64, 96, 97, 256, 300):
        rows = torch.randn(num_rows, inputs, generator=torch.Generator().manual_seed(num_rows))
        assert torch.equal(coded(rows), plain(rows)[:, :outputs]), num_rows
