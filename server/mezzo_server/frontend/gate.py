"""The gate of a front-end: no call passes without a caller, and nothing of it is received before.

To gRPC all requests are streams here: of others it takes in the whole message before it asks us anything.  `Calls` asks it for the services of ours; `Guard` puts it before all other services of a server, so that
one that is added later is an operator's until it is said to be anybody's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog

from mezzo.errors import Busy, DeadlineExceeded, InvalidArgument, MezzoError
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
QUESTIONS_MAX = 256
QUESTIONS_HOST_MAX = 64
"""The same of calls with one answer: each is over at once, unless its message does not come."""
STALL_S = 20.0
"""for a request to come whole, unless the settings say otherwise"""
QUESTION_S = 5.0
"""the same, of a caller whom nobody knows"""

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

    def __init__(
        self, what: str = "streams", most: int = STREAMS_MAX, host_most: int = STREAMS_HOST_MAX
    ) -> None:
        """``what`` they are, in words for an error."""
        self._what = what
        self._most = most
        self._host_most = host_most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """One more for the block, of a peer as gRPC writes it. Raises Busy."""
        host = peer.rpartition(":")[0]
        if self._open.total() >= self._most or self._open[host] >= self._host_most:
            raise Busy(
                f"{self._open.total()} {self._what} of health and reflection are open, {self._open[host]} of them of "
                f"this host; at most {self._most}, and {self._host_most} of one host",
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
        self._questions = Streams("calls", QUESTIONS_MAX, QUESTIONS_HOST_MAX)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if handler is None or path.startswith(self._served):
            return handler
        need = None if path.startswith(OPEN_PATHS) else TOOLS.get(path, OPERATOR)
        return self._guarded(handler, path, need)

    def _guarded(self, handler: Any, path: str, need: Need | None) -> Any:
        """The handler, whose requests are received only after the gate was passed; without a ``need`` anybody passes."""
        decode = handler.request_deserializer or (lambda data: data)
        stall_s = QUESTION_S if need is None else STALL_S
        counts = self._streams if handler.response_streaming else self._questions

        async def enter(context: Context) -> None:
            try:
                if need is not None:
                    await self._gate.admit(context, path, need)
            except MezzoError as error:
                await self._refuse(context, error)
                raise

        @asynccontextmanager
        async def entered(data: Any, context: Context) -> AsyncIterator[Any]:
            """The request of a call, or the stream of them, for the block."""
            await enter(context)
            try:
                with counts.one(context.peer()):
                    if handler.request_streaming:
                        yield _decoded(data, decode)
                    else:
                        yield decode(await request_of(context, stall_s))
            except (Busy, DeadlineExceeded, InvalidArgument) as error:
                await self._refuse(context, error)
                raise

        async def one(data: Any, context: Context) -> Any:
            async with entered(data, context) as request:
                answer = (handler.stream_unary or handler.unary_unary)(request, context)
                return await answer if inspect.isawaitable(answer) else answer

        streamed = handler.stream_stream or handler.unary_stream

        async def many(data: Any, context: Context) -> AsyncIterator[Any]:
            async with entered(data, context) as request:
                async for answer in streamed(request, context):
                    yield answer

        async def written(data: Any, context: Context) -> None:
            """Of a handler that writes its answers itself."""
            async with entered(data, context) as request:
                await streamed(request, context)

        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(one, None, handler.response_serializer)
        several = written if inspect.iscoroutinefunction(streamed) else many
        return grpc.stream_stream_rpc_method_handler(several, None, handler.response_serializer)


async def _decoded(requests: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for data in requests:
        yield decode(data)


async def request_of(context: Context, stall_s: float = STALL_S, setting: str = "") -> bytes:
    """The one message that a call brings, which gRPC takes in now.

    Raises:
        DeadlineExceeded: it has not come within ``stall_s``, which ``setting`` says.
        InvalidArgument: the call has none.
    """
    try:
        async with asyncio.timeout(stall_s):
            data = await context.read()
    except TimeoutError:
        raise not_come(stall_s, setting) from None
    if not isinstance(data, bytes):
        raise no_message()
    return data


def not_come(stall_s: float, setting: str) -> DeadlineExceeded:
    """The error of a call whose request has not come whole in time."""
    said = f" ({setting})" if setting else ""
    return DeadlineExceeded(f"the request did not come within {stall_s:g} s{said}")


def no_message() -> InvalidArgument:
    """The error of a call that brings none."""
    return InvalidArgument("the call has no message")


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
