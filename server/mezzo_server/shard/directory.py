"""Whose namespace a name means, and in which scope its chunks are. No I/O.

Where metadata are kept the catalog says so: a name is looked up among those of the session's own tenant,
so that one of another tenant's is as absent as one that exists nowhere.  Where none are kept there is one
tenant, whose ids come from the store's, and every name is a namespace.  Shards of one node, whose stores
are different, agree on these ids all the same: by them the owner of a chunk is found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mezzo.errors import Conflict, Gone, InvalidArgument, MezzoError
from mezzo.identity import Identity, conflict_message
from mezzo_server.access.principal import Principal
from mezzo_server.blockstore.api import Scope
from mezzo_server.shard.naming import name_without_catalog
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Namespace, Tenant

Looked = Callable[[MezzoError | None], None]
Look = Callable[[Looked], None]
"""asks that the metadata are looked at at once, and to be called when the catalog is as they are"""

SEVERAL_SHARDS = b"shards of a node"
"""What ids come from at each shard of a node that has several."""

NOWHERE = Scope(bytes(16), bytes(16))
"""Nobody's: of sessions that have said nothing yet, and of operators."""


class NoSuchNamespace(InvalidArgument):
    """The tenant has no namespace of this name, as far as the catalog knows."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session's chunks are."""

    scope: Scope
    identity: Identity | None = None
    """what their bytes are, if that is known"""
    tenant: Tenant | None = None
    """None: no metadata are kept"""
    namespace: Namespace | None = None


class Directory:
    """Finds places. Owner of the catalog that is in force on a shard."""

    def __init__(self, origin: bytes) -> None:
        """``origin``: what ids come from where no metadata are kept; a store's id, or `SEVERAL_SHARDS`."""
        self.tenant = hashlib.blake2b(origin + b"tenant", digest_size=16).digest()
        """of all sessions, where no metadata are kept"""
        self.catalog: Catalog | None = None
        self.look: Look | None = None
        """None: no metadata are kept, or nobody can be asked"""

    def scope_without_catalog(self, namespace: str) -> Scope:
        """The scope of a namespace's name where no metadata are kept."""
        digest = hashlib.blake2b(self.tenant + namespace.encode("utf-8"), digest_size=16).digest()
        return Scope(self.tenant, digest)

    def scope_of(self, tenant_id: bytes, namespace_id: bytes) -> Scope | None:
        """The scope of a tenant's namespace by the catalog in force; None: there is none, or it was deleted."""
        catalog = self.catalog
        tenant = None if catalog is None else catalog.tenant(tenant_id)
        namespace = None if catalog is None else catalog.namespaces.get(namespace_id)
        if tenant is None or namespace is None or namespace.deleted or namespace.tenant_id != tenant_id:
            return None
        return _place(tenant, namespace).scope

    def find(self, principal: Principal, name: str, identity: Identity | None) -> Place:
        """Where the chunks of a session are that says this of itself.

        Raises:
            NoSuchNamespace: it may be new: `look`, and try again.
            Conflict: the namespace has another identity; the message shows both.
        """
        catalog = self.catalog
        if catalog is None:
            return Place(self.scope_without_catalog(name_without_catalog(name, identity)), identity)
        if principal.is_operator:
            return Place(NOWHERE)
        tenant = catalog.tenant(principal.tenant)
        namespace = None if tenant is None else catalog.namespace(tenant.id, name)
        if tenant is None or namespace is None:
            raise NoSuchNamespace(
                f"there is no namespace {name!r}: a front-end makes it at its first use, or `mezzo namespace open`"
            )
        if identity is not None and identity != namespace.identity:
            raise Conflict(conflict_message(name, namespace.identity, identity))
        return _place(tenant, namespace)

    def again(self, place: Place) -> Place:
        """The place in the catalog that is in force now: other generations, another lifetime.

        Raises:
            Gone: the namespace or its tenant was deleted.
        """
        catalog = self.catalog
        if catalog is None or place.tenant is None or place.namespace is None:
            return place
        tenant = catalog.tenant(place.tenant.id)
        namespace = catalog.namespaces.get(place.namespace.id)
        if tenant is None or namespace is None or namespace.deleted:
            raise Gone(f"the namespace {place.namespace.name!r} was deleted")
        if tenant is place.tenant and namespace is place.namespace:
            return place
        return _place(tenant, namespace)


def _place(tenant: Tenant, namespace: Namespace) -> Place:
    scope = Scope(tenant.id, namespace.id, tenant.generation, namespace.generation)
    return Place(scope, namespace.identity, tenant, namespace)
