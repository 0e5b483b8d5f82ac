"""Products of int8 weights with rows rounded to int8: the arithmetic of their definition, to the bit."""

import pytest
import torch

from kernels.cpu.decoder import CpuDecoder, DecoderShape, LayerWeights, LinearWeights
from kernels.cpu.library import ISAS, load_kernels
from kernels.cpu.packing import QUANTIZED_STEP, padded, quantize_weight

HERE = ISAS[ISAS.index(load_kernels().isa) :]
"""Instruction sets of this machine."""


def random_weight(outputs: int, inputs: int) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs)).bfloat16()


def unpacked(values: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
    """The padded weight [outputs, inputs] of a packed one."""
    panels = values.view(padded(outputs) // 32, padded(inputs, QUANTIZED_STEP) // 64, 2, 16, 16, 4)
    return panels.permute(0, 2, 4, 1, 3, 5).reshape(padded(outputs), -1)


@pytest.mark.parametrize(("outputs", "inputs"), [(32, 64), (70, 40), (331, 72), (5000, 130)])
def test_a_weight_is_its_values_times_its_outputs_scales(outputs: int, inputs: int) -> None:
    weight = random_weight(outputs, inputs)
    quantized = quantize_weight(weight)
    values = unpacked(quantized.values, outputs, inputs)
    error = (values[:outputs, :inputs] * quantized.scales[:outputs, None] - weight.float()).abs()
    assert (error <= 0.5001 * quantized.scales[:outputs, None]).all()
    assert values.abs().amax(dim=1)[:outputs].eq(127).all()
    assert values[outputs:].eq(0).all()
    assert values[:, inputs:].eq(0).all()
    assert torch.equal(quantized.sums, values.sum(dim=1, dtype=torch.int32))


def test_an_output_of_zeros_stays_one() -> None:
    weight = random_weight(40, 64)
    weight[7] = 0
    quantized = quantize_weight(weight)
    assert unpacked(quantized.values, 40, 64)[7].eq(0).all()
    assert quantized.scales.isfinite().all()


def vocabulary_only(isa: str, final_norm: torch.Tensor, lm_head: torch.Tensor) -> CpuDecoder:
    """A decoder of which only `logits` is asked; its one layer is there because there must be one."""
    hidden = len(final_norm)
    square = LinearWeights(random_weight(hidden, hidden))
    layer = LayerWeights(
        input_norm=final_norm,
        qkv=LinearWeights(random_weight(3 * hidden, hidden)),
        q_norm=None,
        k_norm=None,
        output=square,
        mlp_norm=final_norm,
        gate_up=LinearWeights(random_weight(2 * hidden, hidden)),
        down=square,
        window=None,
    )
    shape = DecoderShape(hidden, hidden // 8, hidden // 8, 8, hidden, len(lm_head), 1e-12)
    return CpuDecoder(load_kernels(isa), shape, [layer], final_norm, lm_head, lm_head, int8_weights=True)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("num_rows", [1, 3, 16, 17, 33, 300])
@pytest.mark.parametrize("hidden_size", [64, 72, 576])
def test_products_are_those_of_their_definition(isa: str, num_rows: int, hidden_size: int) -> None:
    lm_head = random_weight(331, hidden_size)
    # Rows of ones of either sign are normalised to themselves, so that the norm's weight decides what is multiplied.
    generator = torch.Generator().manual_seed(num_rows)
    signs = torch.randint(0, 2, (num_rows, hidden_size), generator=generator).float() * 2 - 1
    final_norm = torch.randn(hidden_size, generator=generator).bfloat16().float()
    rows = signs * final_norm
    quantized = quantize_weight(lm_head)
    limits = rows.abs().amax(dim=1, keepdim=True)
    # A division: torch takes `127 / limits` for a product with the reciprocal, which rounds twice.
    whole = (rows * torch.div(torch.tensor(127.0), limits)).round()
    weight = unpacked(quantized.values, 331, hidden_size)[:331, :hidden_size]
    sums = (whole.double() @ weight.double().T).float()
    want = sums * ((limits / 127) * quantized.scales[:331])
    got = vocabulary_only(isa, final_norm, lm_head).logits(signs)
    assert torch.equal(got, want)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_with_no_number_spoils_itself_alone(isa: str, value: float) -> None:
    decoder = vocabulary_only(isa, torch.ones(64), random_weight(64, 64))
    rows = torch.ones(3, 64)
    rows[1, 5] = value
    logits = decoder.logits(rows)
    assert logits[1].isnan().all()
    assert logits[[0, 2]].isfinite().all()


@pytest.mark.parametrize("isa", HERE)
def test_a_row_of_zeros_gives_zeros(isa: str) -> None:
    decoder = vocabulary_only(isa, torch.ones(64), random_weight(64, 64))
    assert decoder.logits(torch.zeros(2, 64)).eq(0).all()
