"""What is moved, in which order, how fast, and what is not: in virtual time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.moving import (
    ABSENT_S,
    BACKOFF_S_MAX,
    BATCH_KEYS_MAX,
    BURST_S,
    FORGET_S,
    KEYS_PER_S,
    LATE_S,
    PULLS_MAX,
    PULLS_OF_SOURCE_MAX,
    SOURCES_MAX,
    Drop,
    Moves,
    Pull,
    Why,
)
from mezzo_server.pod.refusals import Refusals

A, B = Scope(b"a" * 16, b"n" * 16), Scope(b"b" * 16, b"n" * 16)
HERE, THERE = b"h" * 16, b"t" * 16


def moves(**more: int) -> Moves:
    return Moves(1000.0, lambda: 0.5, 0.0, **more)


def keys(count: int, name: str = "k") -> list[bytes]:
    return [b"%s-%d" % (name.encode(), number) for number in range(count)]


def end(known: Moves, pull: Pull, now: float, outcome: Drop | int = 10, *, failed: bool = False) -> bool:
    for wanted in pull.wanted:
        known.settled(wanted, outcome, now)
    return known.ended(pull, now, failed=failed)


def taken(pull: Pull | None) -> list[bytes]:
    return [] if pull is None else [wanted.key for wanted in pull.wanted]


def test_what_is_wanted_comes_in_batches_of_one_source_and_scope():
    known = moves()
    assert known.want(A, keys(BATCH_KEYS_MAX + 3), HERE, Why.READ, 0) == BATCH_KEYS_MAX + 3
    assert known.want(A, keys(2, "other"), THERE, Why.READ, 0) == 2
    first, second, third = (known.next(0) for _ in range(3))
    assert taken(first) == keys(BATCH_KEYS_MAX + 3)[:BATCH_KEYS_MAX]
    assert (taken(second), second.source) == (keys(2, "other"), THERE)
    assert taken(third) == keys(BATCH_KEYS_MAX + 3)[BATCH_KEYS_MAX:]
    assert known.next(0) is None
    assert known.wait_s(0) is None


def test_a_key_is_wanted_once():
    known = moves()
    assert known.want(A, [b"k", b"k"], HERE, Why.READ, 0) == 1
    pull = known.next(0)
    assert known.want(A, [b"k"], HERE, Why.COPY, 0) == 0
    assert known.want(B, [b"k"], HERE, Why.READ, 0) == 1
    end(known, pull, 1)
    assert known.want(A, [b"k"], HERE, Why.READ, 1) == 1


def test_tenants_take_turns():
    known = moves()
    known.want(A, keys(500), HERE, Why.READ, 0)
    known.want(B, keys(3), HERE, Why.READ, 0)
    first = known.next(0)
    assert (first.scope, known.next(0).scope) == (A, B)


def test_one_tenant_has_half_of_the_queue():
    known = moves(queue_keys_max=20)
    assert known.want(A, keys(30), HERE, Why.READ, 0) == 10
    assert known.want(B, keys(30), HERE, Why.READ, 0) == 10
    assert known.want(Scope(b"c" * 16, b"n" * 16), [b"k"], HERE, Why.READ, 0) == 0
    assert known.numbers()["pod_moves_dropped_full"] == 41


def test_pulls_are_bounded_in_all_and_of_one_source():
    known = moves()
    for number in range(10):
        known.want(Scope(b"%016d" % number, bytes(16)), [b"k"], HERE, Why.READ, 0)
    pulls = [known.next(0) for _ in range(PULLS_OF_SOURCE_MAX)]
    assert None not in pulls
    assert known.next(0) is None
    for number in range(10):
        known.want(Scope(b"%016d" % number, bytes(16)), [b"l"], b"%016d" % number, Why.READ, 0)
    assert sum(known.next(0) is not None for _ in range(20)) == PULLS_MAX - PULLS_OF_SOURCE_MAX
    end(known, pulls[0], 0)
    assert known.next(0) is not None


def test_what_waits_too_long_is_dropped():
    known = moves()
    known.want(A, keys(3), HERE, Why.READ, 0)
    assert known.next(LATE_S) is None
    assert known.numbers()["pod_moves_dropped_late"] == 3
    assert known.want(A, keys(3), HERE, Why.READ, LATE_S) == 3


def test_a_source_that_fails_is_left_alone_longer_each_time():
    known = moves()
    now, gaps = 0.0, []
    for number in range(12):
        known.want(A, [b"k"], HERE, Why.READ, now)
        while (pull := known.next(now)) is None:
            wait_s = known.wait_s(now)
            gaps.append(round(wait_s, 6))
            now += wait_s
            known.want(A, [b"k"], HERE, Why.READ, now)
        # The first time it is worth a word, and no more before it is well again.
        assert end(known, pull, now, Drop.FAILED, failed=True) is (number == 0)
    assert gaps == sorted(gaps)
    assert gaps[-1] <= BACKOFF_S_MAX
    # Others are not; and one that is well again is asked at once.
    known.want(B, [b"k"], THERE, Why.READ, now)
    assert known.next(now).source == THERE
    known.want(A, [b"k"], HERE, Why.READ, now + BACKOFF_S_MAX)
    end(known, known.next(now + BACKOFF_S_MAX), now + BACKOFF_S_MAX)
    known.want(A, [b"l"], HERE, Why.READ, now + BACKOFF_S_MAX)
    assert known.next(now + BACKOFF_S_MAX) is not None


def test_failures_of_many_sources_take_no_more_room():
    known = moves()
    for number in range(SOURCES_MAX + 10):
        known.want(A, [b"k"], b"%016d" % number, Why.READ, 0)
        end(known, known.next(0), 0, Drop.FAILED, failed=True)
    assert len(known._sources) == SOURCES_MAX


def test_what_is_absent_is_not_asked_for_again_for_a_while():
    known = moves()
    known.want(A, [b"k"], HERE, Why.READ, 0)
    end(known, known.next(0), 0, Drop.ABSENT)
    assert known.want(A, [b"k"], HERE, Why.READ, 1) == 0
    assert known.want(A, [b"k"], THERE, Why.READ, 1) == 1
    end(known, known.next(1), 1, Drop.ABSENT)
    assert known.want(A, [b"k"], HERE, Why.READ, ABSENT_S + 1) == 1


def test_a_delete_ends_what_is_wanted_or_under_way_and_lasts():
    known = moves()
    known.want(A, [b"queued", b"kept"], HERE, Why.READ, 0)
    known.want(B, [b"under way"], THERE, Why.READ, 0)
    known.forget(A, [b"queued"], 0)
    assert taken(known.next(0)) == [b"kept"]
    pull = known.next(0)
    [wanted] = pull.wanted
    assert known.objection(wanted, 0) is None
    known.forget(B, [b"under way"], 0)
    assert known.objection(wanted, 0) is Drop.DELETED
    end(known, pull, 0, Drop.DELETED)
    # Its name is free again long after; until then it is not wanted, for whatever reason.
    before = known.numbers()["pod_moves_dropped_deleted"]
    assert known.want(B, [b"under way"], THERE, Why.COPY, FORGET_S - 1) == 0
    assert known.numbers()["pod_moves_dropped_deleted"] == before + 1
    assert known.want(B, [b"under way"], THERE, Why.READ, FORGET_S) == 1
    assert known.want(A, [b"under way"], THERE, Why.READ, 0) == 1


def test_refusals_beyond_what_can_be_told_apart_are_of_everything_that_is_the_owners():
    refused = Refusals(10, 6)
    for number in range(3):
        refused.note("a", number, number)
    assert refused.refuses("a", 0, 2)
    assert not refused.refuses("a", 7, 2)
    refused.note("a", 3, 2)
    assert refused.refuses("a", 7, 11.9)
    assert refused.all_refused("a", 11.9)
    # Those before are over one by one, as they came.
    assert not refused.refuses("a", 7, 12)
    refused.note("a", 4, 12)
    assert len(refused) == 1
    assert refused.refuses("a", 4, 21)
    assert not refused._all_until
    # A key that is noted again lasts from then on.
    again = Refusals(10, 6)
    again.note("a", "k", 0)
    again.note("a", "k", 5)
    again.note("a", "other", 10)
    assert again.refuses("a", "k", 14.9)
    assert not again.refuses("a", "k", 15)


def test_who_notes_very_many_keys_has_his_own_refused_and_nobody_elses():
    refused = Refusals(10, 8)
    for number in range(100):
        refused.note("a", number, 0)
    refused.note("b", "k", 1)
    assert len(refused) == 5
    assert refused.refuses("a", "any", 9)
    assert refused.refuses("b", "k", 9)
    assert not refused.refuses("b", "any", 9)
    # Where several have taken all the room, what comes is refused as a whole, and not forgotten.
    for number in range(5):
        refused.note("c", number, 2)
    refused.note("d", "k", 3)
    assert len(refused) == 8
    assert refused.refuses("d", "k", 12.9)
    assert not refused.refuses("b", "any", 9)


def test_a_source_that_is_away_holds_up_no_other():
    known = moves()
    now = 0.0
    for number in range(200):
        known.want(A, keys(40, f"away-{number}"), HERE, Why.READ, now)
        known.want(A, keys(10, f"there-{number}"), THERE, Why.READ, now)
        while (pull := known.next(now)) is not None:
            away = pull.source == HERE
            end(known, pull, now, Drop.FAILED if away else 10, failed=away)
        now += 0.1
    assert known.numbers()["pod_moved_chunks_read"] == 2000


def test_one_tenants_deletes_stop_no_other():
    known = moves(forgotten_keys_max=8)
    known.forget(A, keys(100), 0)
    assert known.want(A, [b"other"], HERE, Why.READ, 1) == 0
    assert known.want(B, [b"other"], HERE, Why.READ, 1) == 1


def test_what_nobody_has_takes_a_bounded_part_of_the_loop():
    known = moves()
    now, asked = 0.0, 0
    for number in range(400):
        known.want(A, keys(BATCH_KEYS_MAX, f"absent-{number}"), HERE, Why.READ, now)
        while (pull := known.next(now)) is None:
            now += known.wait_s(now) + 1e-9
        asked += len(pull.wanted)
        end(known, pull, now, Drop.ABSENT)
        assert asked <= KEYS_PER_S * (now + BURST_S) + 1
    assert now > asked / KEYS_PER_S - BURST_S - 0.01


def test_what_is_cancelled_says_why():
    known = moves()
    known.want(A, [b"one"], HERE, Why.READ, 0)
    [one] = known.next(0).wanted
    known.want(B, [b"two"], HERE, Why.READ, 0)
    [two] = known.next(0).wanted
    known.cancel(Drop.ERASED, lambda wanted: wanted.scope == A)
    known.cancel(Drop.LOST, lambda wanted: wanted.scope == A)
    assert known.objection(one, 0) is Drop.ERASED
    assert known.objection(two, 0) is None


def test_bandwidth_is_what_was_said_over_any_stretch():
    known = moves()
    now = moved = 0.0
    for _ in range(200):
        now += known.take(100, now)
        moved += 100
        assert moved <= 1000 * now + 500 + 100
    known.take(5000, now)
    known.give_back(5000, now)
    assert known.take(100, now) <= 0.1
    # Who would wait for ever is told so, and takes nothing from others.
    known.take(30_000, now)
    assert known.take(1, now) is None
    waited = known.numbers()["pod_moves_wait_us"]
    assert known.take(1, now + 31) == 0
    assert known.numbers()["pod_moves_wait_us"] == waited


class Machine(RuleBasedStateMachine):
    """Whatever is asked for in whatever order: nothing is lost, counted twice, over its limit, or brought back."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = moves(queue_keys_max=16, forgotten_keys_max=8)
        self.now = 0.0
        self.pulls: list[Pull] = []
        self.deleted: dict[tuple[Scope, bytes], float] = {}

    scopes = st.sampled_from([A, B])
    some = st.lists(st.sampled_from(keys(12)), max_size=12)

    @rule(scope=scopes, some=some, source=st.sampled_from([HERE, THERE]), why=st.sampled_from(Why))
    def want(self, scope: Scope, some: list[bytes], source: bytes, why: Why) -> None:
        self.moves.want(scope, some, source, why, self.now)

    @rule()
    def begin(self) -> None:
        pull = self.moves.next(self.now)
        if pull is not None:
            for wanted in pull.wanted:
                assert self._may(wanted)
            self.pulls.append(pull)

    @rule(
        which=st.integers(0, 9), outcome=st.sampled_from([5, Drop.ABSENT, Drop.FAILED]), failed=st.booleans()
    )
    def end(self, which: int, outcome: Drop | int, failed: bool) -> None:
        if not self.pulls:
            return
        pull = self.pulls.pop(which % len(self.pulls))
        for wanted in pull.wanted:
            objection = self.moves.objection(wanted, self.now)
            if not self._may(wanted):
                assert objection is not None
            self.moves.settled(wanted, objection or outcome, self.now)
        self.moves.ended(pull, self.now, failed=failed)

    @rule(scope=scopes, some=some)
    def delete(self, scope: Scope, some: list[bytes]) -> None:
        self.moves.forget(scope, some, self.now)
        for key in some:
            self.deleted[scope, key] = self.now

    @rule(seconds=st.sampled_from([0.1, 5.0, 40.0, 200.0]))
    def time(self, seconds: float) -> None:
        self.now += seconds

    def _may(self, wanted) -> bool:
        at = self.deleted.get((wanted.scope, wanted.key))
        return at is None or self.now >= at + FORGET_S

    @invariant()
    def bounded(self) -> None:
        numbers = self.moves.numbers()
        assert 0 <= numbers["pod_moves_queued"] <= 16
        assert numbers["pod_moves_in_flight"] == sum(len(pull.wanted) for pull in self.pulls)
        assert len(self.pulls) <= PULLS_MAX
        assert numbers["pod_moves_forgotten"] <= 8


TestMoves = Machine.TestCase
TestMoves.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
