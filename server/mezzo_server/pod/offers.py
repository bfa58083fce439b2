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


class Waiting(NamedTuple):
    """A chunk that waits to be offered."""

    scope: Scope
    popular: bool
    since: float


class Offers:
    """Owner of what is to be offered. Used by one thread."""

    def __init__(self, second_of: SecondOf, random: Callable[[], float]) -> None:
        self._second_of = second_of
        self._random = random
        self._lines: OrderedDict[bytes, OrderedDict[Name, Waiting]] = OrderedDict()
        """by second, which had its turn longest ago first; in each those that wait longest. None is empty"""
        self._line_of: dict[Name, bytes] = {}
        """of each that waits, the second"""
        self._under_way: set[bytes] = set()
        """seconds"""
        self._failed: dict[bytes, Backoff] = {}
        """seconds that did not answer last"""
        self._numbers = dict(NOTHING_OFFERED)

    def add(self, scope: Scope, keys: Iterable[bytes], now: float, *, popular: bool = False) -> None:
        """These are here, and are to be elsewhere as well."""
        for key in keys:
            name = scope.tenant, scope.namespace, key
            second = self._line_of.get(name)
            if second is not None:
                known = self._lines[second][name]
                if known.scope != scope or known.popular:
                    self._lines[second][name] = Waiting(scope, popular, now)
                continue  # else it is to be kept, not only for a while
            second = self._second_of(scope, key) if len(self._line_of) < QUEUE_KEYS_MAX else None
            if second is None:
                self._numbers["pod_offers_dropped"] += 1
            else:
                self._wait(name, second, Waiting(scope, popular, now))

    def next(self, now: float) -> Offer | None:
        """What is to be offered now; None: nothing, see `wait_s`."""
        if len(self._under_way) >= OFFERS_MAX:
            return None
        for second in tuple(self._lines):
            self._drop_late(second, now)
            offer = self._offer_to(second) if self._ready(second, now) else None
            if offer is not None:
                self._under_way.add(second)
                return offer
        return None

    def wait_s(self, now: float) -> float | None:
        """When to ask `next` again although nothing has happened, seconds; None: not before something does."""
        if not self._line_of or len(self._under_way) >= OFFERS_MAX:
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
        for key, since in zip(reversed(offer.keys), reversed(offer.since), strict=True):
            name = offer.scope.tenant, offer.scope.namespace, key
            if name not in self._line_of and len(self._line_of) < QUEUE_KEYS_MAX:
                self._wait(name, offer.second, Waiting(offer.scope, offer.popular, since))
                self._lines[offer.second].move_to_end(name, last=False)
            else:
                self._numbers["pod_offers_dropped"] += 1

    def forget(self, scope: Scope, keys: Iterable[bytes]) -> None:
        """These are being deleted here."""
        if self._line_of:
            for key in keys:
                name = scope.tenant, scope.namespace, key
                if name in self._line_of:
                    self._leave(name)

    def follow(self, shards: Sequence[bytes]) -> None:
        """The pod has these shards."""
        self._failed = {shard: backoff for shard, backoff in self._failed.items() if shard in shards}

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {**self._numbers, "pod_offers_queued": len(self._line_of)}

    def _wait(self, name: Name, second: bytes, waiting: Waiting) -> None:
        self._line_of[name] = second
        self._lines.setdefault(second, OrderedDict())[name] = waiting

    def _leave(self, name: Name) -> None:
        second = self._line_of.pop(name)
        line = self._lines[second]
        del line[name]
        if not line:
            del self._lines[second]

    def _drop_late(self, second: bytes, now: float) -> None:
        line = self._lines[second]
        while line and now - line[name := next(iter(line))].since > LATE_S:
            self._leave(name)
            self._numbers["pod_offers_dropped"] += 1

    def _offer_to(self, second: bytes) -> Offer | None:
        """The first that waits for a shard, and others of its scope; it is the last from then on."""
        offer: Offer | None = None
        line = self._lines.get(second)
        for name, waiting in () if line is None else tuple(islice(line.items(), BATCH_LOOKED_MAX)):
            now_second = self._second_of(waiting.scope, name[2])
            if now_second != second:
                self._leave(name)
                if now_second is None:
                    self._numbers["pod_offers_dropped"] += 1
                else:
                    self._wait(name, now_second, waiting)
                continue
            if offer is None:
                offer = Offer(second, waiting.scope, [], waiting.popular, [])
            if (waiting.scope, waiting.popular) == (offer.scope, offer.popular):
                offer.keys.append(name[2])
                offer.since.append(waiting.since)
                self._leave(name)
                if len(offer.keys) == BATCH_KEYS_MAX:
                    break
        if second in self._lines:
            self._lines.move_to_end(second)
        return offer

    def _ready(self, second: bytes, now: float) -> bool:
        backoff = self._failed.get(second)
        return second not in self._under_way and (backoff is None or now >= backoff.not_before)
