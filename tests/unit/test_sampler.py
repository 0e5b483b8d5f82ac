"""The sampler against exact probabilities and against slow, plain references, one row and one rule at a time."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.execution.counter_random import stream_key, uniform
from engine.execution.sampler import FAULT, Sampler
from engine.execution.staging import SharedStaging
from engine.sampling import SamplingParams

CPU = torch.device("cpu")
MAX_SEQS = 8
MAX_TOKENS = 64


def sampler(vocab: int) -> Sampler:
    return Sampler(vocab, MAX_SEQS, MAX_TOKENS, SharedStaging(CPU))


def table(history: Sequence[int] = (), slot: int = 0) -> torch.Tensor:
    """A token table that holds `history` in one slot, and ids that must not be read everywhere else."""
    tokens = torch.full((MAX_SEQS, MAX_TOKENS), 1, dtype=torch.int32)
    tokens[slot, : len(history)] = torch.tensor(history, dtype=torch.int32)
    return tokens


def sample_one(
    logits: list[float], params: SamplingParams, history: Sequence[int] = (), num_prompt_tokens: int = 0
) -> int:
    unit = sampler(len(logits))
    unit.add(3, params, num_prompt_tokens)
    row = torch.tensor([logits])
    position = torch.tensor([len(history)])
    return int(unit.sample(row, torch.tensor([3]), position, table(history, 3), [3])[0])


def draws(logits: torch.Tensor, params: SamplingParams, count: int) -> Counter[int]:
    """Tokens drawn for one slot at positions 0..count-1."""
    unit = sampler(len(logits))
    unit.add(0, params, 0)
    rows = logits.expand(count, -1)
    slots = [0] * count
    ids = unit.sample(rows, torch.tensor(slots), torch.arange(count), table(), slots)
    return Counter(ids.tolist())


def chi_square(observed: Counter[int], probabilities: Sequence[float]) -> tuple[float, int]:
    total = observed.total()
    cells = [(observed[i], p * total) for i, p in enumerate(probabilities) if p > 0]
    assert sum(seen for seen, _ in cells) == total, "a token without probability was drawn"
    return sum((seen - expected) ** 2 / expected for seen, expected in cells), len(cells) - 1


def assert_fits(observed: Counter[int], probabilities: Sequence[float]) -> None:
    """Chi-square at about one in 10**5 by Wilson and Hilferty's cube-root approximation."""
    statistic, freedom = chi_square(observed, probabilities)
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 4.27 * math.sqrt(spread)) ** 3


def support(probabilities: Sequence[float], params: SamplingParams) -> set[int]:
    """The tokens that min_p, then top_k, then top_p leave, by definition; equal probabilities stay together."""
    kept = {i: p for i, p in enumerate(probabilities) if p > 0 and p >= params.min_p * max(probabilities)}
    falling = sorted(kept.values(), reverse=True)
    if params.top_k:
        falling = falling[: params.top_k]
    mass, lowest = 0.0, falling[0]
    for p in falling:
        if params.top_p < 1 and mass >= params.top_p * sum(falling):
            break
        mass, lowest = mass + p, p
    return {i for i, p in kept.items() if p >= lowest}


LOGITS = torch.tensor([2.0, -1.0, 0.5, 1.5, -0.3, 0.0, 1.0, -2.0, 0.7, 0.2])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_draws_over_many_positions_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    expected = torch.softmax(LOGITS.double() / temperature, -1).tolist()
    assert_fits(draws(LOGITS, SamplingParams(temperature=temperature, seed=11), 40_000), expected)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=4, seed=5),
        SamplingParams(top_p=0.7, seed=5),
        SamplingParams(min_p=0.2, seed=5),
        SamplingParams(top_k=6, top_p=0.8, min_p=0.05, temperature=1.7, seed=5),
    ],
    ids=["top_k", "top_p", "min_p", "together"],
)
def test_draws_follow_the_renormalised_distribution_of_what_truncation_leaves(params: SamplingParams) -> None:
    full = torch.softmax(LOGITS.double() / params.temperature, -1).tolist()
    kept = support(full, params)
    mass = sum(full[i] for i in kept)
    assert 1 < len(kept) < len(full)
    assert_fits(draws(LOGITS, params, 40_000), [p / mass if i in kept else 0.0 for i, p in enumerate(full)])


