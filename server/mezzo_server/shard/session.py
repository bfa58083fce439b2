"""One client's requests: decisions, limits and answers. No sockets, no event loop, no clock.

The connection hands frames to `Session.receive`; answers go back to it through `Link`.  A get's way
from frame to ring: `Session._get` here, `ShmGet` in shm_transfer.py, `BlockStore.get`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mezzo.errors import Busy, InvalidArgument, MezzoError, ProtocolError, TooLarge, WrongEpoch
from mezzo.identity import Identity
from mezzo.protocol.connection import ServerConnection
from mezzo.protocol.frame import Frame, encode
from mezzo.protocol.messages import (
    I63_MAX,
    ArenaOpen,
    Body,
    Cancelled,
    Epoch,
    ErrorReply,
    Get,
    Got,
    Hello,
    Kind,
    Ping,
    Pong,
    Put,
    PutData,
)
from mezzo_server.blockstore.loads import NETWORK_LATENCY_START_S, NETWORK_RATE_START
from mezzo_server.blockstore.pace import Pace
from mezzo_server.metrics.measures import SECONDS
from mezzo_server.pod.standing import NEVER
from mezzo_server.quota.account import Account
from mezzo_server.shard import (
    copies,
    delete_requests,
    device_requests,
    event_requests,
    lease_requests,
    peer_requests,
    region_requests,
    stat_requests,
    tenant_requests,
    ticket_requests,
)
from mezzo_server.shard.admission import Guest
from mezzo_server.shard.charging import CHARGED, Meter
from mezzo_server.shard.copies import none_given
from mezzo_server.shard.directory import NOWHERE, Place
from mezzo_server.shard.fd_transfer import FdGet, FdPut
from mezzo_server.shard.hello import Greeting
from mezzo_server.shard.in_place import open_arena
from mezzo_server.shard.regions import RegionTable
from mezzo_server.shard.request import Request
from mezzo_server.shard.share import StagingShare
from mezzo_server.shard.shm_transfer import ShmGet, ShmPut
from mezzo_server.shard.tcp_get import TcpGet
from mezzo_server.shard.tcp_put import PayloadSink, TcpPut
from mezzo_server.tenancy.lifetime import ttl_ms

if TYPE_CHECKING:
    from mezzo_server.shard.service import Service

WITH_DESCRIPTOR = frozenset({Kind.REGION_ADD, Kind.ARENA_OPEN})
"""Requests that come with a descriptor."""


EPOCHS_UNTOLD = I63_MAX
"""What clients of protocol version 1 have been told: they would not understand."""

BEHIND_S = 10.0
"""A client that was told of another map may have asked for so long by the one that it had."""


class Link(Protocol):
    """What a session asks of its connection."""

    def send(self, frame: bytes) -> None:
        """Queue a frame without payload."""

    def send_payloads(self, get: TcpGet) -> None:
        """Begin to draw payload from ``get``, after those that were given before."""

    def output_ready(self) -> None:
        """A get that is being drawn from has more to give."""

    def later(self, step: Callable[[], None]) -> None:
        """Call ``step`` once others had their turn."""

    def take_descriptor(self) -> int | None:
        """The next descriptor that came with a frame; the caller owns it."""

    def peer_is_owner(self) -> bool:
        """Whether the client is the server's own user, or root, on this host."""

    def let_in(self) -> None:
        """The client was recognised: its frames may be as large as the limits say."""

    def refuse(self, error: MezzoError) -> None:
        """End the connection, and tell the client why."""


