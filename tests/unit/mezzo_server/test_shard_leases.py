from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mezzo.errors import Busy, TooLarge
from mezzo_server.blockstore.api import Scope
from mezzo_server.shard.leases import LeaseTable

SCOPE = Scope(bytes(16), bytes(16))


class Store:
    """Chunks by key with their size, and how often each is pinned."""

    def __init__(self, sizes: dict[bytes, int]) -> None:
        self.sizes = sizes
        self.pins: Counter[bytes] = Counter()

    def prefix(self, scope: Scope, keys: Sequence[bytes]) -> tuple[int, int]:
        count = size = 0
        for key in keys:
            if key not in self.sizes:
                break
            count += 1
            size += self.sizes[key]
        return count, size

    def pin(self, scope: Scope, key: bytes) -> int:
        self.pins[key] += 1
        return self.sizes.get(key, 0)

    def unpin(self, scope: Scope, key: bytes) -> None:
        self.pins[key] -= 1
        assert self.pins[key] >= 0

    def pinned(self) -> dict[bytes, int]:
        return {key: count for key, count in self.pins.items() if count}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def table(store: Store, clock: Clock, bytes_max: int = 100, leases_max: int = 4) -> LeaseTable:
    return LeaseTable(store, bytes_max=bytes_max, leases_max=leases_max, lease_s_max=10.0, now=clock)


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
    assert leases.expire() == 1
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


class Leases(RuleBasedStateMachine):
    """Pins and bytes always equal what the live leases say."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = Store({bytes([n]): n + 1 for n in range(6)})
        self.leases = table(self.store, self.clock, bytes_max=40, leases_max=5)
        self.model: dict[int, tuple[str, list[bytes], float]] = {}

    @rule(
        owner=st.sampled_from("xyz"),
        keys=st.lists(st.integers(0, 7), min_size=1, max_size=6),
        ttl=st.integers(0, 12),
    )
    def acquire(self, owner: str, keys: list[int], ttl: int) -> None:
        names = [bytes([key]) for key in keys]
        try:
            granted = self.leases.acquire(owner, SCOPE, names, float(ttl))
        except (Busy, TooLarge):
            return
        if granted.lease:
            until = self.clock.now + min(ttl, 10)
            self.model[granted.lease] = (owner, names[: granted.prefix], until)

    @rule(owner=st.sampled_from("xyz"), lease=st.integers(1, 12))
    def release(self, owner: str, lease: int) -> None:
        held = lease in self.model and self.model[lease][0] == owner and self.model[lease][2] > self.clock.now
        assert self.leases.release(owner, lease) == held
        if held:
            del self.model[lease]

    @rule(owner=st.sampled_from("xyz"))
    def leave(self, owner: str) -> None:
        self.leases.end_owner(owner)
        self.model = {lease: held for lease, held in self.model.items() if held[0] != owner}

    @rule(seconds=st.integers(1, 6))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.leases.expire()

    @invariant()
    def pins_match(self) -> None:
        self.leases.expire()
        self.model = {lease: held for lease, held in self.model.items() if held[2] > self.clock.now}
        pins = Counter(key for _, keys, _ in self.model.values() for key in keys)
        assert self.store.pinned() == dict(pins)
        assert self.leases.bytes_leased == sum(self.store.sizes[key] * n for key, n in pins.items()) <= 40


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
