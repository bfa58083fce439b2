"""What a tenant is told of a shard: its own numbers, and none of others. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo_server.quota.account import LIMITS

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def numbers(session: Session) -> dict[str, int | float]:
    """Of the session's tenant, over all of its sessions; of its namespaces, the session's alone."""
    service, guest = session.service, session.guest
    tenant = b"" if guest is None else guest.principal.tenant
    own = [
        known
        for known in service.sessions
        if known.guest is not None and known.guest.principal.tenant == tenant
    ]
    told: dict[str, int | float] = {
        "connections": len(own),
        "requests_in_flight": sum(len(known.requests) for known in own),
        "regions": sum(len(known.regions) for known in own),
        "leased_bytes": service.leases.bytes_by_tenant.get(tenant, 0),
        "requests_max": service.limits.requests_max,
        "chunk_bytes_max": service.chunk_bytes_max,
    }
    if not tenant:
        return told
    accounts = service.accounts
    account = accounts.of(tenant)
    chunks, nbytes = service.store.space.namespace_use(session.scope)
    told |= {
        "capacity_bytes": accounts.used_bytes(tenant),
        "hot_bytes": accounts.hot_bytes(tenant),
        "requests": account.requests_total,
        "payload_bytes": account.bytes_total,
        "over_quota": sum(account.refusals.values()),
        "namespace_chunks": chunks,
        "namespace_bytes": nbytes,
    }
    for name in LIMITS:
        limit = getattr(account.quota, name)
        told |= {f"quota_{name}_soft": limit.soft, f"quota_{name}_hard": limit.hard}
    return told
