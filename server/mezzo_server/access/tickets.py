"""Tickets: what a front-end signs, and a shard checks without asking anybody. No I/O, no clock.

A ticket is::

    version u8 (1) | key id, 8 bytes | body | Ed25519 signature, 64 bytes

The body is MessagePack, an array of the fields of `Ticket` in order.  The signature (RFC 8032) is of
`DOMAIN` and all that stands before it, under the one algorithm there is: a ticket does not say how
it wants to be checked.  Whoever changes the layout raises the version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from mezzo_server.access.principal import ALL_SCOPES, Reason, Refused, Scopes

VERSION = 1
TICKET_BYTES_MAX = 4096
"""As in `Hello`."""
KEY_ID_BYTES = 8
SIGNATURE_BYTES = 64
SEED_BYTES = 32
SKEW_S = 10
"""How far the clocks of a front-end and a shard may be apart: a ticket is good so much longer, and
before it was issued by so much."""
DOMAIN = b"mezzo ticket\x00"

_HEAD_BYTES = 1 + KEY_ID_BYTES
_REST_BYTES = _HEAD_BYTES + SIGNATURE_BYTES

Seconds = Annotated[int, Meta(ge=0, le=2**62)]


class Ticket(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a ticket says."""

    pod: Annotated[str, Meta(max_length=128)]
    tenant: Annotated[bytes, Meta(max_length=16)]
    """id; empty: an operator's"""
    credential: Annotated[str, Meta(max_length=256)]
    """with which it was got"""
    scopes: Annotated[int, Meta(ge=0, le=int(ALL_SCOPES))]
    issued_s: Seconds
    """Unix time"""
    expires_s: Seconds
    """Unix time"""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ticket).decode


class SigningKey:
    """A private key, in this process's memory and nowhere else. Its repr tells nothing of it."""

    __slots__ = ("_private", "id", "public")

    def __init__(self, key_id: bytes, seed: bytes) -> None:
        """``seed``: 32 secret random bytes."""
        self.id = key_id
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()
        """32 bytes"""

    def __repr__(self) -> str:
        return f"<SigningKey {self.id.hex()}>"

    def sign(self, ticket: Ticket) -> bytes:
        """The ticket as it travels."""
        signed = bytes([VERSION]) + self.id + _encode(ticket)
        return signed + self._private.sign(DOMAIN + signed)


def key_id_of(data: bytes) -> bytes:
    """The id of the key that a ticket says it is signed with. Raises Refused if it is no ticket."""
    if not _REST_BYTES < len(data) <= TICKET_BYTES_MAX or data[0] != VERSION:
        raise Refused(Reason.MALFORMED)
    return data[1:_HEAD_BYTES]


def verify(data: bytes, public_of: Callable[[bytes], bytes | None], *, pod: str, now_s: float) -> Ticket:
    """What a ticket says, once it is proved that one of ours signed it and that its time is now.

    ``public_of`` gives the public key of an id, None if there is no such key; ``now_s`` is Unix time.

    Raises:
        Refused: it is not good; the text says no more.
    """
    public = public_of(key_id_of(data))
    if public is None:
        raise Refused(Reason.UNKNOWN_KEY)
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, DOMAIN + signed)
    except (InvalidSignature, ValueError):
        raise Refused(Reason.SIGNATURE) from None
    # Only now: nothing of what strangers send is decoded.
    try:
        ticket = _decode(signed[_HEAD_BYTES:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refused(Reason.MALFORMED) from None
    if ticket.pod != pod:
        raise Refused(Reason.POD)
    if len(ticket.tenant) not in (0, 16):
        raise Refused(Reason.MALFORMED)
    if now_s >= ticket.expires_s + SKEW_S:
        raise Refused(Reason.EXPIRED)
    if now_s < ticket.issued_s - SKEW_S:
        raise Refused(Reason.NOT_YET)
    return ticket


def scopes_in(ticket: Ticket) -> Scopes:
    """Its scopes."""
    return Scopes(ticket.scopes)
