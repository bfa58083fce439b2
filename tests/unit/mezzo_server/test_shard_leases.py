from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mezzo.errors import Busy, OverQuota, TooLarge
from mezzo_server.blockstore.api import Scope
from mezzo_server.hot.slots import Slot
from mezzo_server.shard.leases import LeaseTable, Overdue

SCOPE = Scope(bytes(16), bytes(16))
OTHER = Scope(b"o" * 16, bytes(16))
TENANT_BYTES = 25
CHUNKS = 8
OWNERS = st.sampled_from([("x", SCOPE), ("y", SCOPE), ("z", OTHER)])
STRANGERS = st.one_of(st.none(), st.none(), OWNERS)


@dataclass(frozen=True)
class HotSlot:
    arena: int
    page: int
    length: int
    generation: int


class Store:
    """Chunks by key with their size, and how often each is pinned and held. Some are hot."""

    def __init__(self, sizes: dict[bytes, int], hot: Sequence[bytes] = ()) -> None:
        self.sizes = sizes
        self.slots = {key: HotSlot(1, page, sizes[key], 7 + page) for page, key in enumerate(hot)}
        self.pins: Counter[bytes] = Counter()
        self.holds: Counter[HotSlot] = Counter()

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        count = size = 0
        for key in keys:
            if key not in self.sizes:
                break
            count += 1
            size += self.sizes[key]
        return count, size

    def pin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        assert set(keys) <= set(self.sizes)
        self.pins.update(keys)

    def unpin_all(self, scope: Scope, keys: Sequence[bytes]) -> None:
        self.pins.subtract(keys)
        assert min(self.pins.values()) >= 0

    def hold_all(self, scope: Scope, keys: Sequence[bytes]) -> list[Slot | None]:
        slots = [self.slots.get(key) for key in keys]
        self.holds.update(slot for slot in slots if slot is not None)
        return slots  # type: ignore[return-value]

    def let_go_all(self, slots: Sequence[Slot]) -> None:
        self.holds.subtract(slots)  # type: ignore[arg-type]
        assert min(self.holds.values()) >= 0

    def held(self) -> dict[bytes, int]:
        return {key: self.holds[slot] for key, slot in self.slots.items() if self.holds[slot]}

    def pinned(self) -> dict[bytes, int]:
        return {key: count for key, count in self.pins.items() if count}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def table(store: Store, clock: Clock, bytes_max: int = 100, leases_max: int = 4) -> LeaseTable:
    return LeaseTable(
        store, bytes_max=bytes_max, leases_max=leases_max, chunks_max=100, lease_s_max=10.0, now=clock
    )