class Session:
    """One client of a shard, from its HELLO to `close`. Owner of its requests, regions and leases."""

    def __init__(self, service: Service, link: Link, *, shm: bool) -> None:
        """``shm``: descriptors can be passed, so regions may be registered."""
        self.service = service
        self.limits = service.limits
        self.link = link
        self.shm = shm
        self.state = ServerConnection(service.limits.requests_max)
        self.requests: dict[int, Request] = {}
        self.regions = RegionTable(
            service.regions,
            regions_max=service.limits.regions_max,
            bytes_max=service.limits.region_bytes_max,
        )
        self.share = StagingShare(service.staging, service.limits.staging_connection_bytes_max)
        self.place: Place | None = None
        """where its chunks are, from HELLO on; `scope` and `identity` are of it"""
        self.scope = NOWHERE
        self.meter = Meter(self, Account(NOWHERE.tenant))
        self.identity: Identity | None = None
        """what the bytes of its namespace are, if that is known"""
        self.copies = 1
        """that are kept of its namespace's chunks"""
        self.guest: Guest | None = None
        """whom it belongs to, from HELLO on"""
        self.looked_for = False
        """whether the metadata are looked at for it, before it is let in"""
        self.epoch_told = EPOCHS_UNTOLD
        """of the map that the client knows us to follow"""
        self.told_late_at = NEVER
        """when the client was told last of another map than it knew"""
        self.greeted = False
        self.closed = False
        self.payload_waits = 0
        """payloads granted to the client that have not begun to come"""
        self.payload_owed_bytes = 0
        """bytes of these"""
        self.granted_at = 0.0
        """when payload was granted, and none was waited for until then"""
        self.network = Pace(NETWORK_RATE_START, NETWORK_LATENCY_START_S)
        """how fast payload goes out on this connection"""
        self.streams = not shm
        """whether its gets go out on it"""
        self.told_at = 0.0
        """when a reader of events was last answered that had waited"""
        self._window_used = 0
        self._window_waiting: deque[Callable[[], None]] = deque()
        self._turn: list[TcpPut] = []
        self._received = 0.0
        """when the frame came that is being acted on; 0: a request took it over"""
        self._now = service.now
        self._durations = service.measures.duration
        self.handlers: dict[Kind, Callable[[int, Any], None]] = {
            Kind.PING: self._ping,
            Kind.LOOKUP: partial(lease_requests.lookup, self),
            Kind.GET: self._get,
            Kind.PUT: self._put,
            Kind.DELETE: partial(delete_requests.delete, self),
            Kind.ACQUIRE: partial(lease_requests.acquire, self),
            Kind.RELEASE: partial(lease_requests.release, self),
            Kind.LEASE_RENEW: partial(lease_requests.renew, self),
            Kind.EVENTS: partial(event_requests.events, self),
            Kind.STAT: partial(stat_requests.stat, self),
            Kind.SHARD_STAT: partial(stat_requests.shard_stat, self),
            Kind.ARENA_OPEN: self._arena_open,
            Kind.TENANT_STAT: partial(tenant_requests.stat, self),
            Kind.DEVICES: partial(device_requests.devices, self),
            Kind.DEVICE_CHANGE: partial(device_requests.change, self),
            Kind.REGION_ADD: partial(region_requests.add, self),
            Kind.REGION_REMOVE: partial(region_requests.remove, self),
            Kind.TICKET_RENEW: partial(ticket_requests.renew, self),
            Kind.CANCEL: self._cancel,
            Kind.PULL: partial(peer_requests.pull, self),
            Kind.OFFER: partial(copies.offer, self),
        }
        service.sessions[self] = None

    def receive(self, frame: Frame) -> PayloadSink | None:
        """Act on a frame. For PUT_DATA: where its payload goes.

        Raises:
            MezzoError: the connection must be refused.
        """
        self.state.receive_event(frame)
        kind = frame.kind
        if kind is Kind.PUT_DATA:
            return self._put_data(frame)
        if kind is Kind.REFUSE:
            raise ProtocolError("the client ended the connection")
        self._received = began = self._now()
        if isinstance(frame.body, Hello):
            Greeting(self, frame.request_id, frame.body).answer()
        else:
            guest, begun = self.guest, False
            try:
                if guest is None or began >= guest.expires or not guest.allowed >> kind & 1:
                    self._check_guest(kind, began)
                if kind in CHARGED:
                    account = self.meter.account
                    if account.limited:
                        self.meter.begin(frame)
                    else:
                        account.requests_total += 1  # all that `Meter.begin` would do
                begun = True
                self.handlers[kind](frame.request_id, frame.body)
            except ProtocolError:
                raise
            except MezzoError as error:
                if not begun and kind in WITH_DESCRIPTOR:
                    self._drop_descriptor()
                self.service.measures.failed[kind] += 1
                self.meter.failed(frame, error)
                self._send_error(frame.request_id, error)
        if self._received:
            # It was answered at once. `Histogram.observe`, written out: a call would cost as much again.
            duration = self._durations[kind]
            seconds = self._now() - began
            duration.counts[bisect_left(SECONDS, seconds)] += 1
            duration.total += seconds
        return None

    def expiry_ms(self, wish_ms: int) -> int:
        """When chunks that are put now with this wish (0: none) expire; 0: never."""
        place, life_ms = self.place, wish_ms
        if place is not None and place.tenant is not None and place.namespace is not None:
            life_ms = ttl_ms(wish_ms, place.tenant.lifetime, place.namespace.lifetime)
        return self.service.store.now_ms + life_ms if life_ms else 0

    @property
    def is_behind(self) -> bool:
        """Whether what it asks for may be asked by an older map than the one that is followed."""
        return self.epoch_told == EPOCHS_UNTOLD or self._now() - self.told_late_at < BEHIND_S

    def tell_copies(self, copies: int) -> None:
        """So many copies are kept of its chunks from now on: told with the next request, if that is new."""
        told, self.copies = self.copies, copies
        if copies != told and self.epoch_told != EPOCHS_UNTOLD:
            self.epoch_told = -1

    def turn_ended(self) -> None:
        """All frames that had come were received: what was gathered goes to the store together."""
        while self._turn:
            self._turn.pop().flush()

    def close(self) -> None:
        """The connection is gone: give up and give back everything."""
        if self.closed:
            return
        self.closed = True
        self.meter.close()
        self.service.sessions.pop(self, None)
        self.share.close()
        for request in tuple(self.requests.values()):
            request.cancelled = True
            request.give_up()
        while self._window_waiting:
            self._window_waiting.popleft()()
        self.regions.close()
        self.service.leases.end_owner(self)
        if self.service.store.hot is not None:
            self.service.store.hot.memory.returned(self)

    # -- what requests ask of their session

    @property
    def chunk_bytes_max(self) -> int:
        """Bytes of the longest chunk that may be put."""
        limit = self.service.chunk_bytes_max
        return limit if self.identity is None else min(limit, self.identity.chunk_bytes)

    def begin(self, request: Request) -> None:
        """A request starts. Busy over ``requests_max``."""
        self.state.begin(request.id, request.kind)
        self.requests[request.id] = request
        request.began, self._received = self._received or self._now(), 0.0

    def holds(self, request: Request) -> bool:
        """Whether ``request`` has not ended."""
        return self.requests.get(request.id) is request

    def end(self, request: Request, kind: Kind, body: Body) -> None:
        """A request ends with this answer, or with CANCELLED if the client gave it up.

        In a pod a write is not acknowledged by who may not do so any more.
        """
        standing = self.service.standing
        if standing is not None and request.written and not request.cancelled:
            to_put = request.kind is Kind.PUT
            error = standing.objection(self.scope, request.written, request.began, to_put=to_put)
            if error is not None:
                self.end_with_error(request, error)
                return
        self._forget(request)
        if request.cancelled:
            self.meter.moved(request.moved_bytes)
            self._send_cancelled(request)
            return
        if self.service.copies is not None:
            body = self.service.copies.answered(self, request, body)
        if isinstance(body, Got):
            transport = "tcp" if request.region is None else "shm"
            nbytes = sum(body.lengths)
            self.service.measures.bytes_out[transport] += nbytes
            self.meter.moved(nbytes)
        self.send(kind, request.id, body)

    def end_with_error(self, request: Request, error: MezzoError) -> None:
        """A request ends with an error, or with CANCELLED if the client gave it up."""
        self._forget(request)
        self.meter.moved(request.moved_bytes)
        if request.cancelled:
            self._send_cancelled(request)
        else:
            self.service.measures.failed[request.kind] += 1
            self._send_error(request.id, error)

    def grant(self, request: Request, frame: bytes, indexes: Sequence[int], nbytes: int) -> None:
        """Tell the client to send these payloads, so many bytes."""
        self.state.grant(request.id, indexes)
        if not self.payload_waits:
            self.granted_at = self.service.now()
        self.payload_waits += len(indexes)
        self.payload_owed_bytes += nbytes
        if not self.closed:
            self.link.send(frame)

    def at_turn_end(self, put: TcpPut) -> None:
        """Flush ``put`` when this turn of reading ends."""
        self._turn.append(put)

    @property
    def window_room(self) -> int:
        """Bytes that may be under way besides those that are."""
        return self.limits.in_flight_bytes_max - self._window_used

    @property
    def window_empty(self) -> bool:
        """Whether nothing is under way: then one chunk may be, however large."""
        return self._window_used == 0

    def window_take(self, nbytes: int) -> None:
        """So many bytes are under way."""
        self._window_used += nbytes

    def window_give(self, nbytes: int) -> None:
        """They have arrived."""
        self._window_used -= nbytes
        if self._window_waiting and not self.closed:
            self.link.later(self._window_waiting.popleft())

    def window_wait(self, step: Callable[[], None]) -> None:
        """Call ``step`` when bytes have arrived; it checks again."""
        self._window_waiting.append(step)

    # -- requests

    def _check_guest(self, kind: Kind, now: float) -> None:
        """`Guest.check`."""
        if self.guest is None:
            raise ProtocolError(f"{kind.name} before HELLO")
        self.guest.check(kind, now)

    def _drop_descriptor(self) -> None:
        """What came with a request that was refused must not be taken for what comes with the next."""
        fd = self.link.take_descriptor()
        if fd is not None:
            self.service.discard(fd)

    def _ping(self, request_id: int, body: Ping) -> None:
        self.send(Kind.PONG, request_id, Pong())

    def _get(self, request_id: int, body: Get) -> None:
        keys = self.check_read(body.keys)
        if keys is not body.keys:
            body = msgspec.structs.replace(body, keys=keys)
        if self.service.copies is not None:
            self.service.copies.asked(self.scope, body.keys)
        if body.region == 0:
            if body.targets:
                raise InvalidArgument("targets need a region")
            TcpGet(self, request_id, body).start()
            return
        region = self.regions.get(body.region)
        kind = ShmGet if region.memory is not None else FdGet
        kind(self, request_id, body, region).start()

    def _put(self, request_id: int, body: Put) -> None:
        self.check_keys(body.keys, to_put=True)
        if body.region == 0:
            if body.sources:
                raise InvalidArgument("sources need a region")
            TcpPut(self, request_id, body).start()
            return
        region = self.regions.get(body.region)
        kind = ShmPut if region.memory is not None else FdPut
        kind(self, request_id, body, region).start()

    def _put_data(self, frame: Frame) -> PayloadSink:
        self.payload_waits -= 1
        self.payload_owed_bytes -= frame.payload_bytes
        put = self.requests.get(frame.request_id)
        if not isinstance(put, TcpPut) or not isinstance(frame.body, PutData):
            raise ProtocolError(f"PUT_DATA for request {frame.request_id}, which is no put over tcp")
        return put.receive(frame.body, frame.payload_bytes)

    def _arena_open(self, request_id: int, body: ArenaOpen) -> None:
        channel = self.link.take_descriptor()
        if channel is None:
            raise ProtocolError("ARENA_OPEN needs exactly one descriptor with it (SCM_RIGHTS)")
        self.send(Kind.ARENA_OPENED, request_id, open_arena(self, body, channel))

    def _cancel(self, request_id: int, body: Body) -> None:
        request = self.requests.get(request_id)
        if request is None:
            self.service.counters["cancelled"] += 1
            self.send(Kind.CANCELLED, request_id, Cancelled())
            return
        if isinstance(request, TcpPut):
            # ServerConnection forgot what was granted: none of it may come any more.
            self.payload_waits -= request.grants_open
            self.payload_owed_bytes -= request.bytes_open
        request.cancelled = True
        request.give_up()

    # -- answers

    def check_keys(self, keys: Sequence[bytes], *, to_put: bool = False) -> Sequence[int]:
        """TooLarge over ``keys_max``; in a pod, as `Standing.check`, and of no pod nothing.

        Who does not know by which map we answer from now on is told before he gets an answer by it.
        """
        if len(keys) > self.limits.keys_max:
            raise TooLarge(f"{len(keys)} keys are over the limit ({self.limits.keys_max}, keys_max)")
        standing = self.service.standing
        if standing is not None:
            if standing.epoch > self.epoch_told:
                self.told_late_at = self._now()
                self.epoch_told = standing.epoch
                self.send(Kind.EPOCH, 0, Epoch(self.epoch_told, self.copies))
            return standing.check(self.scope, keys, to_put=to_put, told=self.epoch_told != EPOCHS_UNTOLD)
        return ()

    def check_read(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """`check_keys`; what is missing of them, and another shard may have, is moved here meanwhile.

        The keys to read: others in the place of those whose second copies are not to be given.
        """
        kinds = self.check_keys(keys)
        puller, copies = self.service.puller, self.service.copies
        if puller is not None:
            puller.missed(self.scope, keys)
        if copies is not None and (self.copies > 1 or copies.counts_gets):
            return copies.given(self.scope, keys, wanted=self.copies > 1)
        return none_given(keys, kinds)

    def _forget(self, request: Request) -> None:
        del self.requests[request.id]
        if not self.closed:
            self.state.end(request.id)
        self.meter.ended(request.id)
        self.service.measures.ended(request.kind, self._now() - request.began, request)

    def send(self, kind: Kind, request_id: int, body: Body) -> None:
        """Answer a request that `begin` does not know of."""
        if not self.closed:
            self.link.send(encode(kind, request_id, body))

    def _send_cancelled(self, request: Request) -> None:
        self.service.counters["cancelled"] += 1
        self.service.measures.cancelled[request.kind] += 1
        self.send(Kind.CANCELLED, request.id, Cancelled())

    def _send_error(self, request_id: int, error: MezzoError) -> None:
        retry_after_ms = 0
        self.service.counters["errors"] += 1
        self.service.measures.errors[error.code] += 1
        if isinstance(error, Busy):
            self.service.counters["busy"] += 1
            retry_after_ms = max(1, round(error.retry_after_s * 1000))
        epoch = error.epoch if isinstance(error, WrongEpoch) else 0
        reply = ErrorReply(int(error.code), str(error)[:1024], retry_after_ms, epoch)
        self.send(Kind.ERROR, request_id, reply)
