"""A simulated client: the SDK's own calls, sessions and ways to shards, driven in virtual time.

Real: `mezzo.calls`, `moves`, `spread`, `routing`, `reaching`, `session` and all below.  Simulated: what the
drivers `async_performing`, `async_opening` and `asyncio_link` do, which this follows step by step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from mezzo import calls, moves
from mezzo.address import Address
from mezzo.calls import Call, CatchUp, Connect, Follow, Run, Step, Together
from mezzo.connecting import Surroundings
from mezzo.credentials import Ticket
from mezzo.driving import drive_async
from mezzo.errors import (
    ClientClosed,
    ConnectionLost,
    DeadlineExceeded,
    MezzoError,
    ProtocolError,
    Unavailable,
)
from mezzo.frontend import opened as sessions
from mezzo.operations import Operation, State
from mezzo.pod import KnownPod, MapTold
from mezzo.pod_link import MET_MAX, Ways, hello, not_met
from mezzo.reaching import EndProxy, OpeningStep, OpenPod, OpenProxy, OpenShard, Pause, Reaching, ToShard
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult
from mezzo.session import Session
from mezzo.tls import TLS
from mezzo_server.testing.simulation.clockwork import Future, Lock, Process, Task, all_done, any_done
from mezzo_server.testing.simulation.frontend import Calls
from mezzo_server.testing.simulation.network import End, Host, Network

T = TypeVar("T")


class Link:
    """A stream and its session, as `asyncio_link.AsyncioLink`. Owner of both."""

    direct = True
    spread = None

    def __init__(self, end: End, session: Session, process: Process) -> None:
        self.session = session
        self._end = end
        self._process = process
        self._greeting: Future[None] | None = None
        self._ended = False
        end.received = self._received
        end.ended = self._lost

    async def greet(self, timeout_s: float) -> None:
        """Exchange hello and welcome."""
        self._greeting = Future(self._process)
        self._flush()
        if not await all_done(self._process, [self._greeting], timeout_s):
            raise DeadlineExceeded("the server did not answer the hello in time")
        if self.session.failure is not None:
            raise self.session.failure

    async def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit operations and wait for all of them."""
        try:
            for operation in operations:
                operation.deadline = deadline
                self.session.submit(operation)
            self._settle()
            self._flush()
            if not await self._wait(operations, deadline - self._process.now()):
                raise DeadlineExceeded("no answer within the time of the call")
        except MezzoError as error:
            await self._abandon(operations, error, grace_s)
            raise
        for operation in operations:
            if operation.error is not None:
                raise operation.error from None

    def end(self, error: MezzoError) -> None:
        """End the connection."""
        if self._ended:
            return
        self._ended = True
        self._end.close()
        self.session.lose(error)
        self._settle()

    async def _wait(self, operations: Sequence[Operation], timeout_s: float) -> bool:
        wakers = []
        for operation in operations:
            operation.waker = None if operation.done else Future(self._process)
            if operation.waker is not None:
                wakers.append(operation.waker)
        return await all_done(self._process, wakers, timeout_s)

    async def _abandon(self, operations: Sequence[Operation], error: MezzoError, grace_s: float) -> None:
        for operation in operations:
            self.session.cancel(operation, error)
        self._settle()
        self._flush()
        begun = [operation for operation in operations if operation.state is not State.NEW]
        if not await self._wait(begun, grace_s):
            self.end(ConnectionLost(f"the server did not cancel a request within {grace_s} s"))

    def _settle(self) -> None:
        finished = self.session.finished
        for operation in finished:
            if operation.waker is not None:
                operation.waker.finish(None)
        finished.clear()
        greeting = self._greeting
        if greeting is not None and (self.session.welcome or self.session.failure):
            greeting.finish(None)

    def _flush(self) -> None:
        queue = self.session.outgoing
        pieces: list[bytes] = []
        while queue and not self._ended:
            buffers, _ = queue.gather()
            if not buffers:
                break
            pieces.extend(bytes(buffer) for buffer in buffers)
            queue.sent(sum([len(buffer) for buffer in buffers]))
        if pieces:
            self._end.send(b"".join(pieces))

    def _received(self, data: bytes) -> None:
        session = self.session
        at = 0
        try:
            while at < len(data) and not self._ended:
                buffer = session.buffer()
                count = min(len(buffer), len(data) - at)
                buffer[:count] = data[at : at + count]
                session.received(count)
                at += count
                while (event := session.next_event()) is not None:
                    session.handle(event)
        except ProtocolError as error:
            self.end(error)
            raise RuntimeError(f"a shard broke the protocol: {error}") from error
        if session.refused is not None:
            self.end(session.refused)
            return
        self._settle()
        self._flush()

    def _lost(self) -> None:
        self.end(self.session.ended())