@pytest.fixture
def store() -> Store:
    return Store({b"a": 30, b"b": 30, b"c": 50})


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_present_prefix_is_leased(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    granted = leases.acquire("me", SCOPE, [b"a", b"b", b"x", b"c"], 5.0)
    assert (granted.prefix, granted.bytes, granted.lease_s) == (2, 60, 5.0)
    assert store.pinned() == {b"a": 1, b"b": 1}
    assert leases.release("me", granted.lease)
    assert not store.pinned()
    assert not leases.release("me", granted.lease)


def test_nothing_present_makes_no_lease(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    assert leases.acquire("me", SCOPE, [b"x", b"a"], 5.0).lease == 0
    assert len(leases) == 0


def test_only_the_owner_releases(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 5.0)
    assert not leases.release("you", granted.lease)
    assert store.pinned() == {b"a": 1}


def test_leases_end_in_time(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    first = leases.acquire("me", SCOPE, [b"a"], 1.0)
    assert leases.acquire("me", SCOPE, [b"b"], 99.0).lease_s == 10.0
    clock.now += 1.0
    assert not leases.release("me", first.lease)
    assert store.pinned() == {b"b": 1}
    clock.now += 9.0
    assert leases.expire() == 1
    assert leases.bytes_leased == 0


def test_bytes_are_capped(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    with pytest.raises(TooLarge, match="100"):
        leases.acquire("me", SCOPE, [b"a", b"b", b"c"], 1.0)
    leases.acquire("me", SCOPE, [b"a", b"b"], 1.0)
    with pytest.raises(Busy) as caught:
        leases.acquire("you", SCOPE, [b"c"], 1.0)
    assert 0 < caught.value.retry_after_s <= 1.0
    assert store.pinned() == {b"a": 1, b"b": 1}
    clock.now += 1.0
    assert leases.acquire("you", SCOPE, [b"c"], 1.0).lease


def test_leases_are_capped(store: Store, clock: Clock) -> None:
    leases = table(store, clock, bytes_max=10**6, leases_max=2)
    for _ in range(2):
        leases.acquire("me", SCOPE, [b"a"], 1.0)
    with pytest.raises(Busy, match="leases_max"):
        leases.acquire("me", SCOPE, [b"a"], 1.0)


def test_an_owner_that_goes_takes_his_leases(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    leases.acquire("me", SCOPE, [b"a"], 1.0)
    leases.acquire("you", SCOPE, [b"a"], 1.0)
    leases.end_owner("me")
    leases.end_owner("me")
    assert store.pinned() == {b"a": 1}


def longest_overdue(leases: LeaseTable) -> Overdue | None:
    return leases.longest_overdue


def crowded(leases: LeaseTable) -> bool:
    return leases.crowded


@pytest.fixture
def warm() -> Store:
    return Store({b"a": 30, b"b": 30, b"c": 50}, hot=[b"a", b"c"])


def test_in_place_holds_what_is_hot(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock)
    granted = leases.acquire("me", SCOPE, [b"a", b"b", b"x"], 5.0, in_place=True)
    assert [slot and slot.generation for slot in granted.slots] == [7, None]
    assert warm.held() == {b"a": 1}
    assert warm.pinned() == {b"a": 1, b"b": 1}
    assert leases.release("me", granted.lease)
    assert not warm.held()
    assert not warm.pinned()


def test_nothing_is_held_without_being_asked(warm: Store, clock: Clock) -> None:
    assert table(warm, clock).acquire("me", SCOPE, [b"a"], 5.0).slots == ()
    assert not warm.held()


def test_nothing_present_holds_nothing(warm: Store, clock: Clock) -> None:
    granted = table(warm, clock).acquire("me", SCOPE, [b"x"], 5.0, in_place=True)
    assert (granted.lease, tuple(granted.slots)) == (0, ())
    assert not warm.held()


def test_what_expired_in_place_is_overdue_until_it_is_released(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock)
    granted = leases.acquire("me", SCOPE, [b"a", b"b"], 1.0, in_place=True)
    plain = leases.acquire("me", SCOPE, [b"b"], 1.0, in_place=True)
    clock.now += 1.0
    assert leases.expire() == 2
    assert (len(leases), leases.overdue, leases.hot_bytes_overdue, leases.bytes_leased) == (0, 1, 30, 0)
    assert not warm.pinned()
    assert warm.held() == {b"a": 1}
    assert not leases.release("me", plain.lease)
    assert not leases.release("you", granted.lease)
    assert warm.held() == {b"a": 1}
    assert not leases.release("me", granted.lease)
    assert not warm.held()
    assert (leases.overdue, leases.hot_bytes_overdue, leases.longest_overdue) == (0, 0, None)


def test_a_release_that_comes_late_lets_go_at_once(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 1.0, in_place=True)
    clock.now += 1.0
    assert not leases.release("me", granted.lease)
    assert not warm.held()
    assert (len(leases), leases.overdue) == (0, 0)


def test_the_longest_overdue_goes_first(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock, bytes_max=1000)
    leases.acquire("late", SCOPE, [b"a"], 3.0, in_place=True)
    leases.acquire("early", SCOPE, [b"c"], 1.0, in_place=True)
    leases.acquire("late", SCOPE, [b"a"], 2.0, in_place=True)
    assert longest_overdue(leases) is None
    clock.now += 5.0
    leases.expire()
    for owner, chunk_bytes, since in (("early", 50, 101.0), ("late", 30, 102.0)):
        overdue = longest_overdue(leases)
        assert overdue is not None
        assert (overdue.owner, overdue.chunks, overdue.bytes, overdue.since) == (owner, 1, chunk_bytes, since)
        leases.end_owner(owner)
    assert longest_overdue(leases) is None
    assert not warm.held()
    assert leases.hot_bytes_overdue == 0


def test_overdue_leases_take_room_in_the_table(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock, leases_max=2)
    for _ in range(2):
        leases.acquire("me", SCOPE, [b"a"], 1.0, in_place=True)
    with pytest.raises(Busy, match="leases_max"):
        leases.acquire("you", SCOPE, [b"b"], 1.0)
    assert not crowded(leases)
    clock.now += 1.0
    with pytest.raises(Busy, match="leases_max"):
        leases.acquire("you", SCOPE, [b"b"], 1.0)
    assert crowded(leases)
    leases.end_owner("me")
    assert leases.acquire("you", SCOPE, [b"b"], 1.0).lease


def test_renew_lets_a_lease_last_longer(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 2.0)
    clock.now += 1.5
    assert leases.renew("me", granted.lease, 2.0) == 2.0
    clock.now += 1.0
    assert leases.expire() == 0
    assert store.pinned() == {b"a": 1}
    clock.now += 1.0
    assert leases.expire() == 1
    assert not store.pinned()


def test_renew_never_goes_beyond_the_longest_lease_nor_shortens(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 8.0)
    assert leases.renew("me", granted.lease, 1.0) == 8.0
    assert leases.renew("me", granted.lease, 1e9) == 10.0


def test_only_the_owner_renews_and_only_what_is_held(store: Store, clock: Clock) -> None:
    leases = table(store, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 1.0)
    assert leases.renew("you", granted.lease, 5.0) is None
    assert leases.renew("me", granted.lease + 1, 5.0) is None
    clock.now += 1.0
    assert leases.renew("me", granted.lease, 5.0) is None
    assert leases.expire() == 1
    again = leases.acquire("me", SCOPE, [b"a"], 1.0)
    assert leases.release("me", again.lease)
    assert leases.renew("me", again.lease, 5.0) is None


def test_renew_keeps_what_is_held_in_place(warm: Store, clock: Clock) -> None:
    leases = table(warm, clock)
    granted = leases.acquire("me", SCOPE, [b"a"], 1.0, in_place=True)
    clock.now += 0.5
    assert leases.renew("me", granted.lease, 3.0) == 3.0
    clock.now += 2.0
    leases.expire()
    assert (leases.overdue, warm.held()) == (0, {b"a": 1})
    clock.now += 1.0
    leases.expire()
    # Its chunks may be evicted from now on, so nothing brings it back.
    assert leases.overdue == 1
    assert leases.renew("me", granted.lease, 3.0) is None
    assert warm.held() == {b"a": 1}


def test_a_tenant_is_capped_and_the_others_are_not(store: Store, clock: Clock) -> None:
    leases = LeaseTable(
        store,
        bytes_max=1000,
        leases_max=10,
        chunks_max=100,
        lease_s_max=10.0,
        now=clock,
        tenant_bytes_max=lambda tenant: 60 if tenant == SCOPE.tenant else 1000,
    )
    with pytest.raises(TooLarge, match="tenant"):
        leases.acquire("me", SCOPE, [b"a", b"c"], 1.0)
    first = leases.acquire("me", SCOPE, [b"a"], 1.0)
    with pytest.raises(OverQuota, match="30 bytes") as caught:
        leases.acquire("also mine", SCOPE, [b"c"], 1.0)
    assert 0 < caught.value.retry_after_s <= 1.0
    assert leases.acquire("you", OTHER, [b"a", b"c"], 1.0).lease
    leases.release("me", first.lease)
    assert leases.acquire("also mine", SCOPE, [b"c"], 1.0).lease
    clock.now += 1.0
    leases.expire()
    assert leases.bytes_by_tenant == {}


def test_a_tenant_that_holds_many_leases_keeps_nobody_else_from_leasing(store: Store, clock: Clock) -> None:
    leases = LeaseTable(
        store,
        bytes_max=1 << 20,
        leases_max=8,
        chunks_max=12,
        lease_s_max=10.0,
        now=clock,
        tenant_part=lambda tenant: 0.5,
    )
    numbers = [leases.acquire("me", SCOPE, [b"a"], 5.0).lease for _ in range(4)]
    with pytest.raises(OverQuota, match="leases_max"):
        leases.acquire("me", SCOPE, [b"a"], 5.0)
    for number in numbers[:3]:
        leases.release("me", number)
    leases.acquire("me", SCOPE, [b"a", b"b", b"c", b"a", b"b"], 5.0)
    with pytest.raises(OverQuota, match="leased_chunks_max"):
        leases.acquire("me", SCOPE, [b"a"], 5.0)
    with pytest.raises(TooLarge, match="leased_chunks_max"):
        leases.acquire("you", OTHER, [b"a"] * 7, 5.0)
    assert leases.acquire("you", OTHER, [b"a"] * 6, 5.0).lease
    with pytest.raises(Busy, match="leased_chunks_max"):
        leases.acquire("they", Scope(b"t" * 16, bytes(16)), [b"a"], 5.0)
    clock.now += 5.0
    leases.expire()
    assert (len(leases), leases.chunks_leased) == (0, 0)
    assert all(not (counts.leases or counts.chunks) for counts in leases._counts.values())


class Leases(RuleBasedStateMachine):
    """Pins, bytes and held slots always equal what the leases say that live or are overdue."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.life = 0
        self.numbers: set[int] = set()
        self.begin()

    def begin(self) -> None:
        """A life of the shard: what a table holds ends with its process."""
        self.life += 1
        self.store = Store({bytes([n]): n + 1 for n in range(6)}, hot=[bytes([n]) for n in (0, 2, 3)])
        self.leases = LeaseTable(
            self.store,
            bytes_max=40,
            leases_max=5,
            chunks_max=CHUNKS,
            tenant_part=lambda tenant: 0.75,
            lease_s_max=10.0,
            now=self.clock,
            tenant_bytes_max=lambda tenant: TENANT_BYTES,
            first=1000 * self.life,
        )
        self.model: dict[int, tuple[tuple[str, Scope], list[bytes], float, bool]] = {}

    def numbered(self, place: int) -> int:
        """A number that was given out, in this life or an earlier one, or never."""
        known = sorted(self.numbers)
        return known[-1 - place] if place < len(known) else place

    @rule(
        owner=OWNERS,
        keys=st.lists(st.integers(0, 7), min_size=1, max_size=6),
        ttl=st.integers(0, 12),
        in_place=st.booleans(),
    )
    def acquire(self, owner: tuple[str, Scope], keys: list[int], ttl: int, in_place: bool) -> None:
        names = [bytes([key]) for key in keys]
        count = next((n for n, key in enumerate(keys) if key >= 6), len(keys))
        size = sum(key + 1 for key in keys[:count])
        mine = self.bytes_of(owner[1].tenant)
        chunks, own_chunks = self.chunks_of(None), self.chunks_of(owner[1].tenant)
        own_leases = sum(held[0][1].tenant == owner[1].tenant for held in self.model.values())
        try:
            granted = self.leases.acquire(owner, owner[1], names, float(ttl), in_place=in_place)
        except TooLarge:
            assert size > TENANT_BYTES or count > 6
            return
        except OverQuota:
            assert mine + size > TENANT_BYTES or own_chunks + count > 6 or own_leases >= 3
            return
        except Busy:
            full = len(self.leases) + self.leases.overdue >= 5
            bytes_held = sum(map(self.bytes_of, (SCOPE.tenant, OTHER.tenant)))
            assert full or bytes_held + size > 40 or chunks + count > CHUNKS
            return
        assert len(granted.slots) == (granted.prefix if in_place else 0)
        assert (granted.prefix, granted.bytes) == (count, size)
        assert bool(granted.lease) == (count > 0 and ttl > 0)
        if granted.lease:
            assert granted.lease not in self.numbers
            self.numbers.add(granted.lease)
            until = self.clock.now + min(ttl, 10)
            self.model[granted.lease] = (owner, names[: granted.prefix], until, in_place)

    def owner_of(self, lease: int, stranger: tuple[str, Scope] | None) -> tuple[str, Scope]:
        """Mostly whose it is, since what others may do is refused and no more."""
        held = self.model.get(lease)
        return stranger or (("x", SCOPE) if held is None else held[0])

    @rule(stranger=STRANGERS, place=st.integers(0, 6), ttl=st.integers(1, 12))
    def renew(self, stranger: tuple[str, Scope] | None, place: int, ttl: int) -> None:
        lease, now = self.numbered(place), self.clock.now
        held, owner = self.model.get(lease), self.owner_of(lease, stranger)
        left_s = self.leases.renew(owner, lease, float(ttl))
        if held is None or held[0] != owner or held[2] <= now:
            assert left_s is None
            return
        until = max(held[2], now + min(ttl, 10))
        assert left_s == until - now <= 10
        self.model[lease] = (owner, held[1], until, held[3])

    @rule(stranger=STRANGERS, place=st.integers(0, 6))
    def release(self, stranger: tuple[str, Scope] | None, place: int) -> None:
        lease = self.numbered(place)
        owner = self.owner_of(lease, stranger)
        mine = lease in self.model and self.model[lease][0] == owner
        assert self.leases.release(owner, lease) == (mine and self.model[lease][2] > self.clock.now)
        assert not self.leases.release(owner, lease)
        if mine:
            del self.model[lease]

    @rule()
    def end_the_longest_overdue(self) -> None:
        overdue = self.leases.longest_overdue
        over = [held for held in self.model.values() if held[2] <= self.clock.now and self.held(held)]
        if overdue is None:
            assert not over
            return
        assert overdue.since == min(held[2] for held in over)
        self.leave(overdue.owner)

    @rule(owner=OWNERS, sure=st.integers(0, 1))
    def close(self, owner: object, sure: int) -> None:
        if not sure:
            self.leave(owner)

    def leave(self, owner: object) -> None:
        self.leases.end_owner(owner)
        self.model = {lease: held for lease, held in self.model.items() if held[0] != owner}

    @rule(seconds=st.integers(1, 4))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.leases.expire()

    @rule(sure=st.integers(0, 3))
    def restart(self, sure: int) -> None:
        if not sure:
            self.begin()

    def held(self, lease: tuple[tuple[str, Scope], list[bytes], float, bool]) -> list[bytes]:
        return [key for key in lease[1] if lease[3] and key in self.store.slots]

    def bytes_of(self, tenant: bytes) -> int:
        now = self.clock.now
        held = [lease for lease in self.model.values() if lease[0][1].tenant == tenant and lease[2] > now]
        return sum(self.store.sizes[key] for lease in held for key in lease[1])

    def chunks_of(self, tenant: bytes | None) -> int:
        now = self.clock.now
        return sum(
            len(lease[1])
            for lease in self.model.values()
            if lease[2] > now and tenant in (None, lease[0][1].tenant)
        )

    @invariant()
    def counts_match(self) -> None:
        assert self.leases.chunks_leased == self.chunks_of(None) <= CHUNKS
        counts = self.leases._counts
        assert sum(count.leases for count in counts.values()) == len(self.leases) + self.leases.overdue
        for tenant in (SCOPE.tenant, OTHER.tenant):
            assert (counts[tenant].chunks if tenant in counts else 0) == self.chunks_of(tenant) <= 6
            assert tenant not in counts or counts[tenant].leases <= 3

    @invariant()
    def pins_match(self) -> None:
        now = self.clock.now
        pins = Counter(key for _, keys, until, _ in self.model.values() if until > now for key in keys)
        assert self.store.pinned() == dict(pins)
        assert self.leases.bytes_leased == sum(self.store.sizes[key] * n for key, n in pins.items()) <= 40
        by_tenant = {tenant: self.bytes_of(tenant) for tenant in (SCOPE.tenant, OTHER.tenant)}
        assert self.leases.bytes_by_tenant == {tenant: size for tenant, size in by_tenant.items() if size}
        assert max(by_tenant.values()) <= TENANT_BYTES
        assert len(self.leases._deadlines) <= 2 * len(self.leases) + 65

    @invariant()
    def holds_match(self) -> None:
        now = self.clock.now
        held = Counter(key for lease in self.model.values() for key in self.held(lease))
        assert self.store.held() == dict(held)
        over = [lease for lease in self.model.values() if lease[2] <= now and self.held(lease)]
        assert self.leases.overdue == len(over)
        over_bytes = sum(self.store.sizes[key] for lease in over for key in self.held(lease))
        assert self.leases.hot_bytes_overdue == over_bytes
        assert len(self.leases) + self.leases.overdue <= 5


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=80, stateful_step_count=40)
