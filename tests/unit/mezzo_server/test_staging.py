"""The staging pool against a model, and its rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo.errors import Busy, Gone, InternalError, InvalidArgument, TooLarge
from mezzo_server.memory import PAGE_BYTES, Memory, Span
from mezzo_server.staging import StagingPool, StagingRequest, bytes_for_piece

PAGES = 13
WAIT_S = 4.0
A, B, C = b"a", b"b", b"c"
OWNERS = st.sampled_from((A, B, None))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class StagingMachine(RuleBasedStateMachine):
    """Pieces never overlap, who waits is served in his order or refused in time, and all room comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.pool = StagingPool(PAGES * PAGE_BYTES, waiting_max=20, wait_s=WAIT_S, now=self.clock)
        self.taken: list[Span] = []
        self.asked: dict[int, tuple[StagingRequest, float]] = {}
        """those that wait, and since when"""
        self.answered: set[int] = set()
        self.count = 0

    def answer(self, number: int) -> None:
        assert number not in self.answered, "answered twice"
        self.answered.add(number)
        self.asked.pop(number, None)

    @rule(length=st.integers(1, 8 * PAGE_BYTES), owner=OWNERS)
    def take(self, length: int, owner: bytes | None) -> None:
        span = self.pool.take(length, owner)
        if span is None:
            return
        alike = [one for one, _ in self.asked.values() if line_of(one) == line_of_length(length, owner)]
        assert not alike, "one of the same line was passed"
        assert span.length == length
        self.taken.append(span)

    @rule(length=st.integers(1, 8 * PAGE_BYTES), owner=OWNERS, gives=st.booleans())
    def request(self, length: int, owner: bytes | None, gives: bool) -> None:
        number = self.count
        self.count += 1

        def ready(span: Span) -> None:
            assert span.length == length
            line = line_of_length(length, owner)
            before = [n for n, (one, _) in self.asked.items() if n < number and line_of(one) == line]
            assert not before, "served out of order"
            self.answer(number)
            if gives:
                self.pool.give(span)  # from within
            else:
                self.taken.append(span)

        try:
            request = self.pool.request(length, ready, owner, lambda: self.refused(number))
        except Busy:
            assert self.pool.requests_waiting >= 6
            return
        if request.waiting:
            self.asked[number] = request, self.clock.now
        assert self.pool.requests_waiting <= 20

    def refused(self, number: int) -> None:
        assert self.clock.now > self.asked[number][1], "refused without having waited"
        self.answer(number)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.asked)))
        self.asked.pop(number)[0].cancel()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        span = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.pool.give(span.part(0, data.draw(st.integers(0, span.length))))

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def shorten(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.taken) - 1))
        span = self.taken[place]
        # What is served with the rest comes behind, so the place stays.
        length = data.draw(st.integers(1, span.length))
        self.taken[place] = span.part(0, length)
        short = self.pool.shorten(span, length)
        assert (short.offset, short.length) == (span.offset, length)

    @rule(seconds=st.sampled_from((0.02, 0.3, 1.1)))
    def time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.pool.tick()
        for _, since in self.asked.values():
            assert self.clock.now - since < WAIT_S

    @invariant()
    def pieces_are_apart(self) -> None:
        ends = 0
        for span in sorted(self.taken, key=lambda span: span.offset):
            assert span.offset % PAGE_BYTES == 0
            assert span.offset >= ends
            ends = span.offset + span.length
        assert ends <= self.pool.total_bytes

    @invariant()
    def room_adds_up(self) -> None:
        used = sum(-(-span.length // PAGE_BYTES) for span in self.taken)
        assert self.pool.free_bytes == (PAGES - used) * PAGE_BYTES
        assert self.pool.pieces_taken == len(self.taken)

    def teardown(self) -> None:
        while self.taken:
            self.pool.give(self.taken.pop())
        assert not self.asked, "somebody waits for ever"
        assert self.pool.free_bytes == self.pool.total_bytes
        assert self.pool.held_bytes(A) == self.pool.held_bytes(B) == 0
        self.pool.tick()
        assert self.pool.requests_waiting == 0
        # All of it merged again: the longest piece there can be is to be had.
        self.pool.give(self.pool.take(self.pool.piece_bytes_max))
        self.pool.close()


def line_of_length(length: int, owner: bytes | None) -> tuple[bytes | None, int]:
    return owner, (-(-length // PAGE_BYTES) - 1).bit_length()


def line_of(request: StagingRequest) -> tuple[bytes | None, int]:
    return line_of_length(request.length, request.owner)


TestStagingMachine = StagingMachine.TestCase
TestStagingMachine.settings = settings(max_examples=100, stateful_step_count=40)


@pytest.fixture
def pool():
    return StagingPool(8 * PAGE_BYTES)


def test_a_piece_occupies_whole_pages_and_no_more(pool):
    span = pool.take(5 * PAGE_BYTES - 1)
    assert span.length == 5 * PAGE_BYTES - 1
    assert pool.free_bytes == 3 * PAGE_BYTES
    assert pool.take(3 * PAGE_BYTES) is None or pool.free_bytes == 0


def test_power_of_two_pieces_fill_the_arena(pool):
    spans = [pool.take(2 * PAGE_BYTES) for _ in range(4)]
    assert pool.free_bytes == 0
    assert pool.take(1) is None
    for span in spans[::2] + spans[1::2]:
        pool.give(span)
    assert pool.take(8 * PAGE_BYTES) is not None


def test_giving_twice_raises(pool):
    span = pool.take(100)
    pool.give(span)
    with pytest.raises(InternalError, match="twice"):
        pool.give(span)
    assert pool.free_bytes == pool.total_bytes


def test_giving_what_is_not_a_piece_raises_and_changes_nothing(pool):
    span = pool.take(2 * PAGE_BYTES)
    other = Memory.anonymous(PAGE_BYTES)
    for wrong in (
        other.span(),
        span.part(PAGE_BYTES, PAGE_BYTES),
        Span(span.memory, span.offset, 3 * PAGE_BYTES),
    ):
        with pytest.raises(InternalError):
            pool.give(wrong)
    assert pool.free_bytes == 6 * PAGE_BYTES
    pool.give(span.part(0, 0))
    assert pool.free_bytes == pool.total_bytes


def test_what_can_never_fit_is_too_large(pool):
    for ask in (pool.take, lambda length: pool.request(length, lambda span: None)):
        with pytest.raises(TooLarge, match=str(8 * PAGE_BYTES)):
            ask(8 * PAGE_BYTES + 1)
        with pytest.raises(InvalidArgument):
            ask(0)
    odd = StagingPool(12 * PAGE_BYTES)
    assert odd.piece_bytes_max == 8 * PAGE_BYTES


def test_requests_are_served_at_once_or_in_order(pool):
    served: list[tuple[str, Span]] = []

    def ask(name: str, pages: int):
        return pool.request(pages * PAGE_BYTES, lambda span: served.append((name, span)))

    ask("a", 6)
    assert [name for name, _ in served] == ["a"]
    ask("b", 4)
    behind = ask("c", 3)  # of the same size of blocks: never served before it
    small = ask("d", 1)  # there is room for it
    assert behind.waiting
    assert not small.waiting
    assert pool.take(3 * PAGE_BYTES) is None
    assert [name for name, _ in served] == ["a", "d"]
    pool.give(served[0][1])
    assert [name for name, _ in served] == ["a", "d", "b"]
    pool.give(served[2][1])
    assert [name for name, _ in served] == ["a", "d", "b", "c"]
    behind.cancel()
    assert pool.pieces_taken == 2


def test_cancelled_requests_make_way(pool):
    served = []
    whole = pool.take(8 * PAGE_BYTES)
    first = pool.request(8 * PAGE_BYTES, served.append)
    second = pool.request(PAGE_BYTES, served.append)
    first.cancel()
    pool.give(whole)
    assert [span.length for span in served] == [PAGE_BYTES]
    assert not second.waiting
    assert pool.take(PAGE_BYTES) is not None


def test_waiting_requests_are_bounded():
    pool = StagingPool(PAGE_BYTES, waiting_max=2)
    pool.take(1)
    pool.request(1, lambda span: None)
    pool.request(1, lambda span: None)
    with pytest.raises(Busy):
        pool.request(1, lambda span: None)


def test_callbacks_may_give_and_ask_again(pool):
    served = []

    def again(span: Span) -> None:
        served.append(span)
        pool.give(span)
        if len(served) < 2000:
            pool.request(8 * PAGE_BYTES, again)

    held = pool.take(1)
    pool.request(8 * PAGE_BYTES, again)
    pool.give(held)  # no recursion, however long the chain
    assert len(served) == 2000
    assert pool.free_bytes == pool.total_bytes


def test_close(pool):
    span = pool.take(1)
    served = []
    waiting = pool.request(8 * PAGE_BYTES, served.append)
    with pytest.raises(InternalError, match="1 staging pieces"):
        pool.close()
    assert not waiting.waiting
    pool.give(span)
    pool.close()
    pool.close()
    assert served == []
    with pytest.raises(Gone):
        pool.take(1)


# -- owners


def pool_of(pages: int) -> StagingPool:
    return StagingPool(pages * PAGE_BYTES)


def hold(pool: StagingPool, owner: bytes, pages: int = 1) -> list[Span]:
    """Take until nothing more is given."""
    spans = []
    while (span := pool.take(pages * PAGE_BYTES, owner)) is not None:
        spans.append(span)
    return spans


def test_an_owner_alone_has_two_thirds_and_something_is_left_for_who_comes() -> None:
    pool = pool_of(90)
    first = hold(pool, A)
    assert len(first) == 60
    second = hold(pool, B)
    assert len(second) == 20
    assert hold(pool, C)
    for span in (*first, *second):
        pool.give(span)
    assert pool.held_bytes(A) == pool.held_bytes(B) == 0


def test_an_owner_that_has_had_his_part_holds_up_nobody() -> None:
    pool = pool_of(30)
    spans = hold(pool, A)
    mine: list[Span] = []
    waiting = [pool.request(PAGE_BYTES, mine.append, A) for _ in range(5)]
    assert all(request.waiting for request in waiting)
    others: list[Span] = []
    pool.request(PAGE_BYTES, others.append, B)
    pool.request(PAGE_BYTES, others.append)
    assert len(others) == 2
    assert pool.requests_waiting == 5
    for span in spans[:4]:
        pool.give(span)
    assert [request.waiting for request in waiting[:2]] == [False, False], "his own go on, in order"
    for span in spans[4:]:
        pool.give(span)
    assert len(mine) == 5
    assert pool.requests_waiting == 0


def test_a_piece_larger_than_his_part_is_given_to_who_holds_nothing() -> None:
    pool = StagingPool(32 * PAGE_BYTES)
    span = pool.take(32 * PAGE_BYTES, A)
    assert span is not None
    pool.give(span)


def test_held_back_requests_can_be_given_up() -> None:
    pool = pool_of(12)
    spans = hold(pool, A)
    came: list[Span] = []
    first, second = (pool.request(PAGE_BYTES, came.append, A) for _ in range(2))
    first.cancel()
    pool.give(spans.pop())
    pool.give(spans.pop())
    assert len(came) == 1
    assert not second.waiting
    last = pool.request(PAGE_BYTES, came.append, A)
    for span in spans:
        pool.give(span)
    while came:
        pool.give(came.pop())
    assert not last.waiting
    pool.close()


@pytest.mark.parametrize("length", [1, 4096, 4097, 3 << 20, (4 << 20) - 40, 4 << 20, (4 << 20) + 1])
def test_a_pool_for_pieces_of_a_length(length: int) -> None:
    total = bytes_for_piece(length)
    assert StagingPool(total).piece_bytes_max >= length
    if total > PAGE_BYTES:
        assert StagingPool(total - PAGE_BYTES).piece_bytes_max < length


# -- who does not fit


def timed_pool(pages: int) -> tuple[StagingPool, Clock]:
    clock = Clock()
    return StagingPool(pages * PAGE_BYTES, wait_s=WAIT_S, now=clock), clock


def tick(pool: StagingPool, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        pool.tick()


def test_one_that_does_not_fit_holds_up_nobody_and_is_refused_in_time() -> None:
    pool, clock = timed_pool(12)
    filler = pool.take(4 * PAGE_BYTES)
    slow = pool.take(PAGE_BYTES, A)
    assert filler is not None
    assert slow is not None
    assert slow.offset < 8 * PAGE_BYTES, "in the only block for the large one"
    pool.give(filler)
    refused: list[float] = []
    large = pool.request(8 * PAGE_BYTES, lambda span: None, B, lambda: refused.append(clock.now))
    began = clock.now
    for _ in range(300):
        clock.now += 0.02
        pool.tick()
        for owner in (A, B, C):
            came: list[Span] = []
            pool.request(PAGE_BYTES, came.append, owner)
            assert came, "it waits though there is room"
            pool.give(came[0])
    assert not large.waiting
    assert 0 < refused[0] - began <= WAIT_S
    assert pool.requests_refused == 1


def test_one_that_was_passed_for_long_is_given_room_that_the_others_leave() -> None:
    """Two small pieces are always there, and never the same: no luck would ever make room for the large one."""
    pool, clock = timed_pool(8)
    pieces = [pool.take(PAGE_BYTES, A), pool.take(PAGE_BYTES, A)]
    served: list[Span] = []
    pool.request(8 * PAGE_BYTES, served.append, B)
    passed = 0
    while not served:
        span = pool.take(PAGE_BYTES, A)
        if span is not None:
            passed += 1
            pieces.append(span)
        if pieces:
            pool.give(pieces.pop(0))
        tick(pool, clock, 0.1)
        assert passed < 30, "it is passed for ever"
    assert passed > 2
    assert clock.now < 1000 + WAIT_S


def test_a_slow_holder_is_waited_for_with_what_is_set_aside_only_for_a_while() -> None:
    """And the block that is set aside is the one of which the pieces change, where there are two."""
    pool, clock = timed_pool(16)
    slow = pool.take(PAGE_BYTES, C)
    filler = pool.take(7 * PAGE_BYTES, C)
    fast = pool.take(PAGE_BYTES, A)
    assert slow is not None
    assert filler is not None
    assert fast is not None
    assert fast.offset >= 8 * PAGE_BYTES
    pool.give(filler)
    served: list[Span] = []
    pool.request(8 * PAGE_BYTES, served.append, B)
    tick(pool, clock, 1.3)  # long enough
    other = pool.take(PAGE_BYTES, A)
    assert other is not None
    assert other.offset < 8 * PAGE_BYTES, "out of what is set aside"
    pool.give(fast)
    assert served


def test_who_was_favoured_in_vain_leaves_a_pause_to_the_others() -> None:
    pool, clock = timed_pool(8)
    slow = pool.take(PAGE_BYTES, C)
    refused: list[float] = []
    for owner in (A, B):
        pool.request(8 * PAGE_BYTES, lambda span: None, owner, lambda: refused.append(clock.now))
    stopped = 0
    for _ in range(80):
        tick(pool, clock, 0.1)
        span = pool.take(PAGE_BYTES)
        if span is None:
            stopped += 1
        else:
            pool.give(span)
    assert len(refused) == 2
    assert 0 < stopped <= 11  # a quarter of the wait, once
    assert slow is not None


def test_a_long_piece_leaves_its_owner_room_besides() -> None:
    pool = pool_of(68)
    long = pool.take(64 * PAGE_BYTES, A)
    assert long is not None
    assert pool.take(64 * PAGE_BYTES, A) is None
    besides = hold(pool, A)
    assert 2 <= len(besides) < 4
    assert pool.held_bytes(A) == (64 + len(besides)) * PAGE_BYTES
    pool.give(long)
    assert pool.held_bytes(A) == len(besides) * PAGE_BYTES


def test_only_one_long_piece_is_counted_apart() -> None:
    pool = pool_of(100)
    assert pool.take(30 * PAGE_BYTES, A) is not None
    assert pool.take(30 * PAGE_BYTES, A) is not None
    assert pool.take(30 * PAGE_BYTES, A) is None
    assert pool.take(30 * PAGE_BYTES, B) is not None


def test_the_share_holds_for_what_waited_too() -> None:
    pool = pool_of(30)
    whole = [pool.take(PAGE_BYTES) for _ in range(30)]
    served: list[Span] = []
    for _ in range(30):
        pool.request(PAGE_BYTES, served.append, A)
    for span in whole:
        pool.give(span)
    assert len(served) == 20
    assert pool.take(PAGE_BYTES, B) is not None


def test_one_owner_does_not_fill_the_line_of_all() -> None:
    pool = StagingPool(PAGE_BYTES, waiting_max=30)
    assert pool.take(1) is not None
    for _ in range(20):
        pool.request(1, lambda span: None, A)
    with pytest.raises(Busy, match="tenant"):
        pool.request(1, lambda span: None, A)
    assert pool.requests_waiting == 20
    pool.request(1, lambda span: None, B)


def test_what_is_refused_may_ask_again_and_what_is_served_or_cancelled_is_never_refused() -> None:
    pool, clock = timed_pool(1)
    held = pool.take(1)
    assert held is not None
    said: list[str] = []

    def again() -> None:
        said.append("refused")
        pool.request(1, lambda span: said.append("served"), A)

    pool.request(1, lambda span: None, A, again)
    pool.request(1, lambda span: None, B, lambda: said.append("never")).cancel()
    tick(pool, clock, WAIT_S)
    assert said == ["refused"]
    pool.give(held)
    assert said == ["refused", "served"]
    tick(pool, clock, WAIT_S * 2)
    assert said == ["refused", "served"]
    assert pool.requests_refused == 1


def test_what_a_piece_is_shortened_by_is_to_be_had_again() -> None:
    pool = pool_of(64)
    span = pool.take(64 * PAGE_BYTES, A)
    assert span is not None
    served: list[Span] = []
    pool.request(32 * PAGE_BYTES, served.append, B)
    short = pool.shorten(span, 32 * PAGE_BYTES - 1)
    assert served
    assert pool.held_bytes(A) == pool.held_bytes(B) == 32 * PAGE_BYTES
    for wrong in (span, short.part(PAGE_BYTES, 2 * PAGE_BYTES), short.part(0, PAGE_BYTES)):
        with pytest.raises(InternalError):
            pool.shorten(wrong, PAGE_BYTES)
    pool.give(short)
    pool.give(served[0])
    assert pool.free_bytes == pool.total_bytes


def test_what_was_set_aside_goes_to_whom_it_was_set_aside_for() -> None:
    """Not to those that wait for little, of whom there are always some."""
    pool, clock = timed_pool(8)
    held: list[Span] = []
    served: list[Span] = []
    for owner in (None, A, B):
        for _ in range(12):
            pool.request(PAGE_BYTES, held.append, owner)
    pool.request(8 * PAGE_BYTES, served.append, C)
    for turn in range(1000):
        if served:
            break
        pool.give(held.pop(0))
        pool.request(PAGE_BYTES, held.append, (None, A, B)[turn % 3])
        if turn % 2:
            tick(pool, clock, 0.1)
    assert served
    assert pool.requests_refused == 0
