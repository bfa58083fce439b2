"""The gate of a front-end: no call passes without a caller, and nothing of it is decoded before.

`Calls` asks it for the services of ours; `Guard` puts it before all other services of a server, so that
one that is added later is an operator's until it is said to be anybody's.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog

from mezzo.errors import Busy, MezzoError
from mezzo_server.access.authentication import EVERYBODY, Authentication
from mezzo_server.access.principal import Principal, Refused
from mezzo_server.frontend.permissions import OPEN_PATHS, OPERATOR, TOOLS, Need, check

log = structlog.get_logger("mezzo.access")

AUTHORIZATION = "authorization"
CERTIFICATE = "x509_pem_cert"
"""as gRPC names the peer's certificate in the properties of a connection"""

STREAMS_MAX = 64
"""that services of others (health, reflection) keep open at a time, each server"""
STREAMS_HOST_MAX = 16
"""of one host: whoever watches our health has no credential to be told apart by"""
STREAMS_RETRY_S = 1.0

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Refuse: TypeAlias = Callable[[Context, MezzoError], Awaitable[None]]


class Gate:
    """Who comes through. Without an ``authentication`` everybody does."""

    def __init__(self, authentication: Authentication | None) -> None:
        self.authentication = authentication

    async def admit(self, context: Context, method: str, need: Need) -> Principal:
        """Who makes this call.

        Raises:
            Unauthenticated: nobody that we know.
            Denied: somebody who may not make it.
            Unavailable: who it is cannot be told now.
        """
        authentication = self.authentication
        if authentication is None:
            return EVERYBODY
        try:
            principal = await authentication.principal(_authorization(context), _certificate(context))
        except Refused as refused:
            log.info("a call was refused", method=method, peer=context.peer(), reason=refused.reason.value)
            raise
        check(principal, method, need)
        return principal


class Streams:
    """How many streams are open, in all and by host. Owner of the counts."""

    def __init__(self, most: int = STREAMS_MAX, host_most: int = STREAMS_HOST_MAX) -> None:
        self._most = most
        self._host_most = host_most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """One more for the block, of a peer as gRPC writes it. Raises Busy."""
        host = peer.rpartition(":")[0]
        if self._open.total() >= self._most or self._open[host] >= self._host_most:
            raise Busy(
                f"{self._open.total()} streams of health and reflection are open, {self._open[host]} of them of this "
                f"host; at most {self._most}, and {self._host_most} of one host",
                STREAMS_RETRY_S,
            )
        self._open[host] += 1
        try:
            yield
        finally:
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]


class Guard(grpc.aio.ServerInterceptor):
    """Asks a `Gate` before calls of services that `Calls` does not serve, and lets few of their streams stay open."""

    def __init__(self, gate: Gate, refuse: Refuse, served: tuple[str, ...]) -> None:
        """``served``: the services, by path up to the method, that ask the gate themselves."""
        self._gate = gate
        self._refuse = refuse
        self._served = served
        self._streams = Streams()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if handler is None or path.startswith(self._served):
            return handler
        if path.startswith(OPEN_PATHS):
            return self._guarded(handler, path, None) if handler.response_streaming else handler
        return self._guarded(handler, path, TOOLS.get(path, OPERATOR))

    def _guarded(self, handler: Any, path: str, need: Need | None) -> Any:
        """The handler, whose requests are decoded only after the gate was passed; without a ``need`` anybody passes."""
        decode = handler.request_deserializer or (lambda data: data)

        async def enter(context: Context) -> None:
            try:
                if need is not None:
                    await self._gate.admit(context, path, need)
            except MezzoError as error:
                await self._refuse(context, error)
                raise

        def requests(data: Any) -> Any:
            return _decoded(data, decode) if handler.request_streaming else decode(data)

        async def one(data: Any, context: Context) -> Any:
            await enter(context)
            answer = (handler.stream_unary or handler.unary_unary)(requests(data), context)
            return await answer if inspect.isawaitable(answer) else answer

        @asynccontextmanager
        async def stream(context: Context) -> AsyncIterator[None]:
            await enter(context)
            try:
                with self._streams.one(context.peer()):
                    yield
            except Busy as error:
                await self._refuse(context, error)
                raise

        streamed = handler.stream_stream or handler.unary_stream

        async def many(data: Any, context: Context) -> AsyncIterator[Any]:
            async with stream(context):
                async for answer in streamed(requests(data), context):
                    yield answer

        async def written(data: Any, context: Context) -> None:
            """Of a handler that writes its answers itself."""
            async with stream(context):
                await streamed(requests(data), context)

        make = _SHAPES[handler.request_streaming, handler.response_streaming]
        if not handler.response_streaming:
            return make(one, None, handler.response_serializer)
        several = written if inspect.iscoroutinefunction(streamed) else many
        return make(several, None, handler.response_serializer)


_SHAPES: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""by whether requests and answers are streams"""


async def _decoded(requests: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for data in requests:
        yield decode(data)


def _authorization(context: Context) -> list[str]:
    """All headers of that name. What is no text is no token."""
    found = []
    for key, value in context.invocation_metadata() or ():
        if key == AUTHORIZATION:
            found.append(value if isinstance(value, str) else "")
    return found


def bearer(context: Context) -> str:
    """The one secret that a caller shows as its bearer; empty: none, or several."""
    found = _authorization(context)
    scheme, _, shown = found[0].partition(" ") if len(found) == 1 else ("", "", "")
    return shown if scheme.lower() == "bearer" else ""


def _certificate(context: Context) -> bytes | None:
    """The client's certificate, which the handshake has verified; None: it showed none."""
    for certificate in context.auth_context().get(CERTIFICATE, ()):
        return bytes(certificate)
    return None
