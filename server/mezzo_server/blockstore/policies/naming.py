"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.policies.base import ReclaimPolicy
from mezzo_server.blockstore.policies.density import Density
from mezzo_server.blockstore.policies.fifo import FifoReinsertion
from mezzo_server.blockstore.policies.lru import Lru
from mezzo_server.blockstore.policies.s3fifo import S3Fifo
from mezzo_server.blockstore.policies.sieve import Sieve

POLICIES: dict[str, Callable[[], ReclaimPolicy]] = {
    kind.name: kind for kind in (Density, FifoReinsertion, Lru, S3Fifo, Sieve)
}


def policy(name: str) -> ReclaimPolicy:
    """The policy of that name. InvalidArgument names those there are."""
    try:
        return POLICIES[name]()
    except KeyError:
        raise InvalidArgument(
            f"policy {name!r} is unknown; there are {', '.join(sorted(POLICIES))}"
        ) from None
