"""The life of a chunk against a model that is assumed perfect: whatever is done in whatever order.

Here every call runs to its end before the next (test_traffic has them overlap), so that Hypothesis can make a
failure small, and leases, clocks, erasures and restarts of every kind meet.  What is held to:

- no wrong byte; nothing from its deadline on; nothing that was deleted or erased, ever again;
- what was acknowledged is there, unless it was evicted, deleted, erased, is over, or a power loss could take it;
- no more chunks go than are told as evicted, and never one that is leased;
- the store's time never goes back, and is exact as long as the machine is up.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mezzo.errors import Busy, Gone, TooLarge
from mezzo_server.blockstore.api import PutStatus, Scope
from mezzo_server.blockstore.options import Durability
from mezzo_server.shard.leases import LeaseTable
from tests.simulation import audit
from tests.simulation.model import Fate, Key, Version
from tests.simulation.rig import Rig, chunk
from tests.simulation.world import options
from tests.unit.mezzo_server.blockstore.test_clock import MINUTES_10, Machine

SCOPES = (Scope(b"a" * 16, b"1" * 16), Scope(b"a" * 16, b"2" * 16), Scope(b"b" * 16, b"3" * 16))
OTHERS = Scope(b"c" * 16, b"4" * 16)
"""Where chunks are put that nobody asks for: they make room scarce."""
KEYS_EACH = 5
LENGTHS = st.sampled_from((1, 4096, 5000, 20_000, 60_000))
LIVES_S = st.sampled_from((0.0, 0.0, 0.001, 1.0, 30.0, 300.0))
WHICH = st.integers(0, len(SCOPES) - 1)
NUMBER = st.integers(0, KEYS_EACH - 1)
TIMES_MS = st.sampled_from((1, 400, 1000, 10_000, 40_000, 400_000))
LEASES_MAX = 6
ME = "an owner"


class Life(RuleBasedStateMachine):
    """See the module."""

    @initialize(power=st.booleans(), hot=st.booleans())
    def begin(self, power: bool, hot: bool) -> None:
        self.host = Machine()
        self.power = power
        chosen = options(durability=Durability.POWER if power else Durability.PROCESS)
        self.rig = Rig(options=chosen, clock=self.host.clock(), hot={"bytes_max": 512 << 10} if hot else None)
        self.keys = [[Key(scope, b"k%d" % n) for n in range(KEYS_EACH)] for scope in SCOPES]
        self.sure: dict[int, Version] = {}
        """by the id of a key: the version that must be there"""
        self.ghosts: list[tuple[Scope, bytes]] = []
        self.leases: dict[int, tuple[list[Key], list[int], float]] = {}
        """by number: keys, how often each was erased before, end"""
        self.fillers = 0
        self.evicted = 0
        self.last_ms = self.rig.store.now_ms
        self.ahead_ms = self.last_ms - self.host.true_ms
        self.new_table()

    def new_table(self) -> None:
        self.table = LeaseTable(
            self.rig.store.pins,
            bytes_max=self.rig.store.capacity_bytes // 4,
            leases_max=LEASES_MAX,
            chunks_max=1 << 20,
            lease_s_max=60.0,
            now=lambda: self.rig.time,
        )
        self.leases.clear()

    @property
    def all_keys(self) -> list[Key]:
        return [key for keys in self.keys for key in keys]

    def leased(self, key: Key) -> bool:
        return any(
            other is key and key.erasures == erasures
            for keys, before, end in self.leases.values()
            if end > self.rig.time
            for other, erasures in zip(keys, before, strict=True)
        )

    # -- what is done ------------------------------------------------------------------------

    @rule(which=WHICH, number=NUMBER, length=LENGTHS, life_s=LIVES_S, priority=st.integers(0, 7))
    def put(self, which: int, number: int, length: int, life_s: float, priority: int) -> None:
        key, store = self.keys[which][number], self.rig.store
        expiry_ms = store.now_ms + round(life_s * 1000) if life_s else 0
        version = key.put((length,), expiry_ms)
        one = chunk(key.key, version.data)
        one.expiry_ms, one.priority = expiry_ms, priority
        before = store.info(key.scope, key.key)
        status = self.rig.put_chunks([one], key.scope).statuses[0]
        assert status is (PutStatus.STORED if before is None else PutStatus.EXISTS)
        version.fate = Fate.STORED if before is None else Fate.EXISTS
        if before is None:
            self.sure[id(key)] = version
            info = store.info(key.scope, key.key)
            assert info is not None
            assert (info.expiry_ms, info.priority) == (expiry_ms, priority)
        else:
            assert store.info(key.scope, key.key) == before, "a second put changed something"

    @rule(which=WHICH, number=NUMBER)
    def get(self, which: int, number: int) -> None:
        self.read(self.keys[which][number])

    def read(self, key: Key) -> None:
        dead = key.dead() | key.over(self.rig.store.now_ms)
        info = self.rig.store.info(key.scope, key.key)
        for data in (self.rig.get(key.key, key.scope), self.rig.stream(key.key, key.scope)):
            assert (data is None) == (info is None)
            assert data is None or key.legal(data, 0, 0, dead), f"wrong bytes for {key.key!r}"

    @rule(which=WHICH)
    def lookup(self, which: int) -> None:
        keys = self.keys[which]
        there = [self.rig.has(key.key, key.scope) for key in keys]
        expected = there.index(False) if False in there else len(keys)
        assert self.rig.store.prefix(keys[0].scope, [key.key for key in keys])[0] == expected

    @rule(which=WHICH, count=st.integers(1, KEYS_EACH), lease_s=st.sampled_from((0.5, 5.0, 60.0)))
    def acquire(self, which: int, count: int, lease_s: float) -> None:
        keys = self.keys[which][:count]
        names = [key.key for key in keys]
        there = self.rig.store.prefix(keys[0].scope, names)[0]
        try:
            granted = self.table.acquire(ME, keys[0].scope, names, lease_s)
        except (Busy, TooLarge):
            return
        assert granted.prefix == there
        if granted.lease:
            erasures = [key.erasures for key in keys[:there]]
            self.leases[granted.lease] = (keys[:there], erasures, self.rig.time + granted.lease_s)

    @precondition(lambda self: self.leases)
    @rule(pick=st.integers(0, LEASES_MAX), lease_s=st.sampled_from((0.5, 30.0)))
    def renew(self, pick: int, lease_s: float) -> None:
        lease = list(self.leases)[pick % len(self.leases)]
        keys, erasures, end = self.leases[lease]
        left = self.table.renew(ME, lease, lease_s)
        assert (left is None) == (end <= self.rig.time)
        if left is not None:
            assert left == pytest.approx(max(end - self.rig.time, lease_s))
            self.leases[lease] = (keys, erasures, self.rig.time + left)

    @precondition(lambda self: self.leases)
    @rule(pick=st.integers(0, LEASES_MAX))
    def release(self, pick: int) -> None:
        lease = list(self.leases)[pick % len(self.leases)]
        _, _, end = self.leases.pop(lease)
        assert self.table.release(ME, lease) == (end > self.rig.time)

    @rule(which=WHICH, first=NUMBER, count=st.integers(1, 3))
    def delete(self, which: int, first: int, count: int) -> None:
        keys = self.keys[which][first : first + count]
        there = [self.rig.has(key.key, key.scope) for key in keys]
        assert self.rig.delete(*[key.key for key in keys], scope=keys[0].scope) == (there, None)
        for key in keys:
            for version in key.doomed():
                version.fate = Fate.DEAD
            self.sure.pop(id(key), None)

    @rule(which=WHICH, tenant=st.booleans())
    def erase(self, which: int, tenant: bool) -> None:
        now = self.rig.erase(self.keys[which][0].scope, tenant=tenant)
        for key in self.all_keys:
            same = key.scope.tenant == now.tenant if tenant else key.scope.namespace == now.namespace
            if same:
                self.ghosts = [*self.ghosts[-30:], (key.scope, key.key)]
                key.erase(self.rig.generations.scope(key.scope))
                self.sure.pop(id(key), None)

    @rule(count=st.integers(1, 20))
    def others_put(self, count: int) -> None:
        """So that somebody is evicted."""
        for _ in range(count):
            self.fillers += 1
            self.rig.put(b"filler-%d" % self.fillers, 60_000, OTHERS)

    @rule(takes_ms=TIMES_MS, ticks=st.booleans())
    def time_passes(self, takes_ms: int, ticks: bool) -> None:
        """Without ticks: the process was stopped, and goes on."""
        self.passes(takes_ms)
        if ticks:
            self.table.expire()
            self.rig.drain()
            now = self.rig.store.now_ms
            late = sum(now - 1000 < v.expiry_ms <= now for key in self.all_keys for v in key.versions)
            there = sum(self.rig.has(key.key, key.scope) for key in self.all_keys)
            there += sum(self.rig.has(b"filler-%d" % n, OTHERS) for n in range(1, self.fillers + 1))
            counted = self.rig.store.report().chunks
            assert there <= counted <= there + late, "one is over for a second, and still counted"

    @rule(jump_ms=st.sampled_from((-MINUTES_10, MINUTES_10, -3600_000)))
    def wall_clock_jumps(self, jump_ms: int) -> None:
        self.host.wall_off_ms += jump_ms

    @rule(how=st.sampled_from(("close", "kill", "cut")), reboot=st.booleans(), takes_ms=TIMES_MS)
    def restart(self, how: str, reboot: bool, takes_ms: int) -> None:
        if how == "close":
            self.table.end_owner(ME)
            self.leases.clear()
        # Something to end, and a tick: else nothing depends on time, and it is not written down.
        self.fillers += 1
        self.rig.put(b"filler-%d" % self.fillers, 1, OTHERS, ttl_s=1e6)
        self.rig.drain()
        self.what_must_be_there_is()
        if how == "close":
            self.rig.store.close()
        if reboot or how == "cut":
            self.host.reboot(takes_ms)
            self.rig.time += takes_ms / 1000
            self.rig.clock = self.host.clock()
        else:
            self.passes(takes_ms)
        self.rig.restart(how, seed=takes_ms)
        if reboot or how == "cut":
            self.ahead_ms = self.rig.store.now_ms - self.host.true_ms
        self.evicted = 0
        self.new_table()
        for key in self.all_keys:
            key.restarts += 1
            if how == "cut" and not self.power and not self.rig.has(key.key, key.scope):
                self.sure.pop(id(key), None)

    def passes(self, takes_ms: int) -> None:
        self.host.true_ms += takes_ms
        self.rig.time += takes_ms / 1000

    # -- what holds --------------------------------------------------------------------------

    @invariant()
    def time_is_right(self) -> None:
        now = self.rig.store.now_ms
        assert now >= self.last_ms, "time went back"
        assert now - self.host.true_ms == self.ahead_ms, "time jumped while the machine was up"
        self.last_ms = now

    @invariant()
    def what_must_be_there_is(self) -> None:
        store = self.rig.store
        evicted = audit.counters(store)["chunks_evicted"]
        gone = evicted - self.evicted
        self.evicted = evicted
        for key in self.all_keys:
            version = self.sure.get(id(key))
            info = store.info(key.scope, key.key)
            alive = [v for v in key.versions if v.number not in key.dead() | key.over(store.now_ms)]
            assert info is None or any(v.parts == info.parts for v in alive), f"{key.key!r} must not be there"
            if version is None:
                continue
            if version.number in key.over(store.now_ms):
                del self.sure[id(key)]
            elif info is None:
                assert not self.leased(key), f"{key.key!r} is leased and gone"
                gone -= 1
                assert gone >= 0, f"{key.key!r} is gone, and nobody said that it was evicted"
                del self.sure[id(key)]

    @invariant()
    def what_was_erased_is_gone(self) -> None:
        for scope, name in self.ghosts[-6:]:
            assert self.rig.store.prefix(scope, [name]) == (0, 0)
            assert self.rig.get(name, scope) is None
        if self.ghosts:
            with pytest.raises(Gone):
                self.rig.put(b"any", 1, self.ghosts[-1][0])

    @invariant()
    def counts_are_right(self) -> None:
        audit.check_space(self.rig.store)
        audit.check_counts(self.rig.store)
        audit.check_hot(self.rig.store)

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        for key in self.all_keys:
            self.read(key)
        self.table.end_owner(ME)
        self.rig.drain()
        assert not self.table.bytes_leased
        self.rig.store.close()


COMMON = settings(
    suppress_health_check=list(HealthCheck),
    # Explaining a failure runs under a tracer, which takes minutes here.
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
TestLife = Life.TestCase
TestLife.settings = settings(COMMON, max_examples=25, stateful_step_count=30)


@pytest.mark.long
@pytest.mark.timeout(3600)
class TestLifeForLong(Life.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(COMMON, max_examples=3000, stateful_step_count=80)
