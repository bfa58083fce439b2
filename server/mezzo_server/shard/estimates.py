"""What LOOKED_UP and ACQUIRED tell of the time that a load would take. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.protocol.messages import LookedUp

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

NOTHING = LookedUp(0, 0, 0)


def tell_load(session: Session, keys: Sequence[bytes], known: tuple[int, int] | None = None) -> LookedUp:
    """The present prefix, and what loading it on this connection would take now.

    ``known``: its keys and bytes, if somebody has looked already.
    """
    store = session.service.store
    scope = session.scope
    prefix, nbytes, hot_prefix, hot, slowest = store.sizes(scope, keys, known=known)
    if not prefix:
        return NOTHING
    cold = nbytes - hot if hot < nbytes else 0
    hot_us, device_us, load_us, high_us, wait_us = store.loads.microseconds(
        scope.tenant, hot, cold, session.network if session.streams else None, slowest
    )
    return LookedUp(prefix, nbytes, load_us, hot_prefix, hot, hot_us, device_us, high_us, wait_us)
