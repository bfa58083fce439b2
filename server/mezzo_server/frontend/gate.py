"""The gate of a front-end: no call passes without a caller, and nothing of it is decoded before.

`Calls` asks it for the services of ours; `Guard` puts it before all other services of a server, so that
one that is added later is an operator's until it is said to be anybody's.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog

from mezzo.errors import MezzoError
from mezzo_server.access.authentication import EVERYBODY, Authentication
from mezzo_server.access.principal import Principal, Refused
from mezzo_server.frontend.permissions import OPEN_PATHS, OPERATOR, TOOLS, Need, check

log = structlog.get_logger("mezzo.access")

AUTHORIZATION = "authorization"
CERTIFICATE = "x509_pem_cert"
"""as gRPC names the peer's certificate in the properties of a connection"""

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


class Guard(grpc.aio.ServerInterceptor):
    """Asks a `Gate` before calls of services that `Calls` does not serve."""

    def __init__(self, gate: Gate, refuse: Refuse, served: tuple[str, ...]) -> None:
        """``served``: the services, by path up to the method, that ask the gate themselves."""
        self._gate = gate
        self._refuse = refuse
        self._unguarded = (*OPEN_PATHS, *served)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        path = str(handler_call_details.method)
        if handler is None or path.startswith(self._unguarded):
            return handler
        return self._guarded(handler, path, TOOLS.get(path, OPERATOR))

    def _guarded(self, handler: Any, path: str, need: Need) -> Any:
        """The handler, whose requests are decoded only after the gate was passed."""
        decode = handler.request_deserializer or (lambda data: data)

        async def enter(context: Context) -> None:
            try:
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

        async def many(data: Any, context: Context) -> AsyncIterator[Any]:
            await enter(context)
            answers = (handler.stream_stream or handler.unary_stream)(requests(data), context)
            async for answer in answers:
                yield answer

        make = _SHAPES[handler.request_streaming, handler.response_streaming]
        return make(many if handler.response_streaming else one, None, handler.response_serializer)


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
