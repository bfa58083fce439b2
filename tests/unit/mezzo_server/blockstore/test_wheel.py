"""The timing wheel: nothing too early, nothing later than a tick, whatever jumps; work in portions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.wheel import LEVELS, SLOT_BITS, SPAN, TICK_MS, Wheel

DELAYS = st.one_of(
    st.integers(0, 3 * TICK_MS),
    st.integers(0, 200_000),
    st.integers(0, 4 << 20),
    st.integers(0, 3 * SPAN * TICK_MS),
    # around the borders of levels
    st.builds(
        lambda level, ticks, rest: max(0, ((1 << SLOT_BITS * level) + ticks) * TICK_MS + rest),
        st.integers(0, LEVELS),
        st.integers(-2, 2),
        st.integers(-1, 1),
    ),
)


class Placed:
    """A wheel, and what should be in it."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.wheel = Wheel(now_ms)
        self.due: dict[int, int] = {}
        self.gone: set[int] = set()
        self.came: dict[int, int] = {}
        self.looked = 0

    def add(self, delay_ms: int) -> int:
        place = len(self.due)
        self.due[place] = self.now_ms + delay_ms
        self.wheel.add(place, self.due[place])
        return place

    def due_of(self, place: int) -> int:
        self.looked += 1
        return 0 if place in self.gone else self.due[place]

    def turn(self, most: int = 1 << 30) -> None:
        while True:
            for place in self.wheel.due(self.now_ms, most, self.due_of):
                assert place not in self.came, "came up twice"
                assert self.due[place] <= self.now_ms, "too early"
                self.came[place] = self.now_ms
            if not self.wheel.working:
                return

    def check(self) -> None:
        """After a turn, all that is due by a tick has come up."""
        for place, due in self.due.items():
            if place not in self.gone and due + TICK_MS <= self.now_ms:
                assert place in self.came, f"{due} is over for long at {self.now_ms}"


@given(
    st.integers(1, 1 << 43),
    st.lists(st.tuples(st.lists(DELAYS, max_size=6), DELAYS, st.integers(0, 3)), max_size=12),
    st.integers(1, 5),
)
def test_everything_comes_up_once_and_in_time(
    start: int, steps: list[tuple[list[int], int, int]], most: int
) -> None:
    placed = Placed(start)
    for delays, passes, remove in steps:
        for delay in delays:
            placed.add(delay)
        waiting = [place for place in placed.due if place not in placed.came and place not in placed.gone]
        placed.gone.update(waiting[:remove])
        placed.now_ms += passes
        placed.turn(most)
        placed.check()
    placed.now_ms = max(placed.due.values(), default=start) + TICK_MS
    placed.turn()
    placed.check()
    assert placed.wheel.count == 0
    assert set(placed.came) | placed.gone == set(placed.due)


def test_work_comes_in_portions_and_each_place_is_moved_at_most_once_a_level() -> None:
    placed = Placed(1_000_000)
    for _ in range(3000):
        placed.add(50 * 3600 * 1000)
    while placed.now_ms < placed.due[0] + TICK_MS:
        placed.now_ms += 100 * TICK_MS
        before = placed.looked
        assert not placed.wheel.due(placed.now_ms, 0, placed.due_of)
        came = placed.wheel.due(placed.now_ms, 100, placed.due_of)
        placed.came.update(dict.fromkeys(came, placed.now_ms))
        assert placed.looked - before <= 100
        placed.turn(100)
    assert len(placed.came) == 3000
    assert placed.looked <= LEVELS * 3000


def test_what_was_recovered_is_put_in_where_it_belongs() -> None:
    placed = Placed(5_000)
    placed.due = {place: 5_000 + 1000 * place for place in range(100)}
    placed.wheel.add_all(range(100))
    assert placed.wheel.count == 100
    placed.turn(7)
    assert set(placed.came) == {0}
    placed.now_ms = 55_000 + TICK_MS
    placed.turn()
    assert set(placed.came) == set(range(51))


def test_a_place_costs_ten_bytes() -> None:
    wheel = Wheel(0)
    for place in range(100_000):
        wheel.add(place, 1000 * (place % 5000))
    size = sum(
        slot.itemsize * len(slot) + 64 for slots in wheel._levels for slot in slots if slot is not None
    )
    assert size <= 10 * 100_000


def test_what_is_gone_is_found_when_asked_for() -> None:
    placed = Placed(0)
    for _ in range(1000):
        placed.add(10**9)
    placed.gone.update(range(900))
    placed.wheel.renew()
    placed.turn(64)
    assert placed.wheel.count == 100
