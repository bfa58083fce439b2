"""Quotas over the shards of a pod: what the next parts are, and that parts in force are never more than is stated.

The rules alone, with shards that hear late, stand still, die and come back, in any order of a seed; with the machines
that write and follow, `test_pod_machine` and `test_rounds`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import FormatError
from mezzo_server.pod.parts import (
    NOTHING_DIVIDED,
    ROWS_MAX,
    Parts,
    Use,
    UsedRow,
    decode_parts,
    decode_use,
    encode_parts,
    encode_use,
    mark_of,
    part_of,
    rows_max,
)
from mezzo_server.pod.sharing import LEAST_SHARE, TOGETHER_MAX, Known, behind, next_parts, step, urgent, weigh
from mezzo_server.quota.part import NEWCOMER, NEWCOMER_POINTS, POINTS, SLACK_POINTS, Part

TENANT, OTHER = b"T" * 16, b"O" * 16
CAPACITY = 0
ROW = (TENANT, CAPACITY)


def shard(number: int) -> bytes:
    return bytes([number]) * 16


class Pod:
    """Settled parts of shards that have as many slots each, and what they say."""

    def __init__(self, count: int, weights: list[int] | None = None) -> None:
        self.members = [shard(number) for number in range(count)]
        self.weights = dict(zip(self.members, weights or [100] * count, strict=True))
        self.parts = NOTHING_DIVIDED
        self.uses: dict[bytes, Use] = {}
        self.settle()

    @property
    def known(self) -> Known:
        mark = b"" if self.parts is NOTHING_DIVIDED else mark_of(encode_parts(self.parts))
        return Known(self.members, self.weights, self.uses, mark)

    def say(self, number: int, used: float, wanted: float = 0.0, row: tuple[bytes, int] = ROW) -> None:
        told = UsedRow(*row, int(used * POINTS), int(max(used, wanted) * POINTS))
        before = self.uses.get(shard(number), Use())
        rows = [one for one in before.rows if (one.tenant, one.limit) != row]
        self.uses[shard(number)] = Use(before.mark, (*rows, told))

    def heard(self) -> None:
        """All enforce what is stored, and tell of all rows."""
        mark = self.known.mark
        for member in self.members:
            rows = {(row.tenant, row.limit): row for row in self.uses.get(member, Use()).rows}
            rows = {row: UsedRow(*row, 0, 0) for row in self.parts.rows} | rows
            self.uses[member] = Use(mark, tuple(rows.values()))

    def round(self) -> bool:
        """One more, which all hear of; False: there is none."""
        found = next_parts(self.parts, self.known)
        if found is None:
            return False
        self.parts = found
        self.heard()
        return True

    def settle(self) -> int:
        rounds = 0
        while self.round():
            rounds += 1
            assert rounds < 20, "it never settles"
        return rounds

    def shares(self, row: tuple[bytes, int] = ROW) -> list[float]:
        return [points / POINTS for points in self.parts.rows.get(row, self.parts.default)]


# -- what the parts are


def test_by_default_a_part_is_the_share_of_the_slots_and_a_sixteenth_more() -> None:
    assert Pod(4).shares() == pytest.approx([17 / 64] * 4)
    assert Pod(2, [300, 100]).shares() == pytest.approx([0.75 * 17 / 16, 0.25 * 17 / 16])
    assert Pod(1).shares() == [1.0], "a shard that is alone has the whole"
    assert not Pod(4).parts.rows


def test_who_owned_slots_and_is_asked_for_them_has_a_part_until_nobody_asks() -> None:
    pod = Pod(3)
    pod.weights[shard(2)] = 0
    assert urgent(pod.parts, pod.known)
    pod.settle()
    assert pod.shares() == pytest.approx([17 / 32, 17 / 32, 0])


def test_what_is_not_used_goes_to_where_more_is_wanted() -> None:
    pod = Pod(4)
    pod.say(0, 0.26, 0.40)
    for number in (1, 2, 3):
        pod.say(number, 0.05)
    assert not urgent(pod.parts, pod.known)
    pod.settle()
    shares = pod.shares()
    assert sum(shares) <= 1.0
    assert shares[0] >= 0.40
    assert all(share >= 0.05 for share in shares)
    assert Pod(4).shares() == [points / POINTS for points in pod.parts.default], "others keep their parts"


def test_where_all_want_more_each_has_its_share_by_weight() -> None:
    pod = Pod(4, [100, 100, 200, 400])
    for _ in range(12):
        for number in range(4):
            own = pod.shares()[number]
            pod.say(number, own, 1.5 * own)
        pod.settle()
    assert pod.shares() == pytest.approx([0.125, 0.125, 0.25, 0.5], rel=0.1)
    assert sum(pod.shares()) <= 1.0
    assert pod.settle() == 0, "and it stays"


def test_nobody_loses_what_he_uses_as_long_as_there_is_enough() -> None:
    pod = Pod(4)
    uses = [0.45, 0.2, 0.1, 0.05]
    for number, used in enumerate(uses):
        pod.say(number, used, used * 1.2)
    pod.settle()
    assert all(share >= used for share, used in zip(pod.shares(), uses, strict=True))


def test_a_shard_that_uses_nothing_keeps_a_little() -> None:
    pod = Pod(4)
    for number in range(3):
        pod.say(number, 0.3, 0.9)
    pod.say(3, 0.0)
    pod.settle()
    assert pod.shares()[3] >= 0.25 / LEAST_SHARE


def test_parts_stay_unless_it_is_worth_a_round() -> None:
    pod = Pod(4)
    for number in range(4):
        pod.say(number, 0.22)
    pod.settle()
    assert sum(pod.shares()) <= 1.0
    before = pod.parts
    pod.say(0, 0.23, 0.255)
    pod.say(1, 0.21)
    assert pod.settle() == 0
    assert pod.parts is before


def test_who_is_calm_again_has_his_parts_by_default() -> None:
    pod = Pod(4)
    pod.say(0, 0.26, 0.5)
    pod.settle()
    assert ROW in pod.parts.rows
    for number in range(4):
        pod.say(number, 0.02)
    pod.settle()
    assert not pod.parts.rows
    assert sum(pod.shares()) == pytest.approx(17 / 16)


def test_one_that_comes_back_is_weighed_as_if_it_used_its_share_until_it_says_what_it_does() -> None:
    """Else it would lose what it has on its devices."""
    pod = Pod(4)
    for number in range(4):
        pod.say(number, 0.25, 0.375)
    pod.settle()
    gone = pod.members.pop()
    del pod.uses[gone]
    pod.settle()
    pod.members.append(gone)
    pod.parts = next_parts(pod.parts, pod.known) or pod.parts
    assert not pod.parts.settled
    pod.say(3, 0.25, 0.375)
    pod.heard()
    pod.settle()
    assert pod.parts.settled
    assert pod.shares()[3] >= 0.24


def test_one_that_comes_new_and_empty_makes_nobody_lose_what_he_has() -> None:
    pod = Pod(1)
    pod.say(0, 0.95, 1.0)
    pod.settle()
    pod.members.append(shard(1))
    pod.weights[shard(1)] = 25
    seen = []
    for _ in range(6):
        pod.parts = next_parts(pod.parts, pod.known) or pod.parts
        seen.append((pod.parts.settled, pod.shares()[0]))
        pod.heard()
    assert all(part >= 0.95 for settled, part in seen if settled)
    assert seen[-1][0]
    assert seen[0][1] < 0.95, "until it has told that it is empty it might need its share"


def test_as_many_rows_as_fit_and_the_neediest_first() -> None:
    pod = Pod(2)
    pod.uses = {member: Use(pod.known.mark) for member in pod.members}
    rows = [(bytes([number // 256, number % 256]) * 8, 4) for number in range(ROWS_MAX + 50)]
    told = [UsedRow(*row, POINTS // 2, POINTS // 2 + 1000 * number) for number, row in enumerate(rows)]
    for member, own in zip(pod.members, (told[:700], told[700:]), strict=True):
        pod.uses[member] = Use(pod.known.mark, tuple(own))
    pod.settle()
    assert len(pod.parts.rows) == rows_max(2) == ROWS_MAX
    assert set(rows[100:]) <= set(pod.parts.rows)
    assert rows_max(4096) < 64


def test_there_are_no_parts_before_there_is_a_map() -> None:
    assert next_parts(NOTHING_DIVIDED, Known([shard(1)], {}, {}, b"")) is None


# -- how it is stored


def test_parts_come_back_as_they_were() -> None:
    pod = Pod(3)
    pod.say(0, 0.35, 0.5)
    pod.settle()
    data = encode_parts(pod.parts)
    assert decode_parts(data) == pod.parts
    part = part_of(data, shard(0))
    assert (part.points(TENANT, CAPACITY), part.points(OTHER, CAPACITY)) == (
        pod.parts.rows[ROW][0],
        pod.parts.default[0],
    )
    stranger = part_of(data, shard(9))
    assert (stranger.default, stranger.settled, stranger.mark) == (NEWCOMER_POINTS, False, part.mark)
    use = Use(part.mark, (UsedRow(TENANT, 4, 5, 6),))
    assert decode_use("key", encode_use(use)) == use


@given(data=st.binary(max_size=200), cut=st.integers(0, 200), flip=st.integers(0, 200))
def test_what_is_no_parts_is_refused(data: bytes, cut: int, flip: int) -> None:
    good = bytearray(encode_parts(Pod(3).parts))
    good[flip % len(good)] ^= 0x41
    for bad in (data, bytes(good[:cut]), bytes(good)):
        for read in (decode_parts, lambda data: part_of(data, shard(0)), lambda data: decode_use("k", data)):
            try:
                read(bad)
            except FormatError:
                pass


@given(st.lists(st.tuples(st.integers(0, POINTS), st.integers(1, 1000)), min_size=1, max_size=8))
def test_weighing_gives_all_that_there_is_and_nobody_what_another_needs(own: list[tuple[int, int]]) -> None:
    needs, weights = [need for need, _ in own], [weight for _, weight in own]
    given = weigh(needs, weights, POINTS)
    assert sum(given) <= POINTS
    if sum(needs) <= POINTS:
        assert all(got >= need for got, need in zip(given, needs, strict=True))
    else:
        assert sum(given) > POINTS - len(own)
        assert all(got <= need for got, need in zip(given, needs, strict=True))


@given(
    st.lists(st.integers(0, POINTS // 4), min_size=4, max_size=4),
    st.lists(st.integers(0, POINTS // 4), min_size=4, max_size=4),
)
def test_a_step_is_safe_whoever_has_heard_of_it(now: list[int], target: list[int]) -> None:
    rounds = 0
    while now != target:
        following = step(now, target)
        assert sum(map(max, now, following)) <= TOGETHER_MAX
        now, rounds = following, rounds + 1
        assert rounds <= 2, "less, then more"


# -- what is in force at any moment


class Actor:
    """A shard: what it enforces, and what it has stored of a tenant's."""

    def __init__(self, number: int) -> None:
        self.id = shard(number)
        self.part: Part = NEWCOMER
        self.registered = False
        self.serves = False
        self.stands = False
        self.stored = 0
        self.before = 0
        self.held = 0
        """what it may keep until all is settled"""
        self.appetite = 0.0

    @property
    def limit(self) -> int:
        return max(self.part.points(TENANT, CAPACITY), self.held)


