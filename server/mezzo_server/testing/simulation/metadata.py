"""The metadata engine of a simulated pod: the one in memory, behind a network, with everything that goes wrong with it.

Real: `MemoryEngine` (which passes the contract that etcd's passes), and `pod.driving.perform`.  Simulated: the way
to it, its outages, and the thread that drives a machine of the pod.

Fault model: *away*: nothing is done, and who asks is told so after a while, or at once.  *An answer is lost*: what was
asked was done.  *Slow*: everything takes long.  *Compacted*: a watch cannot go on from where it was.  *Another
leader*: calls under way end as lost, and all leases begin anew, as etcd does it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from mezzo.errors import FormatError, MezzoError, Unavailable
from mezzo_server.metadata.engine import Change, Check, Engine, Entry, Outcome, Scan, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.pod.driving import perform
from mezzo_server.pod.steps import End as NothingMore
from mezzo_server.pod.steps import Machine, Wait, Watch
from mezzo_server.testing.simulation.clockwork import Clockwork, Future, Process, Task, done
from mezzo_server.testing.simulation.network import Host, Network

T = TypeVar("T")

CALL_S = 2.0
"""after which who asks is told that there was no answer"""
WATCH_GAP_S = 0.1
CLOCK_S = 0.002


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of what waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("it waits")


class News(Future[None]):
    """What a watch waits for."""

    def __init__(self, process: Process, prefix: str) -> None:
        super().__init__(process)
        self.prefix = prefix
        self.waits = False
        """whether it has seen all so far: what is written elsewhere is nothing that it could miss"""
        self.after = 0
        """revision up to which that is so, as of the last write elsewhere"""


class Metadata:
    """The engine, and who watches it. Owner of its faults, and of what is truly so of leases."""

    def __init__(self, clockwork: Clockwork, network: Network, seed: str, changes_max: int) -> None:
        self.clockwork = clockwork
        self.network = network
        self.host = Host("etcd")
        self.random = random.Random(f"{seed}/metadata")
        self.engine = MemoryEngine(lambda: clockwork.now, changes_max)
        self.away = 0
        """by so many faults"""
        self.slow_s = 0.0
        self.lost_part = 0.0
        """of answers that are lost"""
        self.broken = 0
        """raised whenever calls and watches under way break off"""
        self.on_write: Callable[[Sequence[Write]], None] = lambda writes: None
        self._ends: dict[int, float] = {}
        self._ttl_s: dict[int, float] = {}
        self._lease_of: dict[str, int] = {}
        self._watching: list[News] = []

    def holds(self, key: str) -> bool:
        """Whether a key that lies under a lease is there at this moment, by true time."""
        lease = self._lease_of.get(key)
        return lease is not None and self._ends.get(lease, 0.0) > self.clockwork.now

    def reached_from(self, host: Host) -> bool:
        """Whether anything comes through now, there and back."""
        passes = self.network.passes
        return not self.away and passes(host, self.host) and passes(self.host, host)

    def value(self, key: str) -> Entry | None:
        """What is stored, looked at behind everybody's back."""
        return at_once(self.engine.get(key))

    def write(self, writes: Sequence[Write]) -> None:
        """Somebody writes, at once: an operator."""
        self.apply("transact", ([], writes))

    def apply(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Do it, now."""
        before = self.engine._revision
        result = at_once(getattr(self.engine, method)(*arguments))
        now = self.clockwork.now
        if method == "grant":
            self._ttl_s[result] = arguments[0]
            self._begin(result)
        elif method == "keep" and result:
            self._begin(arguments[0])
        elif method == "revoke":
            self._ends.pop(arguments[0], None)
        elif method == "transact" and result.done:
            for write in arguments[1]:
                self._lease_of.pop(write.key, None)
                if write.lease and write.value is not None:
                    self._lease_of[write.key] = write.lease
            if arguments[1]:
                told = ", ".join(
                    f"{w.key[:20]}{'' if w.value is not None else ' (gone)'}" for w in arguments[1]
                )
                self.clockwork.trace.add(now, "etcd", f"wrote {told}")
                self.on_write(arguments[1])
        if self.engine._revision != before:
            self.told([write.key for write in arguments[1]] if method == "transact" else None)
        return result

    def told(self, keys: Sequence[str] | None = None) -> None:
        """Whoever watches one of these keys looks; None: whoever watches anything."""
        watching, self._watching = self._watching, []
        for news in watching:
            if keys is None or any(key.startswith(news.prefix) for key in keys):
                news.finish(None)
            else:
                self._watching.append(news)
                if news.waits:
                    news.after = self.engine._revision

    def news(self, process: Process, prefix: str) -> News:
        """Finished at the next write of a key that begins so."""
        news = News(process, prefix)
        self._watching.append(news)
        return news

    def compact(self) -> None:
        """Forget all changes so far: a watch that is behind has to begin anew."""
        engine = self.engine
        engine._compacted = engine._revision
        engine._changes.clear()

    def another_leader(self) -> None:
        """Calls under way are lost; leases begin anew."""
        self.break_off()
        for lease, ends in sorted(self._ends.items()):
            if ends > self.clockwork.now and at_once(self.engine.keep(lease)):
                self._begin(lease)

    def break_off(self) -> None:
        """Watches end, and answers under way are lost."""
        self.broken += 1
        self.told()

    def _begin(self, lease: int) -> None:
        self._ends[lease] = self.clockwork.now + self._ttl_s[lease]
        self.clockwork.at(self._ends[lease] + 1e-6, self._expire, lease)

    def _expire(self, lease: int) -> None:
        if self._ends.get(lease, float("inf")) > self.clockwork.now:
            return  # it was kept
        self._ends.pop(lease, None)
        at_once(self.engine.get("pod/plan"))  # any call has it look at its leases
        self.clockwork.trace.add(self.clockwork.now, "etcd", f"lease {lease} has ended")
        self.told()


class NearEngine(Engine):
    """The engine as an operator has it: at once, behind everybody's back. What is done waits for nothing."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    async def get(self, key: str) -> Entry | None:
        """See `Engine`."""
        return await self._metadata.engine.get(key)

    async def scan(self, prefix: str) -> Scan:
        """See `Engine`."""
        return await self._metadata.engine.scan(prefix)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        """See `Engine`."""
        outcome: Outcome = self._metadata.apply("transact", (checks, writes))
        return outcome

    async def grant(self, ttl_s: float) -> int:
        """See `Engine`."""
        raise NotImplementedError

    async def keep(self, lease: int) -> bool:
        """See `Engine`."""
        raise NotImplementedError

    async def revoke(self, lease: int) -> None:
        """See `Engine`."""
        raise NotImplementedError

    def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        """See `Engine`."""
        raise NotImplementedError

    async def close(self) -> None:
        """See `Engine`."""


class FarEngine(Engine):
    """The engine as a process reaches it over the network."""

    def __init__(self, metadata: Metadata, process: Process, host: Host) -> None:
        self._metadata = metadata
        self._process = process
        self._host = host

    async def get(self, key: str) -> Entry | None:
        """See `Engine`."""
        found: Entry | None = await self._ask("get", key)
        return found

    async def scan(self, prefix: str) -> Scan:
        """See `Engine`."""
        found: Scan = await self._ask("scan", prefix)
        return found

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        """See `Engine`."""
        outcome: Outcome = await self._ask("transact", checks, writes)
        return outcome

    async def grant(self, ttl_s: float) -> int:
        """See `Engine`."""
        lease: int = await self._ask("grant", ttl_s)
        return lease

    async def keep(self, lease: int) -> bool:
        """See `Engine`."""
        alive: bool = await self._ask("keep", lease)
        return alive

    async def revoke(self, lease: int) -> None:
        """See `Engine`."""
        await self._ask("revoke", lease)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        """See `Engine`."""
        metadata = self._metadata
        began = metadata.broken
        news: News | None = None
        while True:
            if news is None or news.done:
                news = metadata.news(self._process, prefix)
            news.waits = False
            await self._process.sleep(self._trip_s())
            if metadata.broken != began or not metadata.reached_from(self._host):
                raise Unavailable("the watch broke off")
            look = at_once(metadata.engine.look(prefix, max(after, news.after), None, more=True))
            if look is not None:
                after = look.revision
                if look.changes:
                    await self._process.sleep(self._trip_s())
                    yield look.changes
                    continue
            news.waits = True
            await done(self._process, news, 5.0)

    async def close(self) -> None:
        """See `Engine`."""

    def _trip_s(self) -> float:
        metadata = self._metadata
        return (
            metadata.network.delay_s(self._host, metadata.host) + metadata.slow_s * metadata.random.random()
        )

    async def _ask(self, method: str, *arguments: Any) -> Any:
        metadata, process = self._metadata, self._process
        answer: Future[Any] = Future(process)
        metadata.clockwork.after(self._trip_s(), self._arrive, method, arguments, answer)
        if not await done(process, answer, CALL_S):
            raise Unavailable("the metadata engine does not answer")
        return answer.result()

    def _arrive(self, method: str, arguments: tuple[Any, ...], answer: Future[Any]) -> None:
        """The request reaches the engine, whatever has become of who asked."""
        metadata = self._metadata
        if metadata.away or not metadata.network.passes(self._host, metadata.host):
            if metadata.random.random() < 0.5:
                metadata.clockwork.after(self._trip_s(), answer.fail, Unavailable("no engine is there"))
            return
        began = metadata.broken
        outcome: Any
        try:
            outcome = metadata.apply(method, arguments)
        except MezzoError as error:
            outcome = error
        lost = metadata.random.random() < metadata.lost_part
        metadata.clockwork.after(self._trip_s(), self._return, outcome, answer, began, lost)

    def _return(self, outcome: Any, answer: Future[Any], began: int, lost: bool) -> None:
        metadata = self._metadata
        if lost or metadata.broken != began:
            answer.fail(Unavailable("the connection broke before the answer came"))
        elif metadata.away or not metadata.network.passes(metadata.host, self._host):
            return
        elif isinstance(outcome, MezzoError):
            answer.fail(outcome)
        else:
            answer.finish(outcome)


class Driver:
    """Does what a machine wants, as `pod.driving.Driver` does in its thread. Owner of one thread's coroutines."""

    def __init__(
        self, process: Process, machine: Machine, engine: FarEngine, moved: Callable[[], None]
    ) -> None:
        """``moved`` is called whenever the machine may have come to know something."""
        self._process = process
        self._machine = machine
        self._engine = engine
        self._moved = moved
        self._woken: Future[None] = Future(process)
        self._following: Task[None] | None = None
        self._watches = 0
        """the number of the watch that counts"""
        self.ended = False
        process.run(self._run())

    def call(self, work: Callable[[], None]) -> None:
        """Have something done to the machine, in its thread."""
        self._process.soon(self._called, work)

    def _called(self, work: Callable[[], None]) -> None:
        work()
        self._wake()

    def _wake(self) -> None:
        self._woken.finish(None)

    async def _run(self) -> None:
        process, machine = self._process, self._machine
        while True:
            self._moved()
            step = machine.next_step(process.now(), process.wall_s())
            if isinstance(step, NothingMore):
                self.ended = True
                self._watches += 1
                return
            wanted = machine.watch
            if wanted is None:
                self._watches += 1
                self._following = None
            elif self._following is None or self._following.done:
                self._watches += 1
                self._following = process.run(self._follow(wanted, self._watches))
            if isinstance(step, Wait):
                # Its clock and the true time differ: what is a moment too early would be asked again at once.
                seconds = None if step.seconds is None else step.seconds + CLOCK_S
                await done(process, self._woken, seconds)
                if self._woken.done:
                    self._woken = Future(process)
                continue
            try:
                await perform(machine, self._engine, step, process.now)
            except MezzoError as error:
                machine.failed(error, process.now())

    async def _follow(self, wanted: Watch, number: int) -> None:
        process, machine = self._process, self._machine
        try:
            async for changes in self._engine.watch(wanted.prefix, wanted.after):
                if self._watches != number:
                    return
                machine.changed(changes, process.now())
                self._moved()
                self._wake()
        except FormatError as error:
            machine.failed(error, process.now())
        except MezzoError:
            pass  # told below
        await process.sleep(WATCH_GAP_S)
        if self._watches == number:
            machine.watch_ended(process.now())
            self._wake()
