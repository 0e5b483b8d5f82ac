"""How much time movers may take while somebody computes."""

from kvstore.courtesy import ComputeGauge, Courtesy

MS = 1_000_000


class Times:
    """One clock for all, and the core's time of the one thread there is."""

    def __init__(self) -> None:
        self.now_ns = 10**9
        self.core_ns = 0
        self.gauge = ComputeGauge(lambda: self.now_ns)
        self.courtesy = Courtesy(self.gauge, 0.1, lambda: self.now_ns, lambda: self.core_ns)

    def move(self, core_ns: int, waited_ns: int = 0) -> None:
        with self.courtesy.charged():
            self.core_ns += core_ns
            self.now_ns += core_ns + waited_ns


def test_pieces_take_their_share_and_no_more() -> None:
    times = Times()
    begin_ns = times.now_ns
    with times.gauge:
        for _ in range(50):
            times.now_ns += times.courtesy.pause_ns()
            times.move(MS)
    assert times.now_ns - begin_ns == (50 + 49 * 9) * MS


def test_movers_that_share_a_budget_add_up() -> None:
    times = Times()
    with times.gauge:
        times.move(MS)
        times.move(MS)
        assert times.courtesy.pause_ns() == (9 + 9 - 1) * MS


def test_waiting_for_a_disk_costs_nothing() -> None:
    times = Times()
    with times.gauge:
        times.move(0, waited_ns=50 * MS)
        assert times.courtesy.pause_ns() == 0


def test_there_is_no_pause_while_nobody_computes_and_no_debt_afterwards() -> None:
    times = Times()
    times.move(100 * MS)
    assert times.courtesy.pause_ns() == 0
    with times.gauge:
        assert times.courtesy.pause_ns() == 0


def test_between_two_steps_somebody_computes_and_a_while_after_the_last_nobody_does() -> None:
    times = Times()
    with times.gauge:
        pass
    times.now_ns += MS
    times.move(MS)
    assert times.courtesy.pause_ns() > 0
    times.now_ns += 5 * MS
    assert times.courtesy.pause_ns() == 0
