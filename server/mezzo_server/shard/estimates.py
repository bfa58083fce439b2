"""What LOOKED_UP and ACQUIRED tell of the time that a load would take. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


class LoadTold(NamedTuple):
    """The numbers of an answer, in microseconds and bytes; see `mezzo.protocol.messages.LookedUp`."""

    load_us: int
    hot_prefix: int
    hot_bytes: int
    hot_load_us: int
    device_load_us: int
    load_high_us: int
    load_wait_us: int


NOTHING = LoadTold(0, 0, 0, 0, 0, 0, 0)


def tell_load(session: Session, keys: Sequence[bytes]) -> tuple[int, int, LoadTold]:
    """Keys of the present prefix, their bytes, and what loading them on this connection would take now."""
    store = session.service.store
    scope = session.scope
    sizes = store.sizes(scope, keys)
    if not sizes.prefix:
        return 0, 0, NOTHING
    hot = sizes.hot_bytes
    estimate = store.loads.estimate(
        scope.tenant,
        hot,
        max(0, sizes.bytes - hot),
        session.network if session.streams else None,
        one_device=sizes.one_device,
    )
    told = LoadTold(
        int(estimate.seconds * 1e6),
        sizes.hot_prefix,
        hot,
        int(estimate.hot_s * 1e6),
        int(estimate.device_s * 1e6),
        int(estimate.high_s * 1e6),
        int(estimate.wait_s * 1e6),
    )
    return sizes.prefix, sizes.bytes, told
