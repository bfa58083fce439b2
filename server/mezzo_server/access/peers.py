"""What one shard shows another to pull chunks from it: a credential that it signs itself. No I/O, no clock.

It stands in the ``ticket`` of a HELLO, where its version tells it from a client's ticket::

    version u8 (2) | id of the shard that shows it, 16 bytes | body | Ed25519 signature, 64 bytes

The body is MessagePack, an array of the fields of `PeerCredential` in order.  The signature (RFC 8032) is of `DOMAIN`
and all that stands before it.  The key is one that the shard draws when it starts; its public half is in the shard's
member record, which only who may write to the metadata engine can have put there.

Invariants: a credential is good at one shard, in one life of that shard, for one connection, and for a minute; it is
taken only from who is registered with that key; it allows what `admission.PEERS` says, and nothing of a client's.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from mezzo_server.access.principal import Reason, Refused
from mezzo_server.access.tickets import SEED_BYTES, SIGNATURE_BYTES, SKEW_S, TICKET_BYTES_MAX, Seconds

VERSION = 2
"""As the first byte: 1 is a client's ticket."""
DOMAIN = b"mezzo peer\x00"
GOOD_S = 60
"""How long a credential is good for to open a connection with."""
CONNECTION_S = 600.0
"""How long the connection is: then the puller opens another, and shows that it is still registered."""
NONCES_MAX = 4096
"""Credentials that are remembered as used; more of them at a time are refused."""
PUBLIC_BYTES = 32

_HEAD_BYTES = 1 + 16
_REST_BYTES = _HEAD_BYTES + SIGNATURE_BYTES

Id = Annotated[bytes, Meta(min_length=16, max_length=16)]


class PeerCredential(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What it says."""

    pod: Id
    target: Id
    """the shard that it is shown to,"""
    target_incarnation: Id
    """in this life"""
    nonce: Id
    issued_s: Seconds
    """Unix time"""
    expires_s: Seconds
    """Unix time"""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PeerCredential).decode


class PeerKey:
    """A shard's own private key, in its memory and nowhere else. Its repr tells nothing of it."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        """``seed``: 32 secret random bytes."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._private.public_key().public_bytes_raw()
        """32 bytes"""

    def __repr__(self) -> str:
        return "<PeerKey>"

    def sign(self, puller: bytes, credential: PeerCredential) -> bytes:
        """The credential as it travels; ``puller``: whose key this is."""
        signed = bytes([VERSION]) + puller + _encode(credential)
        return signed + self._private.sign(DOMAIN + signed)


def is_peer_credential(data: bytes) -> bool:
    """Whether what stands in a HELLO claims to be one."""
    return data[:1] == bytes([VERSION])


def claimed_puller(data: bytes) -> bytes:
    """Who it says that shows it, before anything of that is proved. Raises Refused: it is malformed."""
    if not _REST_BYTES < len(data) <= TICKET_BYTES_MAX or not is_peer_credential(data):
        raise Refused(Reason.MALFORMED)
    return data[1:_HEAD_BYTES]


class PeerDoor:
    """Decides whom to let in as a peer. Owner of what was shown already, in this life of the shard."""

    def __init__(self, shard: bytes, incarnation: bytes) -> None:
        """Those of the shard that is asked."""
        self._shard = shard
        self._incarnation = incarnation
        self._used: dict[bytes, int] = {}
        """nonces, until when each could be shown again"""

    def admit(self, data: bytes, public: bytes, pod: bytes, now_s: float) -> bytes:
        """The shard that shows ``data``, whose ``public`` key is registered, in this ``pod``; ``now_s``: Unix time.

        Raises:
            Refused: it is not good; the text says no more.
        """
        puller = claimed_puller(data)
        signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, DOMAIN + signed)
        except (InvalidSignature, ValueError):
            raise Refused(Reason.SIGNATURE) from None
        # Only now: nothing of what strangers send is decoded.
        try:
            credential = _decode(signed[_HEAD_BYTES:])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise Refused(Reason.MALFORMED) from None
        if credential.pod != pod:
            raise Refused(Reason.POD)
        if (credential.target, credential.target_incarnation) != (self._shard, self._incarnation):
            raise Refused(Reason.AUDIENCE)
        if now_s >= credential.expires_s + SKEW_S or credential.expires_s - credential.issued_s > GOOD_S:
            raise Refused(Reason.EXPIRED)
        if now_s < credential.issued_s - SKEW_S:
            raise Refused(Reason.NOT_YET)
        self._use(credential, now_s)
        return puller

    def _use(self, credential: PeerCredential, now_s: float) -> None:
        if len(self._used) >= NONCES_MAX:
            self._used = {nonce: until for nonce, until in self._used.items() if until > now_s}
        if credential.nonce in self._used or len(self._used) >= NONCES_MAX:
            raise Refused(Reason.USED)
        self._used[credential.nonce] = credential.expires_s + SKEW_S
