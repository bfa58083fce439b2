"""TENANT_STAT: what a tenant uses of this shard, for operators. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.protocol.messages import Kind, NamespaceUse, TenantStat, TenantStated
from mezzo_server.blockstore.api import Scope

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def stat(session: Session, request_id: int, body: TenantStat) -> None:
    """Told from what is counted all the time: nothing is scanned."""
    service = session.service
    accounts, store, catalog = service.accounts, service.store, service.directory.catalog
    tenant = None if catalog is None else catalog.tenants.get(body.tenant)
    told = []
    for namespace_id in body.namespaces:
        namespace = None if catalog is None else catalog.namespaces.get(namespace_id)
        if tenant is None or namespace is None or namespace.tenant_id != tenant.id:
            continue
        scope = Scope(tenant.id, namespace.id, tenant.generation, namespace.generation)
        chunks, nbytes = store.space.namespace_use(scope)
        told.append(NamespaceUse(namespace.id, chunks, nbytes))
    session.send(
        Kind.TENANT_STATED,
        request_id,
        TenantStated(
            bytes=accounts.used_bytes(body.tenant),
            hot_bytes=accounts.hot_bytes(body.tenant),
            leased_bytes=accounts.leased_bytes(body.tenant),
            namespaces=told,
        ),
    )
