"""A session that a front-end opened, and what stands in for a connection's session behind it. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mezzo.address import Address, parse
from mezzo.credentials import Ticket
from mezzo.errors import ConnectionLost, DeadlineExceeded, InvalidArgument, MezzoError
from mezzo.frontend.exchange import parse as parse_message
from mezzo.operations import Operation, State
from mezzo.pod import NO_MAP, MapHad, MapTold
from mezzo.protocol.messages import KEY_BYTES_MAX, KEYS_MAX, U32_MAX, VERSION_MAX, Welcome
from mezzo.session import Session, pin
from mezzo.statistics import Counters
from mezzo.v1 import session_pb2

PIECE_BYTES_MAX = 1024 * 1024
"""Payload of one message of a put, at most; a front-end may allow more, but larger ones are not faster."""
_BODY_BYTES_MAX = 512 * 1024
_BODY_REST_BYTES = 4096  # of a gRPC message besides its keys
_REQUESTS_MAX = 64


class ShardAt(NamedTuple):
    """One shard of the map."""

    incarnation: bytes
    addresses: tuple[Address, ...]
    """Unix sockets first: if one of them can be reached it is the faster way"""


class Opened(NamedTuple):
    """What a front-end said when the session was opened."""

    ticket: bytes
    """opaque; empty where shards check none"""
    ticket_expires: float
    """clock reading"""
    epoch: int
    shards: tuple[ShardAt, ...]
    limits: Welcome
    """the front-end's, in the shape of a shard's"""
    piece_bytes: int
    """payload in one message of a put"""
    map_told: MapTold = MapTold()
    """of several shards; nothing: there is one shard"""


def request(client_name: str, namespace: str, had: MapHad = NO_MAP) -> bytes:
    """The message that opens a session; ``namespace`` is what will be used of the shards, if nothing else names it."""
    message = session_pb2.OpenSessionRequest(
        client=client_name[:128], namespace=namespace, pod_had=had.pod, epoch_had=had.epoch
    )
    return bytes(message.SerializeToString())


def not_opened(address: Address, error: MezzoError) -> MezzoError:
    """Why there is no session: a front-end that does not answer is as good as none."""
    if isinstance(error, DeadlineExceeded):
        return ConnectionLost(f"the front-end at {address} did not open a session in time")
    if isinstance(error, ConnectionLost):
        return ConnectionLost(f"{error}{tls_advice(address, str(error))}")
    return error


def tls_advice(address: Address, said: str) -> str:
    """What gRPC's words about a handshake come down to, to be added to them; empty: it was not about that."""
    # A peer that wants another way of speaking just closes the connection, as gRPC tells it.
    closed = "closed" in said.lower() or "reset" in said.lower()
    if not address.is_encrypted:
        return f" (if the front-end is served over TLS, its address is grpcs://{address.target})" * closed
    if closed:
        return " (it may ask for a client certificate that it trusts: MEZZO_TLS_CERTIFICATE, MEZZO_TLS_KEY)"
    if "WRONG_VERSION_NUMBER" in said:
        return f": it does not speak TLS; is it grpc://{address.target}?"
    if "Hostname Verification" in said:
        return ": its certificate is for another name (server_name, MEZZO_TLS_SERVER_NAME)"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return ": its certificate has expired, or is signed by nobody we trust (ca, MEZZO_TLS_CA)"
    return ""


