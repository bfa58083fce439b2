"""The way of every call: admitted, its caller recognised, counted, timed, and its error told.

The one place that does so.  Nothing of a call is even received before it is known who makes it and that he
may: to gRPC all requests are streams, of which it takes in a message when it is asked for one.  A call ends when its caller is not welcome any more: a stream, or one that waits for an event, may be
under way for hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError, Message

from mezzo.errors import (
    Busy,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    MezzoError,
    TooLarge,
    Unavailable,
)
from mezzo.frontend.status import tell
from mezzo.protocol.messages import KEYS_MAX
from mezzo_server.access.authentication import EVERYBODY
from mezzo_server.access.principal import Principal, Reason, Refused
from mezzo_server.frontend.caller import calling
from mezzo_server.frontend.gate import STALL_S, Gate, no_message, not_come
from mezzo_server.frontend.numbers import CallNumbers
from mezzo_server.frontend.permissions import NEEDS, Need
from mezzo_server.frontend.shares import Shares

log = structlog.get_logger("mezzo.frontend")

CALL_S_MAX = 3600.0
"""of a call that brings no deadline"""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Answer: TypeAlias = Callable[[Any, float], Awaitable[Message]]
"""an answer to a request message, within so many seconds"""
Work: TypeAlias = Callable[[Any, Context, float], Awaitable[Any]]
"""what is done for a call, given its request (or the stream of them), its context, and so many seconds"""

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


class Calls:
    """Wraps handlers. Owner of the count of calls under way."""

    def __init__(
        self,
        numbers: CallNumbers,
        calls_max: int,
        gate: Gate | None = None,
        *,
        stall_s: float = STALL_S,
        needs: Mapping[str, Need] = NEEDS,
        of: str = "frontend",
        elsewhere: bool = False,
    ) -> None:
        """Without a ``gate`` everybody passes, as where there is no metadata engine.

        ``stall_s``: a request that has not come whole after so long is given up; ``needs``: what each method needs;
        ``of``: the table of settings that has ``calls_max`` and ``stall_s``; ``elsewhere``: who finds no room goes to
        another server of the same, and does not wait for this one.
        """
        self._gate = gate or Gate(None)
        self._stall_s = stall_s
        self._stall = f"{of}.stall_s"
        self._needs = needs
        self._setting = f"{of}.calls_max"
        self._elsewhere = elsewhere
        self._under_way: dict[asyncio.Task[Any], Principal] = {}
        self._given_up: dict[asyncio.Task[Any], MezzoError] = {}
        """calls that we have cancelled, and what their callers are told"""
        self.draining = False
        """no call is admitted any more"""
        self._numbers = numbers
        self._calls_max = calls_max
        self._shares = Shares("calls are under way", calls_max, self._setting)

    def unary(self, method: str, request: type[Message], answer: Answer) -> Callable[..., Awaitable[bytes]]:
        """A handler for one request and one answer. To be served as one whose requests are a stream."""

        async def work(data: bytes, context: Context, timeout_s: float) -> bytes:
            message = await answer(parse(request, data), timeout_s)
            return message.SerializeToString()

        return self.stream(method, work)

    def stream(self, method: str, work: Work) -> Callable[..., Awaitable[Any]]:
        """A handler for one request; ``work`` writes the answers to its context. To be served as `unary`."""

        async def asked(_: None, context: Context, timeout_s: float) -> Any:
            data = await self._request_of(context)
            return await work(data, context, time_left(context))

        return self.taking(method, asked)

    def taking(self, method: str, work: Work) -> Callable[..., Awaitable[Any]]:
        """A handler for a stream of requests, which ``work`` reads from its context; it gets none."""
        need = self._needs[method]

        async def handle(requests: object, context: Context) -> Any:
            error: MezzoError
            try:
                return await self._counted(method, need, work, context)
            except MezzoError as raised:
                error = raised
            except Exception as raised:
                error = _ours(method, raised)
            # What the call held is free by now, should its peer not even take the status.
            await refuse(context, error)
            raise error  # abort does not return

        return handle

    def end_unwelcome(self, why: Callable[[Principal], Reason | None]) -> None:
        """End the calls of callers of whom ``why`` gives a reason: it is asked of each."""
        for task, principal in tuple(self._under_way.items()):
            if principal is not EVERYBODY and why(principal) is not None:
                self._give_up(task, Refused(Reason.REVOKED))

    def _watched(self, principal: Principal) -> _Watched:
        """For the block, the call may be given up by us: then it is refused, and not merely cancelled."""
        return _Watched(self._under_way, self._given_up, principal)

    def _give_up(self, task: asyncio.Task[Any], error: MezzoError) -> None:
        """End a call that is under way; its caller is told of ``error``."""
        if task in self._under_way and task not in self._given_up:
            self._given_up[task] = error
            task.cancel()

    async def _request_of(self, context: Context) -> bytes:
        """The one message that a call brings, which gRPC takes in now. Raises InvalidArgument: it has none."""
        # As `gate.request_of`; on the way of every call a timer costs a fifth of `asyncio.timeout`.
        loop = asyncio.get_running_loop()
        limit = loop.call_later(self._stall_s, self._not_come, asyncio.current_task(loop))
        try:
            data = await context.read()
        finally:
            limit.cancel()
        if not isinstance(data, bytes):
            raise no_message()
        return data

    def _not_come(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._give_up(task, not_come(self._stall_s, self._stall))

    def _admit(self) -> float:
        numbers = self._numbers
        if self.draining:
            raise Unavailable("what was called is stopping")
        if numbers.calls_in_flight >= self._calls_max:
            numbers.refused += 1
            numbers.count_error("BUSY")
            raise (Unavailable if self._elsewhere else Busy)(
                f"{self._calls_max} calls are under way ({self._setting})"
            )
        numbers.begin()
        return time.monotonic()

    async def _counted(self, method: str, need: Need, work: Work, context: Context) -> Any:
        began = self._admit()
        failed = "CANCELLED"
        try:
            principal = await self._gate.admit(context, method, need)
            with self._shares.held(principal.tenant), calling(principal), self._watched(principal):
                answered = await work(None, context, time_left(context))
            failed = ""
            return answered
        except MezzoError as error:
            failed = error.code.name
            raise
        except Exception:
            failed = "INTERNAL"
            raise
        finally:
            self._numbers.end(method, time.monotonic() - began, failed)


class _Watched:
    """See `Calls._watched`. Of every call, so a class: a generator takes three times as long."""

    __slots__ = ("_given_up", "_principal", "_task", "_under_way")

    _task: asyncio.Task[Any] | None

    def __init__(
        self,
        under_way: dict[asyncio.Task[Any], Principal],
        given_up: dict[asyncio.Task[Any], MezzoError],
        principal: Principal,
    ) -> None:
        self._under_way = under_way
        self._given_up = given_up
        self._principal = principal

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        if task is not None:
            self._under_way[task] = self._principal

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        task = self._task
        if task is None:
            return
        del self._under_way[task]
        error = self._given_up.pop(task, None)
        if error is not None and kind is asyncio.CancelledError:
            task.uncancel()
            raise error from None


def parse(kind: type[Message], data: bytes) -> Any:
    """``data`` as a message. Raises InvalidArgument."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidArgument(f"the message is no {kind.DESCRIPTOR.full_name}") from None


