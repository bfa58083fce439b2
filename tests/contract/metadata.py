"""What every metadata engine must do; subclassed once for each of them.

`Rig` is what an implementation gives: engines that share one state, as processes do, and the time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo_server.metadata.engine import (
    KEY_CHARACTERS_MAX,
    LEASES_MAX,
    OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Change,
    Check,
    Compacted,
    Engine,
    Entry,
    Write,
)

T = TypeVar("T")
HANG_S = 10.0
"""after so long a watch that owes changes is taken for one that skips them"""


class Rig:
    """Engines over one state."""

    now = 1_700_000_000.0
    logged = True
    """whether the engine keeps a log of its own, of which it may forget one key and no other"""

    def clock(self) -> float:
        return self.now

    def open(self, changes_max: int = 10_000) -> Engine:
        """One more engine over the same state; the first decides how many changes are kept."""
        raise NotImplementedError

    def counting(self, engine: Engine) -> type[Engine]:
        """The class that counts leases."""
        return type(engine)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def close(self) -> None:
        """After all engines were closed."""


async def take(watch: AsyncIterator[Sequence[Change]], count: int) -> list[Change]:
    """So many changes; whole batches."""
    changes: list[Change] = []
    while len(changes) < count:
        changes += await asyncio.wait_for(anext(watch), HANG_S)
    return changes


async def put(engine: Engine, key: str, value: bytes = b"v", *, lease: int = 0) -> int:
    outcome = await engine.transact([], [Write(key, value, lease)])
    assert outcome.done
    return outcome.revision


class MetadataContract:
    """The suite."""

    examples = 25
    """of random calls"""

    def make(self) -> Rig:
        raise NotImplementedError

    @pytest.fixture
    def rig(self):
        rig = self.make()
        yield rig
        rig.close()

    def run(self, rig: Rig, work: Any) -> None:
        async def main() -> None:
            engine = rig.open()
            try:
                await work(engine)
            finally:
                await engine.close()

        asyncio.run(main())

    def test_nothing_is_there_at_first(self, rig):
        async def work(engine):
            assert await engine.get("a") is None
            assert list((await engine.scan("")).entries) == []

        self.run(rig, work)

    def test_a_write_is_read(self, rig):
        async def work(engine):
            began = (await engine.scan("")).revision
            revision = await put(engine, "a/ü 1", b"\0\xff")
            assert revision == began + 1
            assert await engine.get("a/ü 1") == Entry("a/ü 1", b"\0\xff", revision)
            assert (await engine.transact([], [Write("a/ü 1", None)])).revision == revision + 1
            assert await engine.get("a/ü 1") is None

        self.run(rig, work)

    def test_a_scan_is_sorted_and_keeps_to_its_prefix(self, rig):
        async def work(engine):
            written = await engine.transact(
                [], [Write(k, k.encode()) for k in ("b/2", "b/1", "b", "c", "a", "b/\U0001f600")]
            )
            scan = await engine.scan("b/")
            assert [entry.key for entry in scan.entries] == ["b/1", "b/2", "b/\U0001f600"]
            assert next(entry.key for entry in (await engine.scan("")).entries) == "a"
            assert {entry.revision for entry in scan.entries} == {scan.revision} == {written.revision}

        self.run(rig, work)

    def test_a_transaction_is_all_or_nothing(self, rig):
        async def work(engine):
            first = await put(engine, "a")
            assert not (await engine.transact([Check("a", 0)], [Write("b", b"")])).done
            assert not (await engine.transact([Check("a", first), Check("c", 1)], [Write("b", b"")])).done
            assert await engine.get("b") is None
            done = await engine.transact(
                [Check("a", first), Check("c", 0)], [Write("a", b"2"), Write("c", b"3")]
            )
            assert done.done
            assert done.revision == first + 1
            assert not (await engine.transact([Check("a", first)], [])).done
            assert (await engine.transact([Check("a", done.revision)], [])) == done

        self.run(rig, work)

    def test_what_changes_nothing_has_no_revision(self, rig):
        async def work(engine):
            revision = await put(engine, "a")
            assert (await engine.transact([], [Write("b", None)])).revision == revision
            assert (await engine.transact([], [])).revision == revision
            assert (await engine.scan("")).revision == revision

        self.run(rig, work)

    @pytest.mark.parametrize(
        ("checks", "writes"),
        [
            ([], [Write("", b"")]),
            ([], [Write("a\0b", b"")]),
            ([], [Write("x" * (KEY_CHARACTERS_MAX + 1), b"")]),
            ([], [Write("a", bytes(VALUE_BYTES_MAX + 1))]),
            ([], [Write("a", b""), Write("a", None)]),
            ([Check("a", 0), Check("a", 1)], []),
            ([], [Write(f"{n}", b"") for n in range(OPERATIONS_MAX + 1)]),
            ([], [Write("a", b"", lease=77)]),
            ([], [Write("a", None, lease=77)]),
        ],
    )
    def test_what_is_over_a_limit_is_refused(self, rig, checks, writes):
        async def work(engine):
            began = (await engine.scan("")).revision
            with pytest.raises(InvalidArgument):
                await engine.transact(checks, writes)
            assert (await engine.scan("")).revision == began

        self.run(rig, work)

    @pytest.mark.parametrize("key", ["a\0", "\udcff", "x" * (KEY_CHARACTERS_MAX + 1)])
    def test_what_is_no_key_is_refused_by_whoever_is_asked(self, rig, key):
        async def work(engine):
            for call in (engine.get(key), engine.scan(key), anext(engine.watch(key, 0))):
                with pytest.raises(InvalidArgument):
                    await call
            with pytest.raises(InvalidArgument):
                await engine.get("")

        self.run(rig, work)

    def test_limits_themselves_are_allowed(self, rig):
        async def work(engine):
            writes = [Write("x" * KEY_CHARACTERS_MAX, bytes(VALUE_BYTES_MAX))]
            writes += [Write(f"{n}", b"") for n in range(OPERATIONS_MAX - 1)]
            assert (await engine.transact([Check(f"{n}", 0) for n in range(OPERATIONS_MAX)], writes)).done

        self.run(rig, work)

    def test_one_of_two_that_race_wins(self, rig):
        async def work(engine):
            other = rig.open()
            began = (await engine.scan("")).revision
            outcomes = await asyncio.gather(
                *(e.transact([Check("a", 0)], [Write("a", b"")]) for e in (engine, other) for _ in range(4))
            )
            assert [o.done for o in outcomes].count(True) == 1
            assert (await other.scan("")).revision == began + 1
            await other.close()

        self.run(rig, work)

    # -- leases

    def test_keys_go_with_their_lease(self, rig):
        async def work(engine):
            lease = await engine.grant(10)
            await put(engine, "a", lease=lease)
            await put(engine, "b", lease=lease)
            await put(engine, "b")
            rig.wait(9.9)
            assert await engine.get("a") is not None
            rig.wait(0.2)
            assert await engine.get("a") is None
            assert await engine.get("b") is not None, "it was written without the lease later"
            assert not await engine.keep(lease)
            with pytest.raises(InvalidArgument):
                await engine.transact([], [Write("a", b"", lease)])

        self.run(rig, work)

    def test_a_lease_that_is_kept_begins_anew(self, rig):
        async def work(engine):
            lease = await engine.grant(10)
            await put(engine, "a", lease=lease)
            for _ in range(3):
                rig.wait(9)
                assert await engine.keep(lease)
            assert await engine.get("a") is not None
            rig.wait(11)
            assert (await engine.scan("")).entries == []

        self.run(rig, work)

    def test_a_lease_that_is_revoked_ends_now(self, rig):
        async def work(engine):
            lease, other = await engine.grant(10), await engine.grant(10)
            assert lease != other
            await put(engine, "a", lease=lease)
            await put(engine, "b", lease=other)
            await engine.revoke(lease)
            await engine.revoke(lease)
            await engine.revoke(12345)
            assert [entry.key for entry in (await engine.scan("")).entries] == ["b"]

        self.run(rig, work)

    def test_leases_have_limits(self, rig):
        async def work(engine):
            for ttl_s in (0, -1, float("inf"), float("nan"), 1e9):
                with pytest.raises(InvalidArgument):
                    await engine.grant(ttl_s)

        self.run(rig, work)

    # -- watches

    def test_a_watch_tells_what_came_after(self, rig):
        async def work(engine):
            await put(engine, "a/1", b"1")
            after = await put(engine, "a/2", b"2")
            await put(engine, "b/1")
            await engine.transact([], [Write("a/3", b"3"), Write("a/1", b"4")])
            watch = engine.watch("a/", after)
            changes = await take(watch, 2)
            assert {(c.key, c.value, c.revision - after) for c in changes} == {
                ("a/3", b"3", 2),
                ("a/1", b"4", 2),
            }
            await put(engine, "a/2", b"5")
            assert await take(watch, 1) == [Change("a/2", b"5", after + 3)]
            await engine.transact([], [Write("a/2", None)])
            assert await take(watch, 1) == [Change("a/2", None, after + 4)]

        self.run(rig, work)

    @pytest.mark.parametrize("own", [True, False])
    def test_a_watch_that_waits_sees_what_is_written(self, rig, own):
        async def work(engine):
            other = rig.open()
            watch = engine.watch("", (await engine.scan("")).revision)
            for key in ("a", "b"):
                waiting = asyncio.ensure_future(take(watch, 1))
                for _ in range(3):
                    await engine.get(key)  # by now the watch has looked, and found nothing
                await put(engine if own else other, key)
                assert (await waiting)[0].key == key
            await other.close()

        self.run(rig, work)

    def test_a_watch_sees_leases_end(self, rig):
        async def work(engine):
            lease = await engine.grant(10)
            after = await put(engine, "a", lease=lease)
            watch = engine.watch("", after)
            rig.wait(11)
            assert await take(watch, 1) == [Change("a", None, after + 1)]

        self.run(rig, work)

    def test_a_watch_gives_whole_revisions(self, rig):
        async def work(engine):
            began = (await engine.scan("")).revision
            for n in range(5):
                await engine.transact([], [Write(f"{k}", b"%d" % n) for k in range(50)])
            watch = engine.watch("", began)
            seen = 0
            while seen < 250:
                batch = await asyncio.wait_for(anext(watch), HANG_S)
                assert len(batch) % 50 == 0
                seen += len(batch)

        self.run(rig, work)

    def test_a_watch_from_what_is_not_kept_is_told_so(self, rig):
        async def work(_):
            engine = rig.open(changes_max=3)
            for n in range(6):
                await put(engine, f"{n}")
            with pytest.raises(Compacted):
                await take(engine.watch("", 1), 1)
            assert [c.key for c in await take(engine.watch("", 3), 3)] == ["3", "4", "5"]
            await engine.close()

        self.run(rig, work)

    def test_a_watch_from_the_future_is_told_so(self, rig):
        async def work(engine):
            revision = await put(engine, "a")
            with pytest.raises(Compacted):
                await take(engine.watch("", revision + 1), 1)

        self.run(rig, work)

    def test_a_watch_never_gives_what_was_destroyed(self, rig):
        async def work(engine):
            began = (await engine.scan("")).revision
            await put(engine, "other")
            await put(engine, "a", b"secret")
            revision = (await engine.transact([], [Write("a", None)])).revision
            with pytest.raises(Compacted):
                await take(engine.watch("", began), 3)
            await put(engine, "b")
            assert [c.key for c in await take(engine.watch("", revision), 1)] == ["b"]
            if rig.logged:
                assert [c.key for c in await take(engine.watch("o", began), 1)] == ["other"]
                assert (await take(engine.watch("", revision - 1), 1))[0] == Change("a", None, revision)

        self.run(rig, work)

    def test_a_watch_that_is_given_up_as_news_come_ends(self, rig):
        async def work(engine):
            async def follow(after: int) -> None:
                async for _ in engine.watch("", after):
                    pass

            for turns in range(5):
                watching = asyncio.ensure_future(follow((await engine.scan("")).revision))
                await asyncio.sleep(0.01)
                await put(engine, f"{turns}")
                for _ in range(turns):
                    await asyncio.sleep(0)
                watching.cancel()
                done, _ = await asyncio.wait((watching,), timeout=HANG_S)
                assert done, "the cancellation was lost"

        self.run(rig, work)

    def test_watches_end_with_the_engine(self, rig):
        async def work(engine):
            async def all_of(watch: AsyncIterator[Sequence[Change]]) -> int:
                return len([batch async for batch in watch])

            began = (await engine.scan("")).revision
            watching = [asyncio.ensure_future(all_of(engine.watch("", began))) for _ in range(3)]
            await asyncio.sleep(0)
            await put(engine, "a")
            await engine.close()
            assert all(count <= 1 for count in await asyncio.wait_for(asyncio.gather(*watching), HANG_S))
            with pytest.raises(Unavailable):
                await engine.get("a")

        self.run(rig, work)

    def test_leases_are_counted(self, rig, monkeypatch):
        async def work(engine):
            for module in {kind.__module__ for kind in rig.counting(engine).__mro__}:
                if hasattr(sys.modules[module], "LEASES_MAX"):
                    monkeypatch.setattr(f"{module}.LEASES_MAX", 3)
            for _ in range(3):
                await engine.grant(10)
            with pytest.raises(Busy):
                await engine.grant(10)
            rig.wait(11)
            await engine.grant(10)

        assert LEASES_MAX > 3
        self.run(rig, work)

    def test_any_loop_may_call(self, rig):
        engine = rig.open()
        revisions = [asyncio.run(put(engine, f"{n}")) for n in range(3)]
        assert revisions == list(range(revisions[0], revisions[0] + 3))
        asyncio.run(engine.close())

    def test_against_a_perfect_model(self):
        run_machine(self.make, self.examples)


KEYS = strategies.sampled_from(["a", "a/1", "a/2", "b", "b/1"])
PREFIXES = strategies.sampled_from(["", "a", "a/", "b", "c"])


class Model:
    """What an engine should be: everything in lists, nothing bounded."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: dict[str, tuple[bytes, int, int]] = {}
        self.leases: dict[int, tuple[float, float]] = {}
        self.changes: list[Change] = []
        self.removed_at: dict[str, int] = {}
        self.removed_last = 0

    def write(self, writes: Sequence[Write]) -> None:
        effective = [w for w in writes if w.value is not None or w.key in self.entries]
        if not effective:
            return
        self.revision += 1
        for write in effective:
            if write.value is None:
                del self.entries[write.key]
                self.removed_at[write.key] = self.revision
            else:
                self.entries[write.key] = (write.value, self.revision, write.lease)
            self.changes.append(Change(write.key, write.value, self.revision))

    def end(self, lease: int) -> None:
        if lease in self.leases:
            del self.leases[lease]
            self.write([Write(key, None) for key, entry in self.entries.items() if entry[2] == lease])

    def expire(self, now: float) -> None:
        for lease, (_, ends) in sorted(self.leases.items(), key=lambda item: (item[1][1], item[0])):
            if ends <= now:
                self.end(lease)

    def revision_of(self, key: str) -> int:
        return self.entries[key][1] if key in self.entries else 0

    def pending(self, prefix: str, after: int) -> list[Change]:
        return [c for c in self.changes if c.revision > after and c.key.startswith(prefix)]

    def may_compact(self, pending: list[Change], logged: bool) -> bool:
        if not logged:
            return pending[0].revision <= self.removed_last
        return any(c.value is not None and self.removed_at.get(c.key, 0) > c.revision for c in pending)


