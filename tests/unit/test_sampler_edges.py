"""Exact boundaries that random logits never meet: the draw at the edges of a token, the nucleus at its limit."""

import pytest
import torch

from engine.execution import vocab_chunks
from engine.execution.truncation import thresholds


def spread(weights: dict[int, float], vocab: int) -> torch.Tensor:
    row = torch.zeros(1, vocab)
    for token_id, weight in weights.items():
        row[0, token_id] = weight
    return row


@pytest.mark.parametrize(
    ("u", "expected"),
    [(0.0, 5), (0.25 - 2**-50, 5), (0.25, 130), (0.5 - 2**-50, 130), (0.5, 131), (0.75, 190), (1 - 2**-53, 190)],
)
def test_a_uniform_on_the_edge_between_two_tokens_takes_the_later_one(u: float, expected: int) -> None:
    row = spread({5: 0.25, 130: 0.25, 131: 0.25, 190: 0.25}, 200)
    assert vocab_chunks.draw(row, torch.tensor([u], dtype=torch.float64)).tolist() == [expected]


def test_weights_that_do_not_sum_to_one_are_drawn_in_proportion() -> None:
    uniforms = torch.tensor([0.0, 0.7499, 0.75, 0.9999], dtype=torch.float64)
    rows = spread({1: 0.375, 70: 0.125}, 100).repeat(4, 1)
    assert vocab_chunks.draw(rows, uniforms).tolist() == [1, 1, 70, 70]


def test_a_row_without_weight_gives_no_token() -> None:
    assert vocab_chunks.draw(torch.zeros(1, 100), torch.tensor([0.5], dtype=torch.float64)).tolist() == [-1]


@pytest.mark.parametrize(
    ("top_p", "top_k", "lowest"),
    [(0.5, 0, 0.5), (0.75, 0, 0.25), (0.7501, 0, 0.125), (0.625, 2, 0.5), (0.6875, 2, 0.25), (1.0, 2, 0.25)],
)
def test_a_nucleus_that_meets_its_limit_exactly_takes_no_further_token(top_p: float, top_k: int, lowest: float) -> None:
    row = spread({3: 0.25, 70: 0.5, 80: 0.125, 81: 0.125}, 100)
    assert thresholds(row, torch.tensor([top_k]), torch.tensor([top_p]), [top_k]).tolist() == [lowest]
