"""Bodies that begin, end and keep a connection, and those that answer or give up a request as such."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import U32, VERSION_MAX, VERSION_MIN, Body, Id16, Name, Text, U

Ticket = Annotated[bytes, Meta(max_length=4096)]


class Hello(Body, frozen=True):
    """First frame of a client. Its layout never changes but by appending."""

    version_min: U32
    version_max: U32
    client: Name = ""
    namespace: Name = "default"
    ticket: Ticket = b""
    epoch: U = 0
    identity: Annotated[bytes, Meta(max_length=2048)] = b""
    """what the namespace's bytes are (`mezzo.identity`); empty: nothing is said of them"""


class Welcome(Body, frozen=True):
    """The server's answer to `Hello`; limits are those of this connection."""

    version: U32
    server: Name
    shard_incarnation: Id16
    epoch: U
    tenant_id: Id16
    namespace_id: Id16
    keys_max: U32
    key_bytes_max: U32
    chunk_bytes_max: U
    body_bytes_max: U32
    requests_max: U32
    """requests in flight on one connection; one more is answered `Busy`"""
    regions_max: U32
    region_bytes_max: U
    """bytes in all regions of one connection"""
    lease_ms_max: U
    block_bytes: U32
    """alignment (address and length) at which shm needs no bounce copy"""
    shm: bool
    """whether this connection may register regions (a Unix socket)"""
    shard_id: Id16 = bytes(16)
    """of the shard's store: what a pod's map calls it, however often it starts; zeros: an older release does not say"""
    copies: U32 = 1
    """of each chunk of the namespace that the pod keeps"""
    popular: bool = False
    """whether other shards may have second copies of what is got often (`Got.popular`)"""


class Refuse(Body, frozen=True):
    """The last frame on a connection: why the server (or client) ends it."""

    code: U32
    message: Text
    version_min: U32 = VERSION_MIN
    version_max: U32 = VERSION_MAX
    settled: bool = False
    """who sends it touches none of the other's registered memory any more"""


class ErrorReply(Body, frozen=True):
    """The answer to one request that failed as a whole."""

    code: U32
    message: Text
    retry_after_ms: U32 = 0
    epoch: U = 0
    """of the map that the shard follows, with `WRONG_EPOCH`"""


class TicketRenew(Body, frozen=True):
    """Go on with another ticket, of the same tenant. Allowed at any time after `Welcome`, an expired ticket or not."""

    ticket: Ticket


class TicketRenewed(Body, frozen=True):
    """The session goes on; ``ticket_ms``: how long the ticket is good for, 0 where none is checked."""

    ticket_ms: U = 0


class Ping(Body, frozen=True):
    """Asks for a `Pong`; allowed at any time after `Welcome`."""


class Pong(Body, frozen=True):
    """Answer to `Ping`."""


class Epoch(Body, frozen=True):
    """Answers nothing: the shard follows the map of this epoch. Before the first answer that it gives by it.

    From protocol version 2 on.  Sent too when the namespace's number of copies has changed.
    """

    epoch: U
    copies: U32 = 0
    """as in `Welcome`; 0: it is not said"""


class Cancel(Body, frozen=True):
    """Give up the request with this frame's request id."""


class Cancelled(Body, frozen=True):
    """The request is over and the server touches none of its memory any more.

    Its own answer may have come before; after this none comes.
    """