def test_draws_over_a_vocabulary_of_many_chunks_follow_the_softmax() -> None:
    vocab = 1000
    logits = torch.sin(torch.arange(vocab) * 0.37) * 2
    assert_fits(draws(logits, SamplingParams(seed=3), 20_000), torch.softmax(logits.double(), -1).tolist())


def test_many_seeds_at_one_position_follow_the_softmax_too() -> None:
    observed: Counter[int] = Counter()
    unit = sampler(len(LOGITS))
    for seed in range(3000):
        unit.add(0, SamplingParams(seed=seed), 0)
        observed.update(unit.sample(LOGITS[None], torch.tensor([0]), torch.tensor([7]), table(), [0]).tolist())
    assert_fits(observed, torch.softmax(LOGITS.double(), -1).tolist())


def splitmix64_uniform(seed: int, position: int) -> float:
    """Arbitrary-precision reference of `counter_random`."""

    def finalise(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    key = finalise((seed + 0x9E3779B97F4A7C15) % 2**64)
    return (finalise((key + (position + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40))
def test_uniform_is_splitmix64_of_seed_and_position(seed: int, position: int) -> None:
    drawn = uniform(torch.tensor([stream_key(seed)]), torch.tensor([position])).item()
    assert drawn == splitmix64_uniform(seed, position)
    assert 0 <= drawn < 1


def test_splitmix64_gives_its_published_first_outputs_for_a_zero_seed() -> None:
    # 0xe220a8397b1dcdaf is the first output of the reference generator seeded with 0: our key of seed 0.
    assert stream_key(0) % 2**64 == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 1000])
def test_the_drawn_token_is_where_the_cumulated_probability_first_exceeds_the_uniform(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(200, vocab, generator=generator) * 3
    unit = sampler(vocab)
    unit.add(0, SamplingParams(seed=99), 0)
    slots = [0] * 200
    ids = unit.sample(logits, torch.tensor(slots), torch.arange(200), table(), slots).tolist()
    cumulated = torch.softmax(logits.double(), -1).cumsum(-1)
    for position, token_id in enumerate(ids):
        u = splitmix64_uniform(99, position)
        below = cumulated[position, token_id - 1].item() if token_id else 0.0
        # fp32 probabilities against fp64 ones: the edges may be off by their rounding, no more.
        assert below - 1e-5 <= u < cumulated[position, token_id].item() + 1e-5


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.sampled_from([-4.0, -2.0, -1.0, 0.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=150),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1.0, 0.97, 0.85, 0.5, 0.11, 0.001]),
    min_p=st.sampled_from([0.0, 0.013, 0.21, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_only_tokens_in_the_defined_support_are_drawn_and_rare_ones_are_reached(
    logits: list[float], top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    observed = draws(torch.tensor(logits), params, 64)
    probabilities = torch.softmax(torch.tensor(logits), -1).tolist()
    if top_k == 1:
        assert set(observed) == {logits.index(max(logits))}
    else:
        assert set(observed) <= support(probabilities, params)


def test_the_support_of_a_wide_nucleus_is_exact_beyond_the_first_guess() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1200, generator=generator) * 0.5
    params = SamplingParams(top_p=0.6, seed=1)
    kept = support(torch.softmax(logits.double(), -1).tolist(), params)
    assert 300 < len(kept) < 1000
    observed = draws(logits, params, 8000)
    assert set(observed) <= kept
    assert len(observed) > 0.98 * len(kept)


def test_top_k_keeps_exactly_k_tokens_of_distinct_logits_in_a_large_vocabulary() -> None:
    logits = torch.linspace(0, 1, 5000)[torch.randperm(5000, generator=torch.Generator().manual_seed(1))]
    observed = draws(logits, SamplingParams(top_k=20, seed=2), 4000)
    assert set(observed) == set(logits.topk(20).indices.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [3, 64, 200])
def test_greedy_takes_the_lowest_id_among_equal_logits(vocab: int, dtype: torch.dtype) -> None:
    logits = torch.zeros(4, vocab, dtype=dtype)
    logits[1, vocab - 1] = 1
    logits[2, [1, vocab - 1]] = 2
    logits[3, :2] = -1
    unit = sampler(vocab)
    unit.add(0, SamplingParams(temperature=0.0), 0)
    ids = unit.sample(logits, torch.zeros(4, dtype=torch.int64), torch.arange(4), table(), [0] * 4)
    assert ids.tolist() == [0, vocab - 1, 1, 2]


def test_top_k_of_one_and_a_vanishing_temperature_are_greedy() -> None:
    tied = [0.0, 5.0, 5.0, 1.0]
    for seed in range(20):
        assert sample_one(tied, SamplingParams(top_k=1, seed=seed)) == 1
        assert sample_one(tied, SamplingParams(temperature=1e-30, seed=seed)) == 1


MIXED = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.8, seed=1),
    SamplingParams(top_k=7, seed=2),
    SamplingParams(top_p=0.9, seed=3),
    SamplingParams(min_p=0.1, temperature=1.5, seed=4),
    SamplingParams(repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=-0.5, seed=5),
    SamplingParams(logit_bias=((3, 4.0),), bad_words=((9,), (4, 5)), temperature=0.0),
    SamplingParams(allowed_token_ids=(1, 2, 3, 70), min_tokens=30, stop_token_ids=(2,), top_p=0.5, seed=6),
]


@pytest.mark.parametrize("vocab", [100, 70_000])
def test_a_row_gets_the_same_token_alone_in_any_batch_and_in_any_slot(vocab: int) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(len(MIXED), vocab, generator=generator) * 2
    tokens = torch.randint(0, 100, (MAX_SEQS, MAX_TOKENS), generator=generator, dtype=torch.int32)
    positions = torch.randint(5, MAX_TOKENS, (len(MIXED),), generator=generator)
    together = sampler(vocab)
    for slot, params in enumerate(MIXED):
        together.add(slot, params, 3)
    order = [5, 0, 7, 2, 1, 6, 4, 3]
    index = torch.tensor(order)
    batch = together.sample(logits[index], index, positions[index], tokens[: len(MIXED)], order).tolist()
    for row, i in enumerate(order):
        alone = sampler(vocab)
        slot = (i + 3) % MAX_SEQS
        alone.add(slot, MIXED[i], 3)
        moved = torch.zeros_like(tokens)
        moved[slot] = tokens[i]
        got = alone.sample(logits[i : i + 1], torch.tensor([slot]), positions[i : i + 1], moved, [slot])
        assert got.tolist() == [batch[row]], MIXED[i]


def test_sampling_leaves_the_given_logits_as_they_are() -> None:
    logits = torch.randn(len(MIXED), 100)
    before = logits.clone()
    unit = sampler(100)
    for slot, params in enumerate(MIXED):
        unit.add(slot, params, 0)
    slots = list(range(len(MIXED)))
    unit.sample(logits, torch.tensor(slots), torch.full((len(slots),), 9), table(), slots)
    assert torch.equal(logits, before)


def test_a_reused_slot_keeps_nothing_of_the_sequence_before() -> None:
    logits = torch.randn(50, 100, generator=torch.Generator().manual_seed(8))
    tokens = table([5, 6, 7, 8, 9])
    slots = [0] * 50
    positions = torch.full((50,), 5)
    plain = SamplingParams(seed=21)
    fresh = sampler(100)
    fresh.add(0, plain, 2)
    expected = fresh.sample(logits, torch.tensor(slots), positions, tokens, slots)
    for old in MIXED:
        for released in (True, False):
            used = sampler(100)
            used.add(0, old, 1)
            if released:
                used.release(0)
            used.add(0, plain, 2)
            assert torch.equal(used.sample(logits, torch.tensor(slots), positions, tokens, slots), expected)


def test_an_empty_batch_gives_no_tokens() -> None:
    unit = sampler(10)
    empty = torch.empty(0, dtype=torch.int64)
    assert unit.sample(torch.empty(0, 10), empty, empty, table(), []).shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "all minus inf"])
def test_a_row_without_finite_logits_is_a_fault_and_its_neighbours_are_not(
    bad: float, constrained: bool, temperature: float
) -> None:
    logits = torch.zeros(3, 130)
    logits[:, 77] = 50.0
    if bad == -math.inf:
        logits[1] = bad
    else:
        logits[1, 100] = bad
    unit = sampler(130)
    unit.add(0, SamplingParams(temperature=temperature, top_p=0.9, logit_bias=((3, 1.0),) if constrained else ()), 0)
    ids = unit.sample(logits, torch.zeros(3, dtype=torch.int64), torch.arange(3), table(), [0, 0, 0])
    assert ids.tolist() == [77, FAULT, 77]


def test_minus_infinity_on_some_logits_only_excludes_those() -> None:
    logits = torch.full((100,), -math.inf)
    logits[[3, 99]] = 0.0
    assert set(draws(logits, SamplingParams(seed=1), 100)) == {3, 99}
