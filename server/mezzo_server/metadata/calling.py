"""Calls to one of several that all say the same: which one is asked, until when, and when it is left for another.

Of etcd they are the members, of the metadata service the replicas: here both are called *members*.  Blocking gRPC is
called through its futures, and streams have a thread each: a channel of gRPC's own asyncio belongs to one event loop,
and an engine may be called from several.

Invariant: what may have changed something is sent once, and to a member that has answered just before: one that
is down, hangs or cannot do anything costs a question, and not a write of which nobody knows whether it was made.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from mezzo.errors import Unavailable
from mezzo_server.metadata.engine import Change, Compacted
from mezzo_server.metadata.trust import Refused, Trust, TrustFiles

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)
Metadata = tuple[tuple[str, str], ...]
NOTHING: Metadata = ()

ATTEMPT_S = 2.0
"""One member has so long: one that has lost the others may keep a call for ever."""
PAUSE_S = 0.1
PROBE_S = 1.0
"""A member that does not answer a question in this time is not asked for anything else."""
FRESH_S = 1.0
"""One that has answered so lately needs no question."""
SILENT_S = 2.0
"""After so long without a word in a stream its member is asked whether it is still there."""
STREAM_AHEAD = 16
"""Answers of a stream that wait to be taken."""
MESSAGE_BYTES_MAX = 128 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
)
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""A member that answers so cannot be asked now; all else is an answer."""


class Method(NamedTuple, Generic[Asked, Answered]):
    """A method of a gRPC service."""

    path: str
    asked: type[Asked]
    answered: type[Answered]
    asks_once: bool = False
    """of one whose answers are a stream: its requests are none"""


class Member:
    """One of those that say the same."""

    def __init__(self, channel: grpc.Channel, endpoint: str) -> None:
        self.channel = channel
        self.endpoint = endpoint
        self.answered = float("-inf")
        """when it last did"""
        self.uses = 0
        """calls and streams that are under way"""