class Proxied:
    """A session at a front-end, as far as ways to shards are made of it."""

    direct = False
    spread = None

    def __init__(self, opened: sessions.Opened, namespace: str) -> None:
        self.opened = opened
        self.namespace_name = namespace

    def ticket(self) -> Ticket:
        """What opens the shards."""
        return sessions.ticket(self.opened)

    @property
    def map_told(self) -> MapTold:
        """Of the pod's shards."""
        return self.opened.map_told

    def ways(self) -> list[tuple[Address, bytes]]:
        """Of the only shard, if there is one."""
        return sessions.ways(self.opened.shards)

    def end(self, error: MezzoError) -> None:
        """Nothing is held."""


class Performing(Reaching):
    """Performs steps in virtual time. One process."""

    _process: Process
    _host: Host
    _network: Network
    _calls: Calls
    _tenant: str
    """who it says that it is, to front-ends"""
    _link: Any = None
    _connecting: Lock | None = None

    async def _perform(self, call: Call[T], timeout_s: float) -> T:
        return await drive_async(call, self._take, self._process.now() + timeout_s)

    async def _take(self, step: Step, deadline: float, grace_s: float | None = None) -> object:
        if isinstance(step, Connect):
            return await self._connected(deadline)
        if isinstance(step, Run):
            link: Any = step.link
            try:
                await link.run(step.operations, deadline, self.cancel_grace_s if grace_s is None else grace_s)
            except MezzoError as error:
                raise self._run_failed(link, error) from None
            return None
        if isinstance(step, Together):
            pod_link: Any = step.link
            return await pod_link.together(step.parts, *pod_link.in_time(deadline, self.cancel_grace_s))
        if isinstance(step, Follow | CatchUp):
            opens, limit = self._about_map(step, deadline)
            await drive_async(opens, self._make, limit)
            over: Any = step.link
            over.end_leavers()
            return None
        if isinstance(step, calls.Pause):
            left_s = deadline - self._process.now()
            await self._process.sleep(max(0.0, min(step.seconds, left_s / 2)))
            return None
        raise RuntimeError(f"{step!r} is not needed over streams")

    async def _connected(self, deadline: float) -> Any:
        """See `async_opening.AsyncOpening._connected`."""
        link = self._link
        if link is not None and link.session.failure is None:
            return link
        if self._connecting is None:
            self._connecting = Lock(self._process)
        now = self._process.now
        if not await self._connecting.acquire(deadline - now()):
            raise DeadlineExceeded("another task is still connecting")
        try:
            limit = min(deadline, now() + self.connect_timeout_s)
            return await drive_async(self._connect(limit), self._make, limit)
        finally:
            self._connecting.release()

    async def _make(self, step: OpeningStep, deadline: float) -> object:
        if isinstance(step, OpenShard):
            return await self._open_shard(step.address, deadline)
        if isinstance(step, OpenProxy):
            return await self._open_proxy(step, deadline)
        if isinstance(step, OpenPod):
            return await self._open_pod(step.pod, deadline)
        if isinstance(step, Pause):
            await self._process.sleep(step.seconds)
        elif not isinstance(step, EndProxy):
            raise RuntimeError(f"{step!r} is no step on the way to a connection")
        return None

    async def _open_proxy(self, step: OpenProxy, deadline: float) -> Proxied:
        now = self._process.now
        limit_s = max(0.001, (deadline - now()) / step.share)
        asked = self._calls.open_session(
            self._process,
            self._host,
            str(step.address),
            sessions.request(self.name, "", step.had),
            self._tenant,
        )
        try:
            if not await all_done(self._process, [asked], limit_s):
                raise DeadlineExceeded("no answer in time")
            return Proxied(sessions.opened(asked.result(), now()), self.namespace_name)
        except MezzoError as error:
            raise sessions.not_opened(step.address, error) from None

    async def _open_shard(self, address: Address, deadline: float) -> Link:
        now = self._process.now
        opening = self._network.connect(self._process, self._host, str(address))
        if not await all_done(self._process, [opening], max(0.001, deadline - now())):
            opening.fail(ConnectionLost("it came too late"))
            raise Unavailable(f"cannot connect to {address}: timed out")
        link = Link(opening.result(), self._new_session(address), self._process)
        try:
            await link.greet(max(0.0, deadline - now()))
        except DeadlineExceeded as error:
            link.end(ConnectionLost("the server did not answer the hello in time"))
            raise Unavailable(f"{address} did not answer the hello in time") from error
        except MezzoError:
            link.end(ConnectionLost("the hello failed"))
            raise
        return link

    async def _open_pod(self, pod: KnownPod, deadline: float) -> PodLink:
        template = {**self.__dict__, "_link": None}

        def make(shard: bytes) -> ShardWay:
            return ShardWay.of(template, pod, shard)

        link = PodLink(pod, make, self._surroundings, self._counters, str(self.address))
        link.process = self._process
        try:
            await link.meet(deadline)
        except MezzoError:
            link.end(ClientClosed("no shard was reached"))
            raise
        return link


