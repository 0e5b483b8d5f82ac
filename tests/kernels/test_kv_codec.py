"""The FP8 codec: the format from its definition, the fast path against the plain one, and what either promises."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.kv_codec.e4m3 import E4M3_MAX, MAX_SCALE, MIN_SCALE, decode, encode
from kernels.kv_codec.torch_e4m3 import TorchE4m3

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def e4m3_values() -> list[float]:
    """The 256 codes from the definition: sign, 4 bits of exponent with bias 7, 3 of mantissa, 0x7F and 0xFF NaN."""
    values = []
    for code in range(256):
        exponent, mantissa = code >> 3 & 15, code & 7
        magnitude = mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        values.append(float("nan") if code & 127 == 127 else magnitude if code < 128 else -magnitude)
    return values


def random_rows(
    num_rows: int, head_dim: int, seed: int, exponents: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """Rows of very different sizes, with a few elements that stand out, and some zeros."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, head_dim, generator=generator)
    rows *= torch.rand(rows.shape, generator=generator) ** 4
    rows *= 2.0 ** torch.randint(*exponents, (num_rows, 1), generator=generator)
    rows[torch.rand(rows.shape, generator=generator) < 0.05] = 0.0
    return rows.clamp(-65504, 65504).to(dtype)


rows_of_any_kind = st.builds(
    random_rows,
    num_rows=st.integers(1, 40),
    head_dim=st.sampled_from([2, 8, 64, 80, 128]),
    seed=st.integers(0, 10_000),
    exponents=st.sampled_from([(0, 1), (-14, 14), (-40, 16), (-120, -80)]),
    dtype=st.sampled_from(DTYPES),
)


def encode_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return TorchE4m3(rows.dtype, rows.device).encode(rows)


def decode_rows(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    TorchE4m3(out.dtype, out.device).decode(codes, scales, out)


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_reads_as_the_format_defines_it(dtype: torch.dtype) -> None:
    codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8)
    want = torch.tensor(e4m3_values())[codes.long()]
    one = torch.ones(len(codes), dtype=torch.bfloat16)
    out = torch.empty(len(codes), 1, dtype=dtype)
    decode_rows(codes[:, None], one, out)
    assert torch.equal(out[:, 0].float(), want)
    assert torch.equal(out[:, 0].signbit(), want.signbit())
    assert torch.equal(decode(codes[:, None].view(torch.float8_e4m3fn), one)[:, 0], want)


def test_encoding_takes_the_nearest_code_and_the_even_one_of_two() -> None:
    # 448 beside each number makes the scale exactly 1.
    grid = sorted({value for value in e4m3_values() if value == value})
    middles = [(a + b) / 2 for a, b in itertools.pairwise(grid)]
    numbers = torch.tensor(grid + middles + torch.linspace(-448, 448, 4001).tolist())
    rows = torch.stack((numbers, torch.full_like(numbers, 448.0)), dim=1)
    codes, scales = encode_rows(rows)
    assert torch.equal(scales, torch.ones_like(scales))
    values = torch.tensor(e4m3_values())
    distances = (values[None] - numbers[:, None]).abs().nan_to_num(nan=torch.inf)
    nearest = distances.amin(dim=1)
    chosen = codes[:, 0].view(torch.uint8).long()
    assert torch.equal(distances.gather(1, chosen[:, None])[:, 0], nearest)
    is_tie = (distances == nearest[:, None]).sum(dim=1) - (values[chosen] == 0).long() > 1
    assert int(is_tie.sum()) >= len(middles) - 2
    assert not (chosen[is_tie] % 2).any()


@settings(deadline=None)
@given(rows=rows_of_any_kind)
def test_the_fast_path_writes_and_reads_what_the_plain_one_does(rows: torch.Tensor) -> None:
    codes, scales = encode(rows)
    fast_codes, fast_scales = encode_rows(rows)
    assert same_bytes(codes, fast_codes)
    assert same_bytes(scales, fast_scales)
    for dtype in DTYPES:
        out = torch.empty(rows.shape, dtype=dtype)
        decode_rows(codes.view(torch.uint8), scales, out)
        want = decode(codes, scales)
        if dtype == torch.float16:
            # The scale itself is rounded where it is smaller than float16's normal numbers; larger than float16's
            # own, a row comes from another type of model.
            fits = rows.float().abs().amax(dim=1) <= 65504
            assert torch.allclose(out[fits].float(), want[fits], rtol=2**-10, atol=2.0**-22)
        else:
            assert torch.equal(out, want.to(dtype))