class Schedule:
    """A pod of a seed: any order of what may happen, with shards that hear of parts when they like."""

    def __init__(self, seed: int, count: int = 5) -> None:
        self.random = random.Random(seed)
        self.shards = [Actor(number) for number in range(count)]
        self.data = b""
        self.parts = NOTHING_DIVIDED
        self.weights: dict[bytes, int] = {}
        self.uses: dict[bytes, Use] = {}
        self.late: set[bytes] = set()
        """registered since all was settled, and all had heard of it"""
        for one in self.shards[:3]:
            self.register(one)
        self.map_is_another()

    @property
    def known(self) -> Known:
        members = sorted(one.id for one in self.shards if one.registered)
        mark = mark_of(self.data) if self.data else b""
        return Known(members, self.weights, self.uses, mark)

    def register(self, one: Actor) -> None:
        one.registered, one.serves = True, False
        self.late.add(one.id)

    def map_is_another(self) -> None:
        self.weights = {
            one.id: self.random.choice([0, 50, 100, 400]) for one in self.shards if one.registered
        }

    def hear(self, one: Actor, *, says: bool = True) -> None:
        """It reads what is stored, acts by it, and says so."""
        if not one.registered or one.stands:
            return
        part = part_of(self.data, one.id) if self.data else NEWCOMER
        if part.mark != one.part.mark or not one.serves:
            one.held = 0 if part.settled else one.stored
            one.part, one.serves = part, True
        if not says:
            return
        row = UsedRow(TENANT, CAPACITY, one.stored, one.stored)
        if one.stored * 16 >= 15 * one.limit:
            row = UsedRow(TENANT, CAPACITY, one.stored, one.stored + one.stored // 2 + 1000)
        self.uses[one.id] = Use(part.mark, (row,))

    def plan(self) -> None:
        known = self.known
        if behind(self.parts, known):
            return
        found = next_parts(self.parts, known)
        if found is not None:
            self.parts, self.data = found, encode_parts(found)

    def work(self, one: Actor) -> None:
        """Puts, which push out what is too much; and trimming in the background, a piece at a time."""
        if not one.serves or one.stands:
            return
        want = int(one.appetite * POINTS * self.random.random() / 4)
        one.stored = max(min(one.stored + want, one.limit), one.stored - POINTS // 16)

    def turn(self) -> None:
        one = self.random.choice(self.shards)
        event = self.random.random()
        if event < 0.35:
            self.hear(one, says=event < 0.25)
        elif event < 0.6:
            self.plan()
        elif event < 0.85:
            self.work(one)
        elif event < 0.88:
            one.appetite = self.random.choice([0.0, 0.1, 1.0])
        elif event < 0.90:
            self.map_is_another()
        elif event < 0.93:
            one.stands = self.random.random() < 0.4
        elif event < 0.97 and one.registered:
            # Its lease ends: by then it serves nothing, however it hangs.
            one.registered = one.serves = False
            self.uses.pop(one.id, None)
        elif not one.registered:
            self.register(one)
        self.check()

    def check(self) -> None:
        known = self.known
        if self.parts.settled and not behind(self.parts, known):
            self.late = set(known.members) - set(self.parts.shards)
        serving = [one for one in self.shards if one.serves]
        late = len(self.late & {one.id for one in serving})
        together_max = POINTS + SLACK_POINTS + late * NEWCOMER_POINTS
        for limit in range(5):
            assert sum(one.part.points(TENANT, limit) for one in serving) <= together_max
        # What is stored follows, but for what was there before a part became less, and leaves by and by.
        for one in serving:
            assert one.stored <= max(one.before, one.limit)
            one.before = one.stored

    def settle(self) -> None:
        for one in self.shards:
            one.stands = False
            if not one.registered:
                self.register(one)
        self.weights = {one.id: 100 for one in self.shards}
        for turn in range(50):
            for one in self.shards:
                if turn > 40:
                    one.appetite = 0.0
                self.hear(one)
                self.work(one)
            self.plan()
            self.check()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_parts_in_force_are_never_more_than_a_quota_and_what_is_stated(seed: int) -> None:
    schedule = Schedule(seed)
    for _ in range(150):
        schedule.turn()
    schedule.settle()
    assert schedule.parts.settled
    stored = sum(one.stored for one in schedule.shards)
    assert stored <= POINTS + SLACK_POINTS
    assert sum(one.limit for one in schedule.shards) <= POINTS + SLACK_POINTS


def test_unlisted_parts_are_small() -> None:
    data = encode_parts(Parts(1, (shard(1),), (POINTS,), {}, True))
    assert part_of(data, shard(2)).default == NEWCOMER_POINTS
