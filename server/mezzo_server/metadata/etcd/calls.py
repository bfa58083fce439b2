"""Calls of etcd's gRPC API: which member is asked, until when, as whom, and what its errors mean.

Blocking gRPC is called through its futures, and streams have a thread each: a channel of gRPC's own asyncio
belongs to one event loop, and an engine may be called from several.

Invariant: what may have changed something is sent once, and to a member that has answered just before: one that
is down, hangs or has no leader costs a question, and not a write of which nobody knows whether it was made.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
from google.protobuf.message import Message

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo_server.metadata.etcd import etcd_pb2 as api
from mezzo_server.metadata.etcd.place import EtcdPlace

Asked = TypeVar("Asked", bound=Message)
Answered = TypeVar("Answered", bound=Message)

ATTEMPT_S = 2.0
"""One member has so long: one that has lost its leader may keep a call for ever."""
CALL_S = 6.0
"""All attempts together, unless the engine's maker says otherwise."""
PAUSE_S = 0.1
PROBE_S = 1.0
"""A member that does not answer a question in this time is not asked for anything else."""
FRESH_S = 1.0
"""One that has answered so lately needs no question."""
SILENT_S = 2.0
"""After so long without a word in a stream its member is asked whether it is still there."""
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
SAYS_EXPIRED = "invalid auth token"
NO_USER = "user name is empty"
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""A member that answers so cannot be asked now; all else is an answer."""
WITH_LEADER = ("hasleader", "true")
"""A member that has no leader ends a stream with this, instead of keeping silent."""


class Refused(Unavailable):
    """etcd does not let us in, or not do this: another member would say the same."""


class Method(NamedTuple, Generic[Asked, Answered]):
    """One of etcd's methods."""

    path: str
    asked: type[Asked]
    answered: type[Answered]


RANGE = Method("/etcdserverpb.KV/Range", api.RangeRequest, api.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", api.TxnRequest, api.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", api.CompactionRequest, api.CompactionResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", api.LeaseGrantRequest, api.LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", api.LeaseRevokeRequest, api.LeaseRevokeResponse)
KEEP = Method("/etcdserverpb.Lease/LeaseKeepAlive", api.LeaseKeepAliveRequest, api.LeaseKeepAliveResponse)
LEASES = Method("/etcdserverpb.Lease/LeaseLeases", api.LeaseLeasesRequest, api.LeaseLeasesResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", api.WatchRequest, api.WatchResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", api.AuthenticateRequest, api.AuthenticateResponse)


class _Member:
    """One member of the cluster."""

    def __init__(self, channel: grpc.Channel, endpoint: str) -> None:
        self.channel = channel
        self.endpoint = endpoint
        self.answered = float("-inf")
        """when it last did"""


