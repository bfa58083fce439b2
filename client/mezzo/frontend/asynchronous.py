"""A front-end in the place of a connection, driven by an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from mezzo.address import Address
from mezzo.credentials import Bearer, Ticket
from mezzo.errors import MezzoError
from mezzo.frontend import opened as sessions
from mezzo.frontend.exchange import (
    SESSION_SERVICE,
    UNARY_METHODS,
    Receiving,
    get_request,
    path,
    put_messages,
    take_put,
    unary,
)
from mezzo.frontend.link import channel_credentials, left_to_parent
from mezzo.frontend.naming import NAMESPACE_SERVICE, OPEN_NAMESPACE, open_request, opened_name
from mezzo.frontend.opened import Opened, ProxySession
from mezzo.frontend.options import channel_options, name_options
from mezzo.frontend.status import understand
from mezzo.identity import Identity
from mezzo.operations import Operation
from mezzo.pod import NO_MAP, MapHad, MapTold
from mezzo.statistics import Counters
from mezzo.tls import TLS
from mezzo.transfers import Get, Put


class AsyncProxyLink:
    """A gRPC channel to a front-end, and the session that was opened. Owner of both; see `open`."""

    direct = False
    """whether it leads to a shard itself"""
    spread = None
    """the calls over its shards, if it stands for several: the front-end spreads them itself"""
    asynchronous = True
    """which kind of client it belongs to"""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        opened: Opened,
        session: ProxySession,
        namespace: str,
        now: Callable[[], float],
        bearer: Bearer,
    ) -> None:
        self.opened = opened
        self.session = session
        self.namespace_name = namespace
        """what the front-end calls it"""
        self._now = now
        self._bearer = bearer
        self._loop = asyncio.get_running_loop()
        self._channel: grpc.aio.Channel | None = channel
        self._unary: dict[str, Any] = {name: channel.unary_unary(path(name)) for name in UNARY_METHODS}
        self._get: Any = channel.unary_stream(path("Get"))
        self._put: Any = channel.stream_unary(path("Put"))
        self._calls: set[Any] = set()

    @classmethod
    async def open(
        cls,
        address: Address,
        tls: TLS,
        *,
        namespace: str,
        identity: Identity | None,
        client_name: str,
        counters: Counters,
        now: Callable[[], float],
        timeout_s: float,
        bearer: Bearer,
        had: MapHad = NO_MAP,
    ) -> Self:
        """Open a session.

        Raises:
            MezzoError: what the front-end refused with; `ConnectionLost` if it cannot be reached.
        """
        await _freshen(bearer)
        target = address.target
        if address.is_encrypted:
            options = [*channel_options(), *name_options(address, tls)]
            channel = grpc.aio.secure_channel(target, channel_credentials(tls), options)
        else:
            channel = grpc.aio.insecure_channel(target, channel_options())
        try:
            call: Any = channel.unary_unary(path("OpenSession", SESSION_SERVICE))
            request = sessions.request(client_name, namespace if identity is None else "", had)
            answer = await call(request, timeout=timeout_s, metadata=bearer.metadata())
            opened = sessions.opened(answer, now())
            if identity is not None:
                call = channel.unary_unary(path(OPEN_NAMESPACE, NAMESPACE_SERVICE))
                answer = await call(
                    open_request(namespace, identity), timeout=timeout_s, metadata=bearer.metadata()
                )
                namespace = opened_name(answer)
        except grpc.aio.AioRpcError as error:
            await channel.close()
            raise sessions.not_opened(address, _error(error)) from None
        except BaseException:
            await channel.close()
            raise
        return cls(channel, opened, ProxySession(opened, target, counters, now), namespace, now, bearer)

    async def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Make the calls, one after the other; raises the first error of theirs.

        A call that is given up leaves nothing behind: whatever the front-end still sends is dropped.
        """
        for operation in operations:
            await _freshen(self._bearer)
            left_s = deadline - self._now()
            self.session.begin(operation, left_s)
            try:
                await self._perform(operation, left_s)
            except grpc.aio.AioRpcError as error:
                raise self.session.failed(_error(error)) from None
            except (asyncio.CancelledError, grpc.aio.UsageError):
                # Of our own ending, unless somebody cancels the task.
                task = asyncio.current_task()
                if self.session.failure is None or (task is not None and task.cancelling()):
                    raise
                raise self.session.failed(self.session.failure) from None
            finally:
                self.session.finish(operation)

    async def close(self, error: MezzoError) -> None:
        """As `end`, and wait until the connection is closed."""
        channel = self._channel
        self.end(error)
        if channel is not None:
            await channel.close()

    def ticket(self) -> Ticket:
        """What opens the shard."""
        return sessions.ticket(self.opened)

    @property
    def map_told(self) -> MapTold:
        """Of the pod's shards; empty: there is one."""
        return self.opened.map_told

    def ways(self) -> list[tuple[Address, bytes]]:
        """Addresses of the shard, to be tried in order, and the incarnation that answers there."""
        return sessions.ways(self.opened.shards)

    def end(self, error: MezzoError) -> None:
        """End it: calls under way fail."""
        self.session.lose(error)
        for call in tuple(self._calls):
            call.cancel()
        # Nobody may be there to wait for `close`; the channel ends with its last reference.
        self._channel = None

    def end_from_anywhere(self, error: MezzoError) -> None:
        """As `end`, from any thread and whether or not the loop still runs."""
        try:
            self._loop.call_soon_threadsafe(self.end, error)
        except RuntimeError:  # the loop is closed
            self.session.lose(error)

    def close_descriptors(self) -> None:
        """In a forked child: nothing of the parent's is touched."""
        left_to_parent.append(self._channel)

    async def _perform(self, operation: Operation, timeout_s: float) -> None:
        metadata = self._bearer.metadata()
        if isinstance(operation, Get):
            await self._receive(operation, timeout_s)
        elif isinstance(operation, Put):
            messages = put_messages(operation, self.namespace_name, self.opened.piece_bytes)
            take_put(operation, await self._finish(self._put(messages, timeout=timeout_s, metadata=metadata)))
        else:
            wanted = unary(operation, self.namespace_name)
            call = self._unary[wanted.method](wanted.request, timeout=timeout_s, metadata=metadata)
            wanted.take(await self._finish(call))

    async def _receive(self, operation: Get, timeout_s: float) -> None:
        receiving = Receiving(operation)
        request = get_request(operation, self.namespace_name)
        call = self._get(request, timeout=timeout_s, metadata=self._bearer.metadata())
        self._calls.add(call)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                receiving.take(message)
            receiving.finish()
        except BaseException:
            call.cancel()
            receiving.abandon()
            raise
        finally:
            self._calls.discard(call)

    async def _finish(self, call: Any) -> Any:
        self._calls.add(call)
        try:
            return await call
        finally:
            self._calls.discard(call)


async def _freshen(bearer: Bearer) -> None:
    """Have the caller's function give another token, off the loop: it may ask somebody for it."""
    if bearer.stale:
        await asyncio.get_running_loop().run_in_executor(None, bearer.refresh)


def _error(error: grpc.aio.AioRpcError) -> MezzoError:
    metadata = error.trailing_metadata() or ()
    return understand(error.code().value[0], error.details() or "", tuple(metadata))