class ShardWay(ToShard, Performing):
    """A way to one shard, as `async_performing.AsyncShardWay`."""

    _attempt: Task[Any] | None = None

    @classmethod
    def of(cls, template: dict[str, Any], pod: KnownPod, shard: bytes) -> ShardWay:
        """Of a client that is as ``template`` has it."""
        way = cls.__new__(cls, "")
        way.__dict__.update(template)
        way._begin_connection()
        way._connecting = None
        way._known, way._shard = pod, shard
        return way

    async def perform(self, call: Call[T], deadline: float, grace_s: float) -> T:
        """One call of this shard."""

        async def take(step: Step, deadline: float) -> object:
            return await self._take(step, deadline, grace_s)

        return await drive_async(call, take, deadline)

    async def _connected(self, deadline: float) -> Any:
        link = self._link
        if link is not None and link.session.failure is None:
            return link
        self._check_usable()
        now = self._process.now
        if self._attempt is None or self._attempt.done:
            self._check_backoff()
            self._attempt = self._process.run(super()._connected(now() + self.connect_timeout_s))
        attempt = self._attempt
        left_s = deadline - now()
        waits_s = min(left_s, self.patience_s)
        if not await all_done(self._process, [attempt], waits_s):
            raise self._not_connected(left_s, waits_s)
        return attempt.result()


class PodLink(Ways[ShardWay]):
    """All shards of a pod, as `async_performing.AsyncPodLink`."""

    process: Process

    async def together(
        self, parts: Sequence[tuple[bytes, Call[Any]]], deadline: float, grace_s: float
    ) -> list[Any]:
        """See `calls.Together`."""

        async def outcome(shard: bytes, call: Call[Any]) -> Any:
            try:
                return await self._way(shard).perform(call, deadline, grace_s)
            except MezzoError as error:
                return error

        if len(parts) == 1:
            return [await outcome(*parts[0])]
        tasks = [self.process.run(outcome(*part)) for part in parts]
        await all_done(self.process, tasks)
        return [task.result() for task in tasks]

    async def meet(self, deadline: float) -> None:
        """Have one of the shards answer, who all know the ids of a namespace. Raises MezzoError: none does."""
        shards = self._strangers()
        errors: list[MezzoError] = []
        for start in range(0, len(shards), MET_MAX):
            left = [
                self.process.run(self._way(shard).perform(hello(), deadline, 0.0))
                for shard in shards[start : start + MET_MAX]
            ]
            while left:
                await any_done(self.process, left)
                done = [task for task in left if task.done]
                left = [task for task in left if not task.done]
                for task in done:
                    if task.error is None:
                        return
                    if isinstance(task.error, MezzoError):
                        errors.append(task.error)
        raise not_met(errors)


class Client(Performing):
    """A client of a simulated pod; its calls are coroutines of its process."""

    @classmethod
    def made(
        cls,
        process: Process,
        host: Host,
        network: Network,
        frontend_calls: Calls,
        frontends: Sequence[str],
        random: Any,
        *,
        tenant: str,
        timeout_s: float,
    ) -> Client:
        """A tenant's client that knows these front-ends."""
        client = cls(
            list(frontends),
            name=process.name,
            timeout_s=timeout_s,
            shm=False,
            via="direct",
            tls=TLS(),
            token="",
            surroundings=Surroundings(process.now, random, _never),
        )
        client._process, client._host = process, host
        client._network, client._calls, client._tenant = network, frontend_calls, tenant
        return client

    async def put(self, keys: Iterable[bytes], sources: Sequence[bytes], timeout_s: float) -> PutResult:
        """See `mezzo.Client.put`."""
        return await self._perform(moves.put(self._context, keys, sources, None, 0, None, 0), timeout_s)

    async def get(self, keys: Iterable[bytes], targets: Sequence[bytearray], timeout_s: float) -> GetResult:
        """See `mezzo.Client.get`."""
        return await self._perform(moves.get(self._context, keys, targets, None), timeout_s)

    async def lookup(self, keys: Iterable[bytes], timeout_s: float) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        return await self._perform(calls.lookup(self._context, keys), timeout_s)

    async def delete(self, keys: Iterable[bytes], timeout_s: float) -> DeleteResult:
        """See `mezzo.Client.delete`."""
        return await self._perform(calls.delete(self._context, keys), timeout_s)

    @property
    def pod(self) -> KnownPod | None:
        """What it knows of the pod."""
        return self._pod

    def forget_connections(self) -> None:
        """Its process ends."""
        link, self._link = self._link, None
        if link is not None:
            link.end(ClientClosed("the client was closed"))


def _never(seconds: float) -> None:
    raise RuntimeError("nothing sleeps here")
