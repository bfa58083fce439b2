"""What a tenant is told of a shard: its own numbers, under the names of the whole's, and none of others. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


def numbers(session: Session) -> dict[str, int | float]:
    """Of the session's tenant, over all of its sessions."""
    service, guest = session.service, session.guest
    tenant = b"" if guest is None else guest.principal.tenant
    own = [
        known
        for known in service.sessions
        if known.guest is not None and known.guest.principal.tenant == tenant
    ]
    return {
        "connections": len(own),
        "requests_in_flight": sum(len(known.requests) for known in own),
        "regions": sum(len(known.regions) for known in own),
        "leased_bytes": service.leases.bytes_by_tenant.get(tenant, 0),
        "requests_max": service.limits.requests_max,
        "chunk_bytes_max": service.chunk_bytes_max,
    }
