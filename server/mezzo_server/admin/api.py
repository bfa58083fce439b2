"""What operators can do. One interface; `local` does it to the metadata, `remote` asks a front-end to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from mezzo.identity import Identity
from mezzo_server.tenancy.model import Lifetime, Limit, Namespace, Quota, Tenant

OPERATORS = ""
"""in the place of a tenant's name: those who belong to none"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is used of a node now."""

    chunks: int
    bytes: int
    hot_bytes: int
    leased_bytes: int


@dataclass(frozen=True, slots=True)
class NamespaceUsage:
    """What a namespace uses of a node now."""

    chunks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """A tenant's, in all and for each of its namespaces."""

    total: Usage
    namespaces: Mapping[bytes, NamespaceUsage] = field(default_factory=dict)
    """by id"""


class CredentialInfo(Struct, frozen=True, kw_only=True):
    """What may be told of a credential."""

    id: str
    tenant: str
    """its name; empty: an operator's"""
    scopes: list[str]
    created_s: int = 0
    expires_s: int = 0
    revoked: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """A new credential, and its token, which is told this once."""

    credential: CredentialInfo
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LifetimeChange:
    """What is to be different; None: as it is."""

    ttl_s_default: int | None = None
    ttl_s_max: int | None = None

    def __bool__(self) -> bool:
        return self.ttl_s_default is not None or self.ttl_s_max is not None

    def of(self, was: Lifetime) -> Lifetime:
        """The lifetime as it is then."""
        return Lifetime(
            ttl_s_default=was.ttl_s_default if self.ttl_s_default is None else self.ttl_s_default,
            ttl_s_max=was.ttl_s_max if self.ttl_s_max is None else self.ttl_s_max,
        )


@dataclass(frozen=True, slots=True)
class TenantChange:
    """What is to be different."""

    weight: int | None = None
    quota: Mapping[str, Limit] = field(default_factory=dict)
    """by the name of a field of `Quota`"""
    lifetime: LifetimeChange = LifetimeChange()
    copies: int | None = None

    def of(self, was: Tenant) -> Tenant:
        """The tenant as it is then."""
        return replace(
            was,
            weight=was.weight if self.weight is None else self.weight,
            quota=replace(was.quota, **self.quota),
            lifetime=self.lifetime.of(was.lifetime),
            copies=was.copies if self.copies is None else self.copies,
        )


@dataclass(frozen=True, slots=True)
class NamespaceChange:
    """What is to be different."""

    lifetime: LifetimeChange = LifetimeChange()
    copies: int | None = None
    """0: as the tenant's"""

    def of(self, was: Namespace) -> Namespace:
        """The namespace as it is then."""
        return replace(
            was,
            lifetime=self.lifetime.of(was.lifetime),
            copies=was.copies if self.copies is None else self.copies,
        )


class Admin(ABC):
    """An operator's way to tenants, namespaces and credentials; tenants go by their names.

    All may raise `Denied` and `Unauthenticated` (no operator), `Unavailable`, `Busy`; those that change
    something `InvalidArgument` (there is no such thing, or a value is out of range), `Conflict` and
    `OverQuota` as `tenancy.registry.Registry` does.
    """

    @abstractmethod
    async def create_tenant(
        self, name: str, *, weight: int, quota: Quota, lifetime: Lifetime, encrypted: bool, copies: int = 1
    ) -> Tenant:
        """A new tenant, and its namespace ``default``."""

    @abstractmethod
    async def tenants(self, *, deleted: bool = False) -> list[Tenant]:
        """All, by name; with ``deleted`` those that are known to have been as well."""

    @abstractmethod
    async def tenant(self, name: str) -> tuple[Tenant, Usage | None]:
        """One, and what it uses; None: the shard cannot be asked."""

    @abstractmethod
    async def set_tenant(self, name: str, change: TenantChange) -> Tenant:
        """The tenant, changed."""

    @abstractmethod
    async def rotate_tenant(self, name: str, overlap_s: int) -> list[IssuedCredential]:
        """A new token in the place of each in force, which are good for ``overlap_s`` more."""

    @abstractmethod
    async def delete_tenant(self, name: str) -> Tenant:
        """The tenant, deleted: nothing of it can be read any more."""

    @abstractmethod
    async def issue_credential(
        self, tenant: str, scopes: Sequence[str], *, expires_s: int = 0, note: str = ""
    ) -> IssuedCredential:
        """A new token; of an operator if ``tenant`` is `OPERATORS`."""

    @abstractmethod
    async def credentials(self, tenant: str | None = None) -> list[CredentialInfo]:
        """Of a tenant, of operators, or all (None); oldest first."""

    @abstractmethod
    async def revoke_credential(self, credential_id: str) -> CredentialInfo:
        """The credential, void from now on."""

    @abstractmethod
    async def add_namespace(self, tenant: str, name: str, identity: Identity | None) -> Namespace:
        """The tenant's namespace of this name (empty: after its identity); made if there is none."""

    @abstractmethod
    async def namespaces(self, tenant: str, *, deleted: bool = False) -> list[Namespace]:
        """A tenant's, by name."""

    @abstractmethod
    async def namespace(self, tenant: str, name: str) -> tuple[Namespace, NamespaceUsage | None]:
        """One, and what it uses; None: the shard cannot be asked."""

    @abstractmethod
    async def set_namespace(self, tenant: str, name: str, change: NamespaceChange) -> Namespace:
        """The namespace, changed."""

    @abstractmethod
    async def purge_namespace(self, tenant: str, name: str) -> Namespace:
        """The namespace, empty: nothing that was in it can be read any more."""

    @abstractmethod
    async def delete_namespace(self, tenant: str, name: str) -> Namespace:
        """The namespace, deleted as well."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything."""
