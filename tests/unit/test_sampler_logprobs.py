"""Log probabilities of sampled and of the likeliest tokens, against sorting the whole row."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.sampler import FAULT, Sampler
from engine.execution.staging import SharedStaging


def sampler(vocab: int) -> Sampler:
    return Sampler(vocab, 4, 16, SharedStaging(torch.device("cpu")))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.sampled_from([-math.inf, -3.0, -0.5, -0.0, 0.0, 0.25, 2.0]), min_size=150, max_size=150).filter(
            lambda row: max(row) > -math.inf
        ),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_ranks_and_order_are_by_logit_and_then_by_lowest_id(rows: list[list[float]], data: st.DataObject) -> None:
    token_ids = [data.draw(st.integers(0, 149)) for _ in rows]
    num_top = [data.draw(st.sampled_from([0, 1, 5, 20])) for _ in rows]
    got = sampler(150).logprobs(torch.tensor(rows), torch.tensor(token_ids), num_top)

    assert got.token_ids == token_ids
    assert got.num_top == num_top
    at = 0
    for i, row in enumerate(rows):
        order = sorted(range(150), key=lambda j: (-row[j], j))
        scores = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1).tolist()
        assert got.ranks[i] == order.index(token_ids[i]) + 1
        assert got.logprobs[i] == pytest.approx(scores[token_ids[i]], abs=1e-5)
        assert got.top_token_ids[at : at + num_top[i]] == order[: num_top[i]]
        assert got.top_logprobs[at : at + num_top[i]] == pytest.approx(
            [scores[j] for j in order[: num_top[i]]], abs=1e-5
        )
        at += num_top[i]
    assert at == len(got.top_token_ids) == len(got.top_logprobs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_normalised_in_fp32(dtype: torch.dtype) -> None:
    logits = torch.randn(20, 70_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.arange(20) * 1000
    got = sampler(70_000).logprobs(logits, ids, [3] * 20)
    exact = torch.log_softmax(logits.double(), -1)
    assert got.logprobs == pytest.approx(exact.gather(1, ids[:, None]).squeeze(1).tolist(), abs=1e-4)
    for i, row in enumerate(logits.tolist()):
        best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:3]
        assert got.top_token_ids[3 * i : 3 * i + 3] == best


def test_more_alternatives_than_ids_gives_all_of_them() -> None:
    got = sampler(3).logprobs(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0]), [20])
    assert got.top_token_ids == [1, 2, 0]
    assert got.num_top == [3]


def test_a_fault_row_has_an_entry_and_disturbs_no_other() -> None:
    logits = torch.tensor([[math.nan, 0.0], [1.0, 0.0]])
    got = sampler(2).logprobs(logits, torch.tensor([FAULT, 0]), [1, 1])
    assert got.token_ids == [FAULT, 0]
    assert got.top_token_ids[1] == 0
    assert got.ranks[1] == 1


def test_no_rows_give_no_entries() -> None:
    assert len(sampler(3).logprobs(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), [])) == 0