class EtcdCalls:
    """The connections to one etcd. Owner of its channels and of the token; any event loop may call."""

    def __init__(self, place: EtcdPlace, call_s: float) -> None:
        """``call_s``: how long a call may take, all its attempts together."""
        self.place = place
        self.call_s = call_s
        self.closed = False
        self._lock = threading.Lock()
        self._members: list[_Member] = []
        self._streams: set[Any] = set()
        self._first = 0
        self._token = ""

    async def read(self, method: Method[Asked, Answered], request: Asked) -> Answered:
        """A call that changes nothing, or the same however often it is made: on the next member if one fails.

        Raises:
            Unavailable: none answered in time.
            grpc.RpcError: etcd refused it, for a reason that `meaning` has no word for.
        """
        until = time.monotonic() + self.call_s
        while True:
            try:
                return await self.once(method, request, until)
            except Refused:
                raise
            except Unavailable:
                self.next_member()
                if self.closed or time.monotonic() + PAUSE_S >= until:
                    raise
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
            grpc.RpcError: etcd refused it, for a reason that `meaning` has no word for.
        """
        until = time.monotonic() + self.call_s if until is None else until
        for renewed in (False, True):
            member = await self._member(until)
            metadata = await self._metadata(member)
            attempt_s = max(0.05, min(ATTEMPT_S, until - time.monotonic()))
            try:
                if stream:
                    return await self._streamed(member, method, request, metadata, attempt_s)
                answer: Answered = await self._ask(member, method, request, attempt_s, metadata)
                member.answered = time.monotonic()
                return answer
            except grpc.RpcError as error:
                member.answered = float("-inf")
                if not renewed and self._token and SAYS_EXPIRED in _details(error):
                    self._token = ""  # it has expired, and etcd did nothing
                    continue
                raise meaning(error, member.endpoint) from error
        raise Refused("etcd does not take the token that it has just given")

    async def stream(self, method: Method[Asked, Answered], request: Asked) -> AsyncGenerator[Answered, None]:
        """What a call answers for as long as it lasts.

        Raises:
            Unavailable: it has ended, or could not begin.
        """
        member = await self._member(time.monotonic() + self.call_s)
        metadata = (*await self._metadata(member), WITH_LEADER)
        sent_all = threading.Event()

        def requests() -> Any:
            yield request
            sent_all.wait()

        call = _streaming(member.channel, method)(requests(), metadata=metadata)
        with self._lock:
            self._streams.add(call)
        arrived: asyncio.Queue[Answered | Exception] = asyncio.Queue()
        room = threading.Semaphore(STREAM_AHEAD)
        loop = asyncio.get_running_loop()

        def pump() -> None:
            last: Exception = Unavailable(f"etcd at {member.endpoint} has ended the stream")
            try:
                for answer in call:
                    room.acquire()
                    loop.call_soon_threadsafe(arrived.put_nowait, answer)
            except grpc.RpcError as error:
                last = meaning(error, member.endpoint)
            except RuntimeError:
                return  # the loop is closed: nobody listens any more
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.put_nowait, last)

        threading.Thread(target=pump, name="mezzo-etcd", daemon=True).start()
        try:
            while True:
                try:
                    # Not `wait_for`: until Python 3.12 that loses a cancellation that comes together with an answer.
                    async with asyncio.timeout(SILENT_S):
                        item = await arrived.get()
                except TimeoutError:
                    silent = await self._probe(member)
                    if not silent:
                        continue
                    item = Unavailable(f"etcd at {member.endpoint} does not answer any more: {silent}")
                if isinstance(item, Exception):
                    if isinstance(item, Unavailable):
                        self.next_member()
                    raise item
                room.release()
                yield item
        finally:
            sent_all.set()
            room.release()
            call.cancel()
            with self._lock:
                self._streams.discard(call)

    def next_member(self) -> None:
        """The one that was asked did not answer: ask another."""
        self._first += 1

    def close(self) -> None:
        """End all calls; streams end with Unavailable."""
        with self._lock:
            self.closed = True
            members, self._members = self._members, []
            streams = tuple(self._streams)
        for stream in streams:
            stream.cancel()
        for member in members:
            member.channel.close()

    # -- which member, and as whom

    async def _member(self, until: float) -> _Member:
        """One that has just answered: the same as long as it does. Raises Unavailable."""
        last = ""
        while True:
            for _ in self.place.endpoints:
                with self._lock:
                    if self.closed:
                        raise Unavailable("the metadata engine was closed")
                    if not self._members:
                        self._members = self._connect()
                    member = self._members[self._first % len(self._members)]
                if time.monotonic() - member.answered < FRESH_S:
                    return member
                last = await self._probe(member)
                if not last:
                    return member
                self.next_member()
            if time.monotonic() + PAUSE_S >= until:
                names = ", ".join(self.place.endpoints)
                raise Unavailable(f"no member of etcd answers ({names}); the last said: {last}")
            await asyncio.sleep(PAUSE_S)

    async def _probe(self, member: _Member) -> str:
        """Ask a member for something that all of them have to agree on; why it does not answer, if so."""
        request = api.RangeRequest(key=b"\0", limit=1, keys_only=True)
        try:
            await self._ask(member, RANGE, request, PROBE_S)
        except grpc.RpcError as error:
            if error.code() in AWAY:
                return _details(error)
            # It answers; whom it lets in is another question.
        member.answered = time.monotonic()
        return ""

    async def _ask(
        self,
        member: _Member,
        method: Method[Asked, Answered],
        request: Asked,
        timeout_s: float,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Answered:
        """One call. Raises grpc.RpcError, and Unavailable: the channel was closed meanwhile."""
        try:
            call = _unary(member.channel, method).future(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # so gRPC says it
            raise Unavailable("the metadata engine was closed") from error
        answer: Answered = await _done(call)
        return answer

    def _connect(self) -> list[_Member]:
        place = self.place
        members = []
        for endpoint in place.endpoints:
            if place.tls:
                credentials = grpc.ssl_channel_credentials(
                    _contents(place.ca), _contents(place.key), _contents(place.certificate)
                )
                channel = grpc.secure_channel(endpoint, credentials, options=OPTIONS)
            else:
                channel = grpc.insecure_channel(endpoint, options=OPTIONS)
            members.append(_Member(channel, endpoint))
        return members

    async def _metadata(self, member: _Member) -> tuple[tuple[str, str], ...]:
        place = self.place
        if not place.user:
            return ()
        if not self._token:
            password = (_contents(place.password_file) or b"").decode().strip("\n")
            request = api.AuthenticateRequest(name=place.user, password=password)
            try:
                self._token = (await self._ask(member, AUTHENTICATE, request, ATTEMPT_S)).token
            except grpc.RpcError as error:
                if error.code() in AWAY:
                    raise meaning(error, member.endpoint) from error
                raise Refused(f"etcd does not let {place.user!r} in: {_details(error)}") from None
        return (("token", self._token),)

    async def _streamed(
        self,
        member: _Member,
        method: Method[Asked, Answered],
        request: Asked,
        metadata: tuple[tuple[str, str], ...],
        attempt_s: float,
    ) -> Answered:
        call = _streaming(member.channel, method)(
            iter((request,)), timeout=attempt_s, metadata=(*metadata, WITH_LEADER)
        )

        def first() -> Answered:
            try:
                answer: Answered = next(call)
            except StopIteration:
                raise Unavailable("etcd ended the stream without an answer") from None
            finally:
                call.cancel()
            return answer

        return await asyncio.to_thread(first)


STREAM_AHEAD = 16
"""Answers of a stream that wait to be taken."""


def meaning(error: grpc.RpcError, endpoint: str) -> Exception:
    """The error of ours that an error of etcd's is; the error itself if the caller has to know what it asked."""
    code, details = error.code(), _details(error)
    said = f"etcd at {endpoint}: {details}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "too many requests" in details:
            return Busy(said, 1.0)
        return Unavailable(f"{said} (compact and defragment it, then disarm its alarm)")
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in details:
        return InvalidArgument(said)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE):
        return error
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED) or NO_USER in details:
        return Refused(said)
    return Unavailable(said)


def _details(error: grpc.RpcError) -> str:
    return str(error.details() or error.code().name)


def _unary(channel: grpc.Channel, method: Method[Any, Any]) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
    return channel.unary_unary(method.path, method.asked.SerializeToString, method.answered.FromString)


def _streaming(channel: grpc.Channel, method: Method[Any, Any]) -> grpc.StreamStreamMultiCallable[Any, Any]:
    return channel.stream_stream(method.path, method.asked.SerializeToString, method.answered.FromString)


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


def _contents(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None
