"""The staging pool against a model, and its rules one by one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mezzo.errors import Busy, Gone, InternalError, InvalidArgument, TooLarge
from mezzo_server.memory import PAGE_BYTES, Memory, Span
from mezzo_server.staging import StagingPool, bytes_for_piece

PAGES = 13


class StagingMachine(RuleBasedStateMachine):
    """Pieces never overlap, requests are served in order, and all room comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = StagingPool(PAGES * PAGE_BYTES, waiting_max=6)
        self.taken: list[Span] = []
        self.asked: list[tuple[int, object]] = []  # number and request, waiting, in order
        self.count = 0

    def got(self, number: int, length: int, span: Span) -> None:
        assert span.length == length
        if self.asked and any(number == waiting for waiting, _ in self.asked):
            assert self.asked.pop(0)[0] == number, "served out of order"
        self.taken.append(span)

    @rule(length=st.integers(1, 8 * PAGE_BYTES))
    def take(self, length: int) -> None:
        span = self.pool.take(length)
        if span is None:
            return
        assert not self.asked, "a request was overtaken"
        assert span.length == length
        self.taken.append(span)

    @rule(length=st.integers(1, 8 * PAGE_BYTES))
    def request(self, length: int) -> None:
        number = self.count
        self.count += 1
        try:
            request = self.pool.request(length, lambda span: self.got(number, length, span))
        except Busy:
            assert self.pool.requests_waiting == 6
            return
        if request.waiting:
            self.asked.append((number, request))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        _, request = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        request.cancel()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        span = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.pool.give(span.part(0, data.draw(st.integers(0, span.length))))

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
        for _, request in self.asked:
            request.cancel()
        while self.taken:
            self.pool.give(self.taken.pop())
        assert self.pool.free_bytes == self.pool.total_bytes
        # All of it merged again: the longest piece there can be is to be had.
        self.pool.give(self.pool.take(self.pool.piece_bytes_max))
        self.pool.close()


TestStagingMachine = StagingMachine.TestCase
TestStagingMachine.settings = settings(max_examples=60, stateful_step_count=40)


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
    small = ask("c", 1)  # would fit, and must not overtake
    assert small.waiting
    assert pool.take(PAGE_BYTES) is None
    assert len(served) == 1
    pool.give(served[0][1])
    assert [name for name, _ in served] == ["a", "b", "c"]
    assert not small.waiting
    small.cancel()
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

A, B, C = b"a", b"b", b"c"


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


class OwnersMachine(RuleBasedStateMachine):
    """Whoever waits is served in the end, in the order of his requests; and all room comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = StagingPool(PAGES * PAGE_BYTES, waiting_max=20)
        self.taken: list[Span] = []
        self.order: dict[bytes | None, list[int]] = {A: [], B: [], None: []}
        self.served: dict[bytes | None, list[int]] = {A: [], B: [], None: []}
        self.requests: list[tuple[bytes | None, int, object]] = []
        self.count = 0

    @rule(pages=st.integers(1, 8), owner=st.sampled_from((A, B, None)), gives=st.booleans())
    def request(self, pages: int, owner: bytes | None, gives: bool) -> None:
        number = self.count
        self.count += 1

        def ready(span: Span) -> None:
            self.served[owner].append(number)
            if gives:
                self.pool.give(span)  # from within
            else:
                self.taken.append(span)

        try:
            self.pool.request(pages * PAGE_BYTES, ready, owner)
        except Busy:
            assert self.pool.requests_waiting == 20
            return
        self.order[owner].append(number)

    @precondition(lambda self: self.taken)
    @rule(which=st.integers(0, 100))
    def give(self, which: int) -> None:
        self.pool.give(self.taken.pop(which % len(self.taken)))

    @invariant()
    def in_order(self) -> None:
        for owner, served in self.served.items():
            assert served == self.order[owner][: len(served)]

    def teardown(self) -> None:
        while self.taken:
            self.pool.give(self.taken.pop())
        assert self.served == self.order, "somebody waits for ever"
        assert self.pool.free_bytes == self.pool.total_bytes
        assert self.pool.held_bytes(A) == self.pool.held_bytes(B) == 0
        self.pool.close()


TestOwners = OwnersMachine.TestCase
TestOwners.settings = settings(max_examples=60, stateful_step_count=40)
