"""A simulated client: the SDK's own asynchronous client, on an event loop and sockets in virtual time.

Real: `mezzo.asynchronous`, `async_performing`, `async_opening`, `asyncio_link` and all that these drive.  Simulated: the
loop and the sockets (`virtual_loop`), and how a front-end is asked: gRPC is one message there, one back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from mezzo.address import Address
from mezzo.async_performing import AsyncPerforming, AsyncPodLink, AsyncShardWay
from mezzo.asynchronous import AsyncClient
from mezzo.connecting import Surroundings
from mezzo.credentials import Ticket
from mezzo.errors import ClientClosed, DeadlineExceeded, InternalError, MezzoError, ProtocolError
from mezzo.frontend import opened as sessions
from mezzo.pod import KnownPod, MapTold
from mezzo.reaching import OpenProxy
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult
from mezzo.session import Session
from mezzo.tls import TLS
from mezzo_server.testing.simulation.clockwork import Future, Process
from mezzo_server.testing.simulation.frontend import Calls
from mezzo_server.testing.simulation.network import End, Host, Network
from mezzo_server.testing.simulation.virtual_loop import VirtualLoop, VirtualSocket

T = TypeVar("T")


class At(NamedTuple):
    """Where a client is, and who."""

    loop: VirtualLoop
    process: Process
    host: Host
    calls: Calls
    tenant: str
    """who it says that it is, to front-ends"""


def surroundings(
    process: Process, loop: VirtualLoop, host: Host, network: Network, random: Callable[[], float]
) -> Surroundings:
    """Of a client in a process: its clock, chance, and way to the network."""

    def open_socket(address: Address, timeout_s: float) -> Future[VirtualSocket]:
        opened: Future[VirtualSocket] = Future(process)
        opening: Future[End] = network.connect(process, host, str(address))

        def came() -> None:
            if opening.error is not None:
                opened.fail(ConnectionRefusedError(str(opening.error)))
            else:
                opened.finish(VirtualSocket(loop, opening.result()))

        opening.then(came)
        return opened

    return Surroundings(process.now, random, _never, open_socket)  # type: ignore[arg-type]


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

    async def close(self, error: MezzoError) -> None:
        """Nothing is held."""


class Asking(AsyncPerforming):
    """Asks front-ends over the simulated network, and sees to it that no shard breaks the protocol."""

    at: At

    async def _link_to_proxy(self, step: OpenProxy, deadline: float) -> Any:
        at, now = self.at, self._surroundings.now
        message = sessions.request(self.name, "", step.had)
        asked = at.calls.open_session(at.process, at.host, str(step.address), message, at.tenant)
        try:
            async with asyncio.timeout(max(0.001, (deadline - now()) / step.share)):
                answer = await at.loop.of(asked)
            return Proxied(sessions.opened(answer, now()), self.namespace_name)
        except TimeoutError:
            raise sessions.not_opened(step.address, DeadlineExceeded("no answer in time")) from None
        except MezzoError as error:
            raise sessions.not_opened(step.address, error) from None

    async def _open_pod(self, pod: KnownPod, deadline: float) -> AsyncPodLink:
        """As `AsyncPerforming._open_pod`, with ways to shards that ask so, too."""
        outfit, at = self._outfit, self.at

        def make(shard: bytes) -> AsyncShardWay:
            way = ShardWay(outfit, pod, shard)
            way.at = at
            return way

        link = AsyncPodLink(pod, make, self._surroundings, self._counters, str(self.address))
        try:
            await link.meet(deadline)
        except BaseException:
            link.end(ClientClosed("no shard was reached"))
            raise
        return link

    def _new_session(self, address: Address) -> Session:
        return watched(super()._new_session(address))


class ShardWay(Asking, AsyncShardWay):
    """A way to one shard."""


def watched(session: Session) -> Session:
    """The same; it ends the run if what comes from the shard breaks the protocol, or is a fault to us."""
    lose = session.lose

    def lost(error: MezzoError) -> None:
        if isinstance(error, ProtocolError | InternalError) and error is not session.refused:
            raise RuntimeError(f"a shard broke the protocol: {error}")
        lose(error)

    session.lose = lost  # type: ignore[method-assign]
    return session


class Client(Asking, AsyncClient):
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
        loop = VirtualLoop(process)  # type: ignore[abstract]
        client = cls(
            list(frontends),
            name=process.name,
            timeout_s=timeout_s,
            shm=False,
            via="direct",
            tls=TLS(),
            token="",
            surroundings=surroundings(process, loop, host, network, random),
        )
        client.at = At(loop, process, host, frontend_calls, tenant)
        return client

    async def have_put(self, keys: Iterable[bytes], sources: Sequence[bytes], timeout_s: float) -> PutResult:
        """See `mezzo.Client.put`."""
        return await self._have(self.put(keys, sources, timeout_s=timeout_s))

    async def have_got(
        self, keys: Iterable[bytes], targets: Sequence[bytearray], timeout_s: float
    ) -> GetResult:
        """See `mezzo.Client.get`."""
        return await self._have(self.get(keys, targets, timeout_s=timeout_s))

    async def looked_up(self, keys: Iterable[bytes], timeout_s: float) -> LookupResult:
        """See `mezzo.Client.lookup`."""
        return await self._have(self.lookup(keys, timeout_s=timeout_s))

    async def have_deleted(self, keys: Iterable[bytes], timeout_s: float) -> DeleteResult:
        """See `mezzo.Client.delete`."""
        return await self._have(self.delete(keys, timeout_s=timeout_s))

    def forget_connections(self) -> None:
        """Its process ends."""
        link, self._link = self._link, None
        if link is not None:
            link.end(ClientClosed("the client was closed"))

    async def _have(self, work: Coroutine[Any, Any, T]) -> T:
        return await self.at.loop.have(work)


def _never(seconds: float) -> None:
    raise RuntimeError("nothing sleeps here")