@settings(deadline=None)
@given(rows=rows_of_any_kind)
def test_the_error_is_bounded_by_half_a_step_and_the_truncated_scale(rows: torch.Tensor) -> None:
    codes, scales = encode(rows)
    back, rows = decode(codes, scales), rows.float()
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Half of 2^-3 relative, half of 2^-9 steps of the scale near zero, and what the largest loses to saturation.
    bound = rows.abs() * 2.0**-4 + scales.float()[:, None] * 2.0**-10 + 2.0**-149
    assert ((back - rows).abs() <= bound * (1 + 1e-6)).all()
    assert ((back.abs() <= largest) | (largest < E4M3_MAX * MIN_SCALE)).all()
    assert (back[rows == 0] == 0).all()
    assert (back.sign() * rows.sign() >= 0).all()


@settings(deadline=None)
@given(rows=rows_of_any_kind)
def test_what_was_decoded_encodes_to_the_same_bytes(rows: torch.Tensor) -> None:
    codes, scales = encode(rows)
    again_codes, again_scales = encode(decode(codes, scales))
    # Rows near the smallest scale may lose their last bits, once.
    normal = rows.float().abs().amax(dim=1) >= 2 * E4M3_MAX * MIN_SCALE
    assert same_bytes(codes[normal], again_codes[normal])
    assert same_bytes(scales[normal], again_scales[normal])
    assert torch.equal(decode(again_codes, again_scales), decode(codes, scales))


@settings(deadline=None)
@given(rows=rows_of_any_kind, data=st.data())
def test_a_row_is_encoded_alone(rows: torch.Tensor, data: st.DataObject) -> None:
    """Whatever else is in the step, however many rows there are: the same bytes."""
    codes, scales = encode_rows(rows)
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    shuffled_codes, shuffled_scales = encode_rows(rows[order])
    assert same_bytes(shuffled_codes, codes[order])
    assert same_bytes(shuffled_scales, scales[order])
    one_code, one_scale = encode_rows(rows[:1])
    assert same_bytes(one_code, codes[:1])
    assert same_bytes(one_scale, scales[:1])


def test_rows_of_zeros_and_cleared_records_read_as_zeros() -> None:
    rows = torch.tensor([[0.0, -0.0, 0.0, 0.0]])
    codes, scales = encode_rows(rows)
    assert scales.item() == MIN_SCALE
    assert codes.view(torch.uint8).tolist() == [[0, 0x80, 0, 0]]
    for cleared in (scales, torch.zeros_like(scales)):
        for dtype in DTYPES:
            out = torch.full((1, 4), 7.0, dtype=dtype)
            decode_rows(codes.view(torch.uint8), cleared, out)
            assert not out.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_stays_so_and_harms_no_other(dtype: torch.dtype, bad: float) -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    want = rows.clone()
    rows[1, 5] = bad
    codes, scales = encode_rows(rows)
    out = torch.empty_like(rows)
    decode_rows(codes.view(torch.uint8), scales, out)
    assert not out[1].isfinite().any()
    assert not decode(codes, scales)[1].isfinite().any()
    assert torch.allclose(out[[0, 2]].float(), want[[0, 2]].float(), rtol=0.07, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_magnitudes_are_kept_up_to_the_bound_and_refused_beyond_it(dtype: torch.dtype) -> None:
    largest = E4M3_MAX * MAX_SCALE
    rows = torch.tensor([[largest, 1.0], [2**17, 1.0]]).to(dtype)
    codes, scales = encode_rows(rows)
    out = torch.empty_like(rows)
    decode_rows(codes.view(torch.uint8), scales, out)
    assert abs(out[0, 0].item() / largest - 1) < 2**-7
    assert not out[1, 0].isfinite()
    assert not decode(codes, scales)[1].isfinite().any()


def test_the_largest_float16_does_not_become_infinite() -> None:
    rows = torch.full((1, 8), 65504.0, dtype=torch.float16)
    codes, scales = encode_rows(rows)
    out = torch.empty_like(rows)
    decode_rows(codes.view(torch.uint8), scales, out)
    assert out.isfinite().all()
    assert out.min().item() > 65504 * (1 - 2**-7)
