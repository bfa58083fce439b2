"""How long chunks live: what a put asks for, within what its namespace and tenant allow. No clock."""

from __future__ import annotations

from mezzo.protocol.messages import LIFE_MS_MAX
from mezzo_server.tenancy.model import Lifetime

UNBOUNDED = Lifetime()


def ttl_ms(wish_ms: int, tenant: Lifetime = UNBOUNDED, namespace: Lifetime = UNBOUNDED) -> int:
    """Milliseconds that a chunk lives which is put with this wish; 0, of either: without end.

    The default is the namespace's, or else its tenant's.  Both ceilings hold.
    """
    default_s = namespace.ttl_s_default or tenant.ttl_s_default
    ceilings = [one.ttl_s_max for one in (tenant, namespace) if one.ttl_s_max]
    chosen = wish_ms or default_s * 1000
    if ceilings:
        most = min(ceilings) * 1000
        chosen = min(chosen or most, most)
    return min(chosen, LIFE_MS_MAX)
