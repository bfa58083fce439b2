"""The catalog: all tenants, namespaces, ticket keys and revocations as of one revision of the metadata.

Immutable.  A shard and a front-end hold one, replace it when the metadata change, and go on with the last
one while the metadata engine cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mezzo_server.tenancy.model import Credential, Namespace, Tenant, TenantKey, TicketKey


@dataclass(frozen=True, slots=True)
class Catalog:
    """Who and what there is. What was deleted is still in ``tenants`` and ``namespaces``, marked."""

    revision: int = 0
    tenants: Mapping[bytes, Tenant] = field(default_factory=dict)
    """by id"""
    namespaces: Mapping[bytes, Namespace] = field(default_factory=dict)
    """by id"""
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    """by id"""
    ticket_keys: Mapping[bytes, TicketKey] = field(default_factory=dict)
    """by id"""
    tenant_keys: Mapping[bytes, TenantKey] = field(default_factory=dict)
    """of tenants whose chunks are encrypted, wrapped; by tenant id"""
    tenant_ids: Mapping[str, bytes] = field(default_factory=dict)
    """by name; of those that are not deleted"""
    namespace_ids: Mapping[tuple[bytes, str], bytes] = field(default_factory=dict)
    """by tenant id and name; of those that are not deleted, and whose tenants are not"""

    def tenant(self, tenant_id: bytes) -> Tenant | None:
        """A tenant that is not deleted."""
        tenant = self.tenants.get(tenant_id)
        return None if tenant is None or tenant.deleted else tenant

    def tenant_named(self, name: str) -> Tenant | None:
        """The tenant that has this name now."""
        tenant_id = self.tenant_ids.get(name)
        return None if tenant_id is None else self.tenant(tenant_id)

    def namespace(self, tenant_id: bytes, name: str) -> Namespace | None:
        """A tenant's namespace of this name, if neither is deleted."""
        namespace_id = self.namespace_ids.get((tenant_id, name))
        return None if namespace_id is None else self.namespaces.get(namespace_id)
