"""What is kept of tenants, namespaces, credentials and ticket keys. Immutable; stored as JSON (`mezzo_server.stored`).

Fields that a later release adds are kept by an older one, and ignored; but an `Identity` has no field that may be
ignored, so that one of a later release is not read.

Ids of tenants and namespaces are 128 random bits, drawn once and never used again.  A generation is
raised to erase all that was stored before.  A record of what was deleted stays, so that its id keeps
its generation; its name is free again.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mezzo.identity import Identity as Identity  # noqa: PLC0414 - one definition for both sides
from mezzo_server.stored import Stored

Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NAME_FORM = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
"""of a tenant's name: a regular expression that it matches as a whole"""
Name = Annotated[str, Meta(pattern=rf"^{NAME_FORM}\Z")]
NAME_CHARACTERS_MAX = 128
WEIGHT_MAX = 1000
NOTE_CHARACTERS_MAX = 256
SCOPES = ("read", "write", "admin")
"""what a credential may allow"""

COPIES_MAX = 2
"""of a chunk that a pod keeps"""

DEFAULT_NAMESPACE = "default"


class Limit(Struct, frozen=True):
    """A quota's two limits; 0: none.

    Over ``soft`` the tenant is over its share: its chunks go first and its requests come last while others
    have queued work.  Over ``hard`` it is refused with `OverQuota`.
    """

    soft: Natural = 0
    hard: Natural = 0


class Quota(Struct, frozen=True, kw_only=True):
    """What one tenant may use of a pod, or of a node that is of none."""

    capacity_bytes: Limit = Limit()
    """of chunks on devices, in whole blocks"""
    hot_bytes: Limit = Limit()
    """of the hot tier"""
    leased_bytes: Limit = Limit()
    """of chunks under leases; one in two leases counts twice"""
    bytes_per_s: Limit = Limit()
    """payload put and got"""
    requests_per_s: Limit = Limit()


class Lifetime(Struct, frozen=True, kw_only=True):
    """How long chunks live, seconds; 0: without end."""

    ttl_s_default: Natural = 0
    """of a chunk that is put without one"""
    ttl_s_max: Natural = 0
    """the longest that a put may ask for; a longer wish, and none, get this"""


class Tenant(Stored, frozen=True, kw_only=True):
    """Who is isolated, limited and accounted."""

    id: Id
    name: Name
    generation: Natural = 0
    weight: Annotated[int, Meta(ge=1, le=WEIGHT_MAX)] = 1
    """its share of device and network time beside other tenants that have work"""
    quota: Quota = Quota()
    lifetime: Lifetime = Lifetime()
    encrypted: bool = False
    """its chunks are encrypted at rest, with a key of its own"""
    created_s: Natural = 0
    """Unix time"""
    deleted: bool = False
    copies: Annotated[int, Meta(ge=1, le=COPIES_MAX)] = 1
    """that a pod keeps of its chunks"""


class Namespace(Stored, frozen=True, kw_only=True):
    """A tenant's namespace."""

    id: Id
    tenant_id: Id
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    identity: Identity | None = None
    """None: whoever opened it said nothing of its bytes"""
    generation: Natural = 0
    lifetime: Lifetime = Lifetime()
    """zeros: as the tenant's"""
    created_s: Natural = 0
    deleted: bool = False
    copies: Annotated[int, Meta(ge=0, le=COPIES_MAX)] = 0
    """that a pod keeps of its chunks; 0: as many as of its tenant's"""


def copies_of(tenant: Tenant, namespace: Namespace) -> int:
    """How many copies a pod keeps of a namespace's chunks."""
    return namespace.copies or tenant.copies


class Credential(Stored, frozen=True, kw_only=True):
    """A static token, of which only a hash is kept."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    tenant_id: Annotated[bytes, Meta(max_length=16)] = b""
    """empty: an operator's, who looks after tenants and belongs to none"""
    hash: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """SHA-256 of the secret: 256 random bits need no slow hash"""
    scopes: list[str] = msgspec.field(default_factory=list)
    """``read``, ``write``, ``admin``"""
    created_s: Natural = 0
    expires_s: Natural = 0
    """Unix time; 0: never"""
    revoked: bool = False
    note: Annotated[str, Meta(max_length=NOTE_CHARACTERS_MAX)] = ""


class TicketKey(Stored, frozen=True, kw_only=True):
    """A front-end's public key, with which shards check its tickets."""

    id: Annotated[bytes, Meta(min_length=8, max_length=8)]
    public: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """Ed25519, RFC 8032"""
    expires_s: Natural
    """Unix time; no ticket that it signed is good for longer"""


class TenantKey(Stored, frozen=True, kw_only=True):
    """The key with which a tenant's chunks are encrypted, wrapped with a master key (`tenancy.keys`)."""

    tenant_id: Id
    master_id: Annotated[bytes, Meta(min_length=8, max_length=8)]
    """of the master key that wrapped it"""
    wrapped: Annotated[bytes, Meta(min_length=60, max_length=60)]
    """nonce (12 bytes), encrypted key (32), tag (16)"""