def opened(answer: bytes, now: float) -> Opened:
    """The front-end's answer. Raises ProtocolError."""
    message = parse_message(session_pb2.OpenSessionResponse, answer)
    limits = message.limits
    shards = tuple(_shard(shard) for shard in message.map.shards)
    # The calls split themselves by a shard's limits; these are the front-end's in that shape.
    shape = Welcome(
        version=VERSION_MAX,
        server=message.server,
        shard_incarnation=shards[0].incarnation if shards else bytes(16),
        epoch=message.map.epoch,
        tenant_id=bytes(16),
        namespace_id=bytes(16),
        keys_max=min(limits.keys_max or KEYS_MAX, KEYS_MAX),
        key_bytes_max=KEY_BYTES_MAX,
        chunk_bytes_max=min(limits.chunk_bytes_max, limits.put_bytes_max, U32_MAX),
        body_bytes_max=max(1024, min(_BODY_BYTES_MAX, limits.message_bytes_max - _BODY_REST_BYTES)),
        requests_max=_REQUESTS_MAX,
        regions_max=0,
        region_bytes_max=0,
        lease_ms_max=limits.lease_ms_max,
        block_bytes=1,
        shm=False,
    )
    room = max(1, limits.message_bytes_max // 2)
    piece_bytes = min(limits.piece_bytes_max or PIECE_BYTES_MAX, PIECE_BYTES_MAX, room)
    expires = now + message.ticket_ms / 1000
    told = MapTold(bytes(message.map.encoded), bytes(message.map.difference), message.map.as_had)
    return Opened(message.ticket, expires, message.map.epoch, shards, shape, piece_bytes, told)


def ticket(opened: Opened) -> Ticket:
    """What opens the shards of the session."""
    return Ticket(opened.ticket, opened.ticket_expires) if opened.ticket else Ticket(b"")


def ways(shards: Sequence[ShardAt]) -> list[tuple[Address, bytes]]:
    """Addresses to try, in order, each with the incarnation that must answer there.

    None if there are several shards: these are where their map says, which has whose each chunk is.
    """
    if len(shards) != 1:
        return []
    return [(address, shards[0].incarnation) for address in shards[0].addresses]


def _shard(shard: session_pb2.Shard) -> ShardAt:
    addresses = []
    for text in shard.addresses:
        try:
            addresses.append(parse(text))
        except InvalidArgument:
            continue  # a kind of address that a newer release has
    direct = [address for address in addresses if not address.is_frontend]
    direct.sort(key=lambda address: address.scheme != "unix")
    return ShardAt(bytes(shard.incarnation), tuple(direct))


class ProxySession(Session):
    """What calls ask of their connection's session, where a front-end stands in between.

    gRPC has the state of requests; this has the limits, how many calls are under way, and the failure.
    """

    def __init__(self, opened: Opened, address: str, counters: Counters, now: Callable[[], float]) -> None:
        super().__init__(
            address=address,
            client_name="proxy",
            namespace="proxy",
            counters=counters,
            now=now,
            use_shm=False,
            waiting_max=1,
        )
        self._welcome = opened.limits
        self.calls = 0
        """under way"""

    @property
    def welcome(self) -> Welcome | None:
        """See `Session.welcome`."""
        return self._welcome

    @property
    def limits(self) -> Welcome:
        """See `Session.limits`."""
        return self._welcome

    @property
    def requests_in_flight(self) -> int:
        """See `Session.requests_in_flight`."""
        return self.calls

    def lose(self, error: MezzoError) -> None:
        """See `Session.lose`."""
        if self.failure is None:
            self.failure = error

    def begin(self, operation: Operation, left_s: float) -> None:
        """A call is made for ``operation``. `finish` undoes it.

        Raises:
            DeadlineExceeded: no time is left for it.
            RegionError: its memory is closed, or may still be written to by a shard.
            MezzoError: the session has ended; the error says how.
        """
        if self.failure is not None:
            raise copy.copy(self.failure)
        if left_s <= 0:
            raise DeadlineExceeded("the time was over before the request could be sent")
        for region in operation.pinned:
            if region.tainted:
                region.check_taint(None, operation.extents)
        pin(operation)
        operation.state = State.SENT
        self._counters.requests += 1
        self.calls += 1

    def finish(self, operation: Operation) -> None:
        """The call has ended, well or not."""
        self.calls -= 1
        operation.state = State.DONE
        for region in operation.pinned:
            region.unpin()

    def failed(self, error: MezzoError) -> MezzoError:
        """What the caller is told of a call that ended with ``error``."""
        if self.failure is not None:
            return copy.copy(self.failure)
        if isinstance(error, ConnectionLost):
            self.lose(error)
        return error