class MemberCalls(ABC):
    """The connections to all members. Owner of their channels; any event loop may call."""

    each = "member"
    """what one of them is called"""
    attempt_s = ATTEMPT_S
    probe_s = PROBE_S
    fresh_s = FRESH_S
    beats = False
    """whether each message of a stream says that its member can do everything"""
    of_streams: Metadata = NOTHING
    """metadata of calls that are streams"""

    def __init__(
        self, what: str, endpoints: Sequence[str], trust: Trust | None, call_s: float, first: int = 0
    ) -> None:
        """``what``: all of them together, in words; ``trust`` None: without TLS; ``call_s``: how long a call may take, all
        its attempts together; ``first``: which one is asked first.
        """
        self.what = what
        self.call_s = call_s
        self.closed = False
        self._endpoints = endpoints
        self._trust = None if trust is None else TrustFiles(trust)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._members: list[Member] = []
        self._left: list[Member] = []
        """whose certificates were replaced: what is under way there goes on"""
        self._streams: set[Any] = set()
        self._first = first

    @abstractmethod
    def meaning(self, error: grpc.RpcError, endpoint: str) -> Exception:
        """The error of ours that one of a member's is; the error itself if the caller has to know what it asked."""

    @abstractmethod
    async def question(self, member: Member, timeout_s: float) -> None:
        """Ask a member for something that all of them have to agree on. Raises grpc.RpcError."""

    async def credential(self, member: Member) -> Metadata:
        """What tells a member who we are. Raises Refused and Unavailable."""
        return NOTHING

    def forget(self, error: grpc.RpcError) -> bool:
        """Whether the credential was refused, nothing was done, and there is another to be had, which comes next."""
        return False

    async def read(self, method: Method[Asked, Answered], request: Asked) -> Answered:
        """A call that changes nothing, or the same however often it is made: on the next member if one fails.

        Raises:
            Unavailable: none answered in time.
            grpc.RpcError: it was refused, for a reason that `meaning` has no word for.
        """
        until = time.monotonic() + self.call_s
        while True:
            try:
                return await self.once(method, request, until)
            except Refused:
                raise
            except Unavailable as error:
                await self.another(until, error)

    async def another(self, until: float, error: Unavailable) -> None:
        """After an error of one member go on with the next, or raise it if time is over."""
        self.next_member()
        if self.closed or time.monotonic() + PAUSE_S >= until:
            raise error
        await asyncio.sleep(PAUSE_S)

    async def once(
        self,
        method: Method[Asked, Answered],
        request: Asked,
        until: float | None = None,
        *,
        stream: bool = False,
    ) -> Answered:
        """A call that is sent once at most; ``stream``: its method takes and gives streams, here of one message each.

        Raises:
            Unavailable: it may have been made.
            grpc.RpcError: it was refused, for a reason that `meaning` has no word for.
        """
        until = time.monotonic() + self.call_s if until is None else until
        for renewed in (False, True):
            member = await self._member(until)
            metadata = await self.credential(member)
            attempt_s = max(0.05, min(self.attempt_s, until - time.monotonic()))
            try:
                if stream:
                    return await self._streamed(member, method, request, metadata, attempt_s)
                answer: Answered = await self.ask(member, method, request, attempt_s, metadata)
                member.answered = time.monotonic()
                return answer
            except grpc.RpcError as error:
                member.answered = float("-inf")
                if not renewed and self.forget(error):
                    continue
                raise self.meaning(error, member.endpoint) from error
        raise Refused(f"{self.what} does not take the credential that it has just given")

    async def stream(self, method: Method[Asked, Answered], request: Asked) -> AsyncGenerator[Answered, None]:
        """What a call answers for as long as it lasts.

        Raises:
            Unavailable: it has ended, or could not begin.
        """
        member = await self._member(time.monotonic() + self.call_s)
        metadata = (*await self.credential(member), *self.of_streams)
        sent_all = threading.Event()

        def requests() -> Any:
            yield request
            sent_all.wait()

        asked = request if method.asks_once else requests()
        call = _streaming(member.channel, method)(asked, metadata=metadata)
        with self._lock:
            self._streams.add(call)
            member.uses += 1
        arrived: asyncio.Queue[Answered | Exception] = asyncio.Queue()
        room = threading.Semaphore(STREAM_AHEAD)
        loop = asyncio.get_running_loop()

        def pump() -> None:
            last: Exception = Unavailable(f"{self.what} at {member.endpoint} has ended the stream")
            try:
                for answer in call:
                    room.acquire()
                    loop.call_soon_threadsafe(arrived.put_nowait, answer)
            except grpc.RpcError as error:
                last = self.meaning(error, member.endpoint)
                if self.forget(error):
                    last = Unavailable(str(last))
            except RuntimeError:
                return  # the loop is closed: nobody listens any more
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.put_nowait, last)

        threading.Thread(target=pump, name="mezzo-metadata-stream", daemon=True).start()
        try:
            while True:
                try:
                    # Not `wait_for`: until Python 3.12 that loses a cancellation that comes together with an answer.
                    async with asyncio.timeout(SILENT_S):
                        item = await arrived.get()
                except TimeoutError:
                    if time.monotonic() - member.answered < SILENT_S:
                        continue  # it has told somebody else meanwhile that it is there
                    silent = await self._probe(member)
                    if not silent:
                        continue
                    item = Unavailable(f"{self.what} at {member.endpoint} does not answer any more: {silent}")
                if isinstance(item, Exception):
                    if isinstance(item, Unavailable):
                        self.next_member()
                    raise item
                room.release()
                if self.beats:
                    member.answered = time.monotonic()
                yield item
        finally:
            sent_all.set()
            call.cancel()
            # Only now: else the thread could take one more answer, and wait for room that nobody makes.
            room.release()
            with self._lock:
                self._streams.discard(call)
                member.uses -= 1

    async def follow(
        self, after: int, begin: Callable[[int], AsyncGenerator[list[Change], None]]
    ) -> AsyncGenerator[Sequence[Change], None]:
        """The changes of a watch that is begun anew at another member when one fails, behind the last that was told.

        ``begin`` begins it at a revision. Ends when this is closed.

        Raises:
            Compacted: as `Engine.watch`.
            Unavailable: no member answers, or we are refused.
        """
        down_since: float | None = None
        while True:
            try:
                async with aclosing(begin(after)) as told:
                    async for changes in told:
                        down_since = None
                        if changes:
                            after = changes[-1].revision
                            yield changes
            except (Compacted, Refused):
                raise
            except Unavailable:
                if self.closed:
                    return  # as watches of every engine end
                now = time.monotonic()
                down_since = now if down_since is None else down_since
                if now - down_since > self.call_s:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def ask(
        self,
        member: Member,
        method: Method[Asked, Answered],
        request: Asked,
        timeout_s: float,
        metadata: Metadata = NOTHING,
    ) -> Answered:
        """One call to one member. Raises grpc.RpcError, and Unavailable: the channel was closed meanwhile."""
        with self._in_use(member):
            try:
                call = _unary(member.channel, method).future(request, timeout=timeout_s, metadata=metadata)
            except ValueError as error:  # so gRPC says it
                raise Unavailable("the metadata engine was closed") from error
            answer: Answered = await _done(call)
            return answer

    def next_member(self) -> None:
        """The one that was asked did not answer: ask another."""
        self._first += 1

    def close(self) -> None:
        """End all calls; streams end with Unavailable."""
        with self._lock:
            self.closed = True
            members, self._members, self._left = [*self._members, *self._left], [], []
            streams = tuple(self._streams)
        for stream in streams:
            stream.cancel()
        for member in members:
            member.channel.close()

    async def _member(self, until: float) -> Member:
        """One that has just answered: the same as long as it does. Raises Unavailable."""
        last = ""
        while True:
            await self._look_at_certificates(sooner=bool(last))
            for _ in self._endpoints:
                with self._lock:
                    if self.closed:
                        raise Unavailable("the metadata engine was closed")
                    if not self._members:
                        self._members = self._connect()
                    member = self._members[self._first % len(self._members)]
                if time.monotonic() - member.answered < self.fresh_s:
                    return member
                last = await self._probe(member)
                if not last:
                    return member
                self.next_member()
                if time.monotonic() >= until:
                    break  # the next call goes on here
            if time.monotonic() + PAUSE_S >= until:
                names = ", ".join(self._endpoints)
                raise Unavailable(f"no {self.each} of {self.what} answers ({names}); the last said: {last}")
            await asyncio.sleep(PAUSE_S)

    async def _probe(self, member: Member) -> str:
        """Why a member does not answer; empty: it does."""
        try:
            await self.question(member, self.probe_s)
        except grpc.RpcError as error:
            if error.code() in AWAY:
                return details(error)
            # It answers; whom it lets in is another question.
        member.answered = time.monotonic()
        return ""

    async def _look_at_certificates(self, *, sooner: bool) -> None:
        """New ones count for new connections, and such are made of them; those that there are go on until nobody uses them."""
        trust = self._trust
        if trust is None or not trust.due(time.monotonic(), sooner=sooner):
            return

        def look() -> None:
            with self._looking:
                fresh = self._connect() if trust.look() else []
            with self._lock:
                # Those of the look before: whoever was about to use one has begun by now.
                over = [member for member in self._left if not member.uses]
                self._left = [member for member in self._left if member.uses]
                if self.closed:
                    over += fresh
                elif fresh:
                    self._left += self._members
                    self._members = fresh
            for member in over:
                member.channel.close()

        await asyncio.to_thread(look)

    def _connect(self) -> list[Member]:
        pem, members = None if self._trust is None else self._trust.pem, []
        for endpoint in self._endpoints:
            if pem is None:
                channel = grpc.insecure_channel(endpoint, options=OPTIONS)
            else:
                credentials = grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)
                channel = grpc.secure_channel(endpoint, credentials, options=OPTIONS)
            members.append(Member(channel, endpoint))
        return members

    async def _streamed(
        self,
        member: Member,
        method: Method[Asked, Answered],
        request: Asked,
        metadata: Metadata,
        attempt_s: float,
    ) -> Answered:
        call = _streaming(member.channel, method)(
            iter((request,)), timeout=attempt_s, metadata=(*metadata, *self.of_streams)
        )

        def first() -> Answered:
            try:
                answer: Answered = next(call)
            except StopIteration:
                raise Unavailable(f"{self.what} ended the stream without an answer") from None
            finally:
                call.cancel()
            return answer

        with self._in_use(member):
            return await asyncio.to_thread(first)

    @contextmanager
    def _in_use(self, member: Member) -> Iterator[None]:
        with self._lock:
            member.uses += 1
        try:
            yield
        finally:
            with self._lock:
                member.uses -= 1


def details(error: grpc.RpcError) -> str:
    """What an error says, in words."""
    return str(error.details() or error.code().name)


def _unary(channel: grpc.Channel, method: Method[Any, Any]) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
    return channel.unary_unary(method.path, method.asked.SerializeToString, method.answered.FromString)


def _streaming(channel: grpc.Channel, method: Method[Any, Any]) -> Any:
    begin = channel.unary_stream if method.asks_once else channel.stream_stream
    return begin(method.path, method.asked.SerializeToString, method.answered.FromString)


async def _done(call: Any) -> Any:
    """What a call's future gives."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def told(_: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    call.add_done_callback(told)
    try:
        await done.wait()
    except BaseException:
        call.cancel()
        raise
    return call.result()
