"""The test that `bench.tenants` puts its times through."""

import random

import pytest

from bench.tenants import signed_rank_p


def test_equal_distributions_are_rejected_as_often_as_the_level_says() -> None:
    draw = random.Random(1)
    runs = [signed_rank_p([draw.gauss(0, 1) for _ in range(40)]) for _ in range(2000)]
    assert sum(p < 0.01 for p in runs) == pytest.approx(20, abs=14)
    assert sum(p < 0.5 for p in runs) == pytest.approx(1000, abs=100)


def test_a_shift_is_found() -> None:
    draw = random.Random(1)
    assert signed_rank_p([draw.gauss(1.0, 1) for _ in range(40)]) < 1e-4
    assert signed_rank_p([draw.gauss(-1.0, 1) for _ in range(40)]) < 1e-4


def test_known_values() -> None:
    """Ranks 1 to 8 of which only the first is negative: 35 of 36."""
    assert signed_rank_p([-1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(0.0173, abs=0.0005)
    assert signed_rank_p([0.0, 0.0]) == 1.0
