"""What an owner tells seconds of: chunks that they are to pull from it, when, and how often it is tried. No I/O, no clock.

A second copy follows its first: nobody waits for it.  So all is bounded here, and what is over a bound, or was not
taken in time, is counted and forgotten; a chunk that a second is asked for and does not have is pulled anyway.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mezzo.backoff import Backoff
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.heat import Name

QUEUE_KEYS_MAX = 16384
"""Chunks that wait to be offered; over it those that come are left out."""
BATCH_KEYS_MAX = 256
BATCH_LOOKED_MAX = 1024
OFFERS_MAX = 4
"""under way at a time, one to each shard"""
LATE_S = 60.0
"""What could not be offered for so long is given up."""
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 10.0

SecondOf = Callable[[Scope, bytes], bytes | None]
"""The shard that is to have a second copy of a key of ours; None: nobody, or the key is not ours."""

NOTHING_OFFERED: Mapping[str, int | float] = dict.fromkeys(
    ("pod_offers", "pod_offers_dropped", "pod_offers_failed", "pod_offers_queued"), 0
)
NOTHING_LEFT: Mapping[str, int | float] = dict.fromkeys(
    ("pod_left_told", "pod_left_failed", "pod_left_queued", "pod_left_anew", "pod_puts_barred"), 0
)
NOTHING_COPIED: Mapping[str, int | float] = {
    **NOTHING_OFFERED,
    **NOTHING_LEFT,
    **dict.fromkeys(("pod_popular_chunks", "pod_popular_bytes", "pod_popular_refused"), 0),
}
"""The numbers of a shard whose chunks have one copy."""


class Offer(NamedTuple):
    """Chunks of one namespace that one shard is told of. To be ended with `Offers.ended`."""

    second: bytes
    scope: Scope
    keys: list[bytes]
    popular: bool
    """for a while only, since they are popular"""
    since: list[float]


class Offers:
    """Owner of what is to be offered. Used by one thread."""

    def __init__(self, second_of: SecondOf, random: Callable[[], float]) -> None:
        self._second_of = second_of
        self._random = random
        self._queue: OrderedDict[Name, tuple[Scope, bool, float]] = OrderedDict()
        self._under_way: set[bytes] = set()
        """seconds"""
        self._failed: dict[bytes, Backoff] = {}
        """seconds that did not answer last"""
        self._numbers = dict(NOTHING_OFFERED)

    def add(self, scope: Scope, keys: Iterable[bytes], now: float, *, popular: bool = False) -> None:
        """These are here, and are to be elsewhere as well."""
        queue = self._queue
        for key in keys:
            name = scope.tenant, scope.namespace, key
            known = queue.get(name)
            if known is not None and known[0] == scope and not known[1]:
                continue  # it is to be kept, not only for a while
            if known is None and len(queue) >= QUEUE_KEYS_MAX:
                self._numbers["pod_offers_dropped"] += 1
                continue
            queue[name] = scope, popular, now

    def next(self, now: float) -> Offer | None:
        """What is to be offered now; None: nothing, see `wait_s`."""
        if len(self._under_way) >= OFFERS_MAX:
            return None
        first: Offer | None = None
        for name, (scope, popular, since) in list(islice(self._queue.items(), BATCH_LOOKED_MAX)):
            key = name[2]
            second = self._second_of(scope, key)
            if second is None or now - since > LATE_S:
                del self._queue[name]
                self._numbers["pod_offers_dropped"] += 1
            elif first is None:
                if self._ready(second, now):
                    first = Offer(second, scope, [key], popular, [since])
                    del self._queue[name]
                else:
                    self._queue.move_to_end(name)  # it must not hide those of others
            elif (second, scope, popular) == (first.second, first.scope, first.popular):
                first.keys.append(key)
                first.since.append(since)
                del self._queue[name]
                if len(first.keys) == BATCH_KEYS_MAX:
                    break
        if first is not None:
            self._under_way.add(first.second)
        return first

    def wait_s(self, now: float) -> float | None:
        """When to ask `next` again although nothing has happened, seconds; None: not before something does."""
        if not self._queue or len(self._under_way) >= OFFERS_MAX:
            return None
        waits = [backoff.not_before - now for backoff in self._failed.values() if backoff.not_before > now]
        return min([*waits, LATE_S])

    def ended(self, offer: Offer, now: float, *, failed: bool) -> None:
        """The other has heard of it; or ``failed``: it is tried again, while it matters."""
        self._under_way.discard(offer.second)
        if not failed:
            self._failed.pop(offer.second, None)
            self._numbers["pod_offers"] += len(offer.keys)
            return
        self._numbers["pod_offers_failed"] += 1
        backoff = self._failed.get(offer.second)
        if backoff is None:
            backoff = self._failed[offer.second] = Backoff(
                self._random, first_s=BACKOFF_S_MIN, max_s=BACKOFF_S_MAX
            )
        backoff.failed(now)
        for key, since in zip(offer.keys, offer.since, strict=True):
            name = offer.scope.tenant, offer.scope.namespace, key
            if name not in self._queue and len(self._queue) < QUEUE_KEYS_MAX:
                self._queue[name] = offer.scope, offer.popular, since
            else:
                self._numbers["pod_offers_dropped"] += 1

    def forget(self, scope: Scope, keys: Iterable[bytes]) -> None:
        """These are being deleted here."""
        if self._queue:
            for key in keys:
                self._queue.pop((scope.tenant, scope.namespace, key), None)

    def follow(self, shards: Sequence[bytes]) -> None:
        """The pod has these shards."""
        self._failed = {shard: backoff for shard, backoff in self._failed.items() if shard in shards}

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {**self._numbers, "pod_offers_queued": len(self._queue)}

    def _ready(self, second: bytes, now: float) -> bool:
        backoff = self._failed.get(second)
        return second not in self._under_way and (backoff is None or now >= backoff.not_before)
