"""A front-end in the place of a connection, driven by the threads that call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc

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

left_to_parent: list[object] = []
"""Channels of a forked child's parent: gRPC must not be called on them here, not even to close them."""


class ProxyLink:
    """A gRPC channel to a front-end, and the session that was opened. Owner of both."""

    direct = False
    """whether it leads to a shard itself"""
    spread = None
    """the calls over its shards, if it stands for several: the front-end spreads them itself"""
    blocking = True
    """which kind of client it belongs to"""

    def __init__(
        self,
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
    ) -> None:
        """Open a session.

        Raises:
            MezzoError: what the front-end refused with; `ConnectionLost` if it cannot be reached.
        """
        self.namespace_name = namespace
        """what the front-end calls it"""
        self._now = now
        self._bearer = bearer
        if bearer.stale:
            bearer.refresh()
        target = address.target
        if address.is_encrypted:
            options = [*channel_options(), *name_options(address, tls)]
            self._channel = grpc.secure_channel(target, channel_credentials(tls), options)
        else:
            self._channel = grpc.insecure_channel(target, channel_options())
        try:
            call: Any = self._channel.unary_unary(path("OpenSession", SESSION_SERVICE))
            request = sessions.request(client_name, namespace if identity is None else "", had)
            answer = call(request, timeout=timeout_s, metadata=bearer.metadata())
            self.opened: Opened = sessions.opened(answer, now())
            if identity is not None:
                call = self._channel.unary_unary(path(OPEN_NAMESPACE, NAMESPACE_SERVICE))
                answer = call(
                    open_request(namespace, identity), timeout=timeout_s, metadata=bearer.metadata()
                )
                self.namespace_name = opened_name(answer)
        except grpc.RpcError as error:
            self._channel.close()
            raise sessions.not_opened(address, _error(error)) from None
        except BaseException:
            self._channel.close()
            raise
        self.session = ProxySession(self.opened, target, counters, now)
        self._unary: dict[str, Any] = {name: self._channel.unary_unary(path(name)) for name in UNARY_METHODS}
        self._get: Any = self._channel.unary_stream(path("Get"))
        self._put: Any = self._channel.stream_unary(path("Put"))

    def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Make the calls, one after the other; raises the first error of theirs.

        A call that is given up leaves nothing behind: whatever the front-end still sends is dropped.
        """
        for operation in operations:
            left_s = deadline - self._now()
            if self._bearer.stale:
                self._bearer.refresh()
            self.session.begin(operation, left_s)
            try:
                self._perform(operation, left_s)
            except grpc.RpcError as error:
                raise self.session.failed(_error(error)) from None
            except ValueError:  # what gRPC says of a channel that was closed meanwhile
                if self.session.failure is None:
                    raise
                raise self.session.failed(self.session.failure) from None
            finally:
                self.session.finish(operation)

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
        self._channel.close()

    def close_descriptors(self) -> None:
        """In a forked child: leave it to the parent."""
        left_to_parent.append(self._channel)

    def _perform(self, operation: Operation, timeout_s: float) -> None:
        metadata = self._bearer.metadata()
        if isinstance(operation, Get):
            receiving = Receiving(operation)
            call = self._get(
                get_request(operation, self.namespace_name), timeout=timeout_s, metadata=metadata
            )
            try:
                for message in call:
                    receiving.take(message)
                receiving.finish()
            except BaseException:
                call.cancel()
                receiving.abandon()
                raise
        elif isinstance(operation, Put):
            messages = put_messages(operation, self.namespace_name, self.opened.piece_bytes)
            take_put(operation, self._put(messages, timeout=timeout_s, metadata=metadata))
        else:
            wanted = unary(operation, self.namespace_name)
            answer = self._unary[wanted.method](wanted.request, timeout=timeout_s, metadata=metadata)
            wanted.take(answer)


def channel_credentials(tls: TLS) -> grpc.ChannelCredentials:
    """Of the files as they are now. Raises InvalidArgument if one cannot be read."""
    return grpc.ssl_channel_credentials(*tls.pem())


def _error(error: Any) -> MezzoError:
    return understand(error.code().value[0], error.details() or "", error.trailing_metadata() or ())
