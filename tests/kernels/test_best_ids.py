"""Greedy choices by the native kernel and by torch, against a plain reference, on every instruction set."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution import vocab_chunks
from kernels.cpu.best_ids import NativeBestIds
from kernels.cpu.library import ISAS, load_kernels

HERE = ISAS[ISAS.index(load_kernels().isa) :]
VOCABULARIES = (1, 15, 64, 100, 2048, 2049, 5000)
ODD = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 3.4e38, -3.4e38)


def plain(row: list[float]) -> int:
    """The definition."""
    best = max(row)
    return row.index(best) if math.isfinite(best) and not any(map(math.isnan, row)) else vocab_chunks.NO_ID


@pytest.mark.parametrize("isa", HERE)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_lowest_of_the_largest_is_chosen_and_nothing_where_that_is_not_finite(
    isa: str, data: st.DataObject
) -> None:
    best_ids = NativeBestIds(load_kernels(isa))
    vocab = data.draw(st.sampled_from(VOCABULARIES))
    num_rows, padding = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 33))
    seed = data.draw(st.integers(0, 1000))
    # Few different values, so that there are equals; what lies behind a row is larger than all.
    memory = torch.randint(-3, 4, (num_rows, vocab + padding), generator=torch.Generator().manual_seed(seed)).float()
    memory[:, vocab:] = 9.0
    for row in range(num_rows):
        odd = data.draw(st.dictionaries(st.integers(0, vocab - 1), st.sampled_from(ODD), max_size=4))
        for place, value in odd.items():
            memory[row, place] = value
    logits = memory[:, :vocab]

    expected = [plain(row) for row in logits.tolist()]

    assert best_ids(logits).tolist() == expected
    assert vocab_chunks.best_ids(logits).tolist() == expected


@pytest.mark.parametrize("odd", ODD)
def test_rows_of_one_value(odd: float) -> None:
    logits = torch.full((2, 3000), odd)

    expected = [plain(logits[0].tolist())] * 2

    assert NativeBestIds(load_kernels())(logits).tolist() == expected
    assert vocab_chunks.best_ids(logits).tolist() == expected
