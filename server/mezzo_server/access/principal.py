"""Who a caller is and what he may do, and why somebody is nobody. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag, StrEnum

from mezzo.errors import Unauthenticated
from mezzo_server.tenancy.model import SCOPES

NEVER = 1 << 40
"""Unix time that does not come: what has no end"""
NO_TENANT = b""
"""the tenant id of operators, who look after tenants and belong to none"""
REFUSED = "no credential, or none that is valid"
"""All that a caller is told: nothing that would help to guess."""


class Scopes(IntFlag):
    """What a credential is good for."""

    NONE = 0
    READ = 1
    """get, lookup, acquire, renew, release, stat, events"""
    WRITE = 2
    """put, delete"""
    ADMIN = 4
    """administration, by an operator; of a tenant's credential nothing asks for it"""


ALL_SCOPES = Scopes.READ | Scopes.WRITE | Scopes.ADMIN
SCOPE_NAMES = {name: Scopes[name.upper()] for name in SCOPES}


class Reason(StrEnum):
    """Why a credential is refused: for our log and metrics, never for the caller."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    """no such credential, or it is a wrong secret"""
    UNKNOWN_KEY = "unknown_key"
    """signed with a key that is not known (yet)"""
    SIGNATURE = "signature"
    POD = "pod"
    """of another pod"""
    AUDIENCE = "audience"
    ISSUER = "issuer"
    CLAIMS = "claims"
    """a claim is missing, or says nothing that we understand"""
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    """issued in the future"""
    TENANT = "tenant"
    """of a tenant that does not exist, or not any more"""
    OTHER_TENANT = "other_tenant"
    """a ticket to renew a session of another tenant"""
    USED = "used"
    """a shard's credential that was shown before"""
    REVOKED = "revoked"
    CERTIFICATE = "certificate"
    """names no tenant, or several"""
    UNAVAILABLE = "unavailable"
    """what it is to be checked against is not there"""


MAY_BE_NEW = frozenset({Reason.UNKNOWN_KEY, Reason.UNKNOWN, Reason.TENANT})
"""Reasons that who has not heard of the newest metadata would give as well: worth a look."""


class Refused(Unauthenticated):
    """A credential is refused. Its text is the same for all reasons; ``reason`` is for us."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(REFUSED)
        self.reason = reason


class UnknownKey(Refused):
    """No key of the set is the one that a token names: the set may be out of date."""

    def __init__(self) -> None:
        super().__init__(Reason.UNKNOWN_KEY)


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who was recognised."""

    tenant: bytes
    """id; `NO_TENANT`: an operator"""
    tenant_name: str
    """as of now, for people; empty: an operator"""
    scopes: Scopes
    credential: str
    """which one: the id of a static token, or a kind and something that tells it from others; no secret"""
    expires_s: int = NEVER
    """Unix time from which on it is good for nothing"""

    @property
    def is_operator(self) -> bool:
        """Whether he looks after tenants and belongs to none."""
        return self.tenant == NO_TENANT


def scopes_of(names: Iterable[str]) -> Scopes:
    """The scopes of these names; names that mean nothing to us are no scopes."""
    found = Scopes.NONE
    for name in names:
        found |= SCOPE_NAMES.get(name, Scopes.NONE)
    return found


def scope_names(scopes: Scopes) -> list[str]:
    """The names of scopes."""
    return [name for name, scope in SCOPE_NAMES.items() if scope & scopes]
