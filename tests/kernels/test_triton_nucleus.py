"""Nuclei settled by bisection are those that a sort finds, to the bit."""

import pytest
import torch

from engine.execution.truncation import thresholds
from kernels.triton.nucleus import settle_nucleus
from tests.kernels.triton_device import DEVICE


def distributions(vocab: int, seed: int) -> torch.Tensor:
    """Rows from nearly one token to nearly uniform, with ties and with zeros."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, vocab, generator=generator) * torch.tensor([20.0, 5.0, 2.0, 1.0, 0.1, 0.0])[:, None]
    rows = logits.softmax(dim=-1)
    rows[2] = (rows[2] * 2**12).round() / 2**12
    rows[3, ::3] = 0
    return rows


def settled(rows: torch.Tensor, top_p: torch.Tensor, top_k: list[int]) -> torch.Tensor:
    k = torch.tensor(top_k, device=DEVICE)
    return thresholds(rows.to(DEVICE), k, top_p.to(DEVICE), top_k, settle_nucleus).cpu()


@pytest.mark.parametrize("vocab", [300, 5000])
@pytest.mark.parametrize("top_p", [0.0, 1e-6, 0.5, 0.9, 0.999, 1 - 2**-24])
def test_bisection_finds_what_sorting_finds(vocab: int, top_p: float) -> None:
    rows = distributions(vocab, seed=vocab)
    p, k = torch.full((6,), top_p), [0] * 6
    assert torch.equal(settled(rows, p, k), thresholds(rows, torch.tensor(k), p, k))


def test_rows_with_top_k_beside_rows_without_are_left_alone() -> None:
    rows, k = distributions(2000, seed=3), [0, 7, 0, 300, 0, 1]
    p = torch.tensor([0.9, 0.5, 0.99, 1.0, 0.7, 0.3])
    assert torch.equal(settled(rows, p, k), thresholds(rows, torch.tensor(k), p, k))


def test_settled_rows_keep_what_was_found() -> None:
    rows = distributions(300, seed=1).to(DEVICE)
    found = torch.arange(6, dtype=torch.float32, device=DEVICE)
    is_settled = torch.tensor([True, False, True, True, False, True], device=DEVICE)
    settle_nucleus(rows, torch.full((6,), 2**59, device=DEVICE), is_settled, found)
    assert found[is_settled].tolist() == [0, 2, 3, 5]
    for row in (1, 4):
        kept = rows[row] >= found[row]
        assert rows[row][kept].sum() >= 0.499
        assert rows[row][rows[row] > found[row]].sum() < 0.5