def keys_of(request: Any) -> list[bytes]:
    """The keys of a request; the SDK checks each. Raises TooLarge."""
    if len(request.keys) > KEYS_MAX:
        raise TooLarge(f"{len(request.keys)} keys; a call has at most {KEYS_MAX}")
    keys: list[bytes] = request.keys[:]
    return keys


async def send(context: Context, message: bytes, stall_s: float, setting: str = "frontend.stall_s") -> None:
    """Send when the reader has room for it (flow control). DeadlineExceeded: it has read nothing for too long."""
    try:
        async with asyncio.timeout(stall_s):
            await context.write(message)
    except TimeoutError:
        raise DeadlineExceeded(f"nothing was read for {stall_s:g} s ({setting})") from None


def time_left(context: Context) -> float:
    """Seconds that the caller still waits, as far as it said."""
    left_s: float | None = context.time_remaining()
    # Zero is no time, and the SDK wants some: it will see that it is over.
    return CALL_S_MAX if left_s is None else min(max(left_s, 0.001), CALL_S_MAX)


async def refuse(context: Context, error: MezzoError) -> None:
    """End the call with what `mezzo.frontend.status` makes of the error. Does not return normally."""
    told = tell(error)
    await context.abort(_STATUSES[told.status], told.message, told.metadata)


def _ours(method: str, error: Exception) -> MezzoError:
    if isinstance(error, grpc.aio.UsageError | asyncio.InvalidStateError):
        return Unavailable("the call ended while it was answered")
    log.error("a call failed", method=method, exc_info=error)
    return InternalError(f"{method} failed: {type(error).__name__}; the log of the process says more")