def run_machine(make: Any, examples: int) -> None:
    """Two engines over one state and a model of it, under random calls."""

    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.rig: Rig = make()
            self.loop = asyncio.new_event_loop()
            self.model = Model()
            self.engines = [self.rig.open(), self.rig.open()]
            self.model.revision = self.do(self.engines[0].scan("")).revision
            self.began = self.model.revision
            self.watches: list[tuple[AsyncIterator[Sequence[Change]], str, int]] = []

        def teardown(self) -> None:
            for watch, _, _ in self.watches:
                self.do(watch.aclose())  # type: ignore[attr-defined]
            for engine in self.engines:
                self.do(engine.close())
            self.loop.close()
            self.rig.close()

        def do(self, work: Awaitable[T]) -> T:
            return self.loop.run_until_complete(work)  # type: ignore[arg-type]

        @rule(
            which=strategies.integers(0, 1),
            data=strategies.data(),
            checked=strategies.lists(strategies.tuples(KEYS, strategies.booleans()), max_size=2),
            written=strategies.dictionaries(
                KEYS, strategies.one_of(strategies.none(), strategies.binary(max_size=4)), max_size=3
            ),
        )
        def transact(self, which: int, data: Any, checked: Any, written: Any) -> None:
            self.model.expire(self.rig.now)
            checks = [
                Check(key, self.model.revision_of(key) + (0 if right else 1))
                for key, right in dict(checked).items()
            ]
            lease = data.draw(strategies.sampled_from([0, 0, *sorted(self.model.leases)]))
            writes = [Write(k, v, lease if v is not None else 0) for k, v in written.items()]
            outcome = self.do(self.engines[which].transact(checks, writes))
            assert outcome.done is all(right for _, right in dict(checked).items())
            if outcome.done:
                self.model.write(writes)
                if any(self.model.removed_at.get(w.key) == self.model.revision for w in writes):
                    self.model.removed_last = self.model.revision
            assert outcome.revision == self.model.revision

        @rule(which=strategies.integers(0, 1), ttl_s=strategies.integers(1, 20))
        def grant(self, which: int, ttl_s: int) -> None:
            self.model.expire(self.rig.now)
            lease = self.do(self.engines[which].grant(ttl_s))
            assert lease not in self.model.leases
            self.model.leases[lease] = (ttl_s, self.rig.now + ttl_s)

        def some_lease(self, data: Any) -> int:
            return data.draw(strategies.sampled_from([*sorted(self.model.leases), 12345]))  # type: ignore[no-any-return]

        @rule(which=strategies.integers(0, 1), data=strategies.data())
        def keep(self, which: int, data: Any) -> None:
            self.model.expire(self.rig.now)
            lease = self.some_lease(data)
            held = lease in self.model.leases
            assert self.do(self.engines[which].keep(lease)) is held
            if held:
                ttl_s, _ = self.model.leases[lease]
                self.model.leases[lease] = (ttl_s, self.rig.now + ttl_s)

        @rule(which=strategies.integers(0, 1), data=strategies.data())
        def revoke(self, which: int, data: Any) -> None:
            self.model.expire(self.rig.now)
            lease = self.some_lease(data)
            self.do(self.engines[which].revoke(lease))
            self.model.end(lease)

        @rule(seconds=strategies.sampled_from([0.5, 3, 15]))
        def wait(self, seconds: float) -> None:
            self.rig.wait(seconds)

        @rule(which=strategies.integers(0, 1), prefix=PREFIXES, back=strategies.integers(0, 6))
        def watch(self, which: int, prefix: str, back: int) -> None:
            if len(self.watches) < 4:
                self.model.expire(self.rig.now)
                after = max(self.began, self.model.revision - back)
                self.watches.append((self.engines[which].watch(prefix, after), prefix, after))

        @precondition(lambda self: self.watches)
        @rule(data=strategies.data())
        def follow(self, data: Any) -> None:
            self.model.expire(self.rig.now)
            number = data.draw(strategies.integers(0, len(self.watches) - 1))
            watch, prefix, after = self.watches[number]
            pending = self.model.pending(prefix, after)
            if not pending:
                return
            try:
                told = self.do(take(watch, len(pending)))
            except Compacted:
                assert self.model.may_compact(pending, self.rig.logged)
                self.watches.pop(number)
                return
            assert _sorted(told) == _sorted(pending)
            self.watches[number] = (watch, prefix, pending[-1].revision)

        @invariant()
        def same(self) -> None:
            self.model.expire(self.rig.now)
            for engine in self.engines:
                scan = self.do(engine.scan(""))
                assert scan.revision == self.model.revision
                assert {e.key: (e.value, e.revision) for e in scan.entries} == {
                    key: entry[:2] for key, entry in self.model.entries.items()
                }

    Machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, database=None
    )
    Machine.TestCase().runTest()


def _sorted(changes: Sequence[Change]) -> list[tuple[int, str, bytes | None]]:
    revisions = [c.revision for c in changes]
    assert revisions == sorted(revisions)
    return sorted((c.revision, c.key, c.value) for c in changes)
