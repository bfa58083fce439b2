"""What a client knows of second copies, and which of two it asks. No I/O, no clock of its own.

A namespace keeps one copy of each chunk or two, which shards say at the hello; beside that a chunk that is got often
may have a second copy for a while, which its owner says with the chunk.  Of two shards that have a chunk the less
loaded one is asked: the one with less under way of ours, in the time that it took for a chunk lately (two choices are
nearly as good as knowing all; Mitzenmacher, "The power of two choices in randomized load balancing", 2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.messages import Welcome
from mezzo.routing import Router

POPULAR_S = 10.0
"""For so long a chunk counts as popular after its owner said so; then that is asked again, and says it anew."""
POPULAR_MAX = 4096
"""chunks that count as popular at a time; over it the one that was told of first is forgotten"""
AVOIDED = float("inf")
AVOIDED_S = 1.0
"""A shard that did not answer is passed over for so long where another has a copy."""
CHUNK_S = 0.001
"""that a chunk takes at a shard which none was got from yet"""
NEWEST = 0.2
"""part of the last measurement in what a chunk is said to take"""
BIAS = 1.25
"""Shards whose loads differ by less count as equally loaded.  Then the owner is asked, so that not both have the chunk in
their hot tiers; but for what is popular, and belongs in both: there they take turns."""


class Load:
    """Of one shard, as far as this client goes."""

    __slots__ = ("avoided_until", "chunk_s", "chunks")

    def __init__(self) -> None:
        self.chunks = 0
        """under way"""
        self.chunk_s = CHUNK_S
        self.avoided_until = 0.0


class Copies:
    """Shared by the calls of a client, from any thread: all that is torn between two of them is a guess anyway."""

    def __init__(self, lock: AbstractContextManager[Any] | None = None) -> None:
        """``lock``: to be held while what is popular changes; None: there is one thread."""
        self.kept = 1
        """of each chunk of the namespace"""
        self.popular = False
        """whether chunks may have a second one because they are popular"""
        self._popular: dict[bytes, float] = {}
        """until when"""
        self._loads: dict[bytes, Load] = {}
        self._second_next = False
        """whose turn it is, of two that are equally loaded"""
        self._lock = nullcontext() if lock is None else lock

    def __repr__(self) -> str:
        return f"<Copies {self.kept} of each, {len(self._popular)} popular>"

    def met(self, limits: Welcome) -> None:
        """A shard answered our hello."""
        self.kept, self.popular = limits.copies, limits.popular

    def hear(self, kept: int) -> None:
        """Another number of copies is kept from now on."""
        self.kept = kept

    def follow(self, shards: Iterable[bytes]) -> None:
        """The pod has these shards."""
        there = set(shards)
        self._loads = {shard: load for shard, load in tuple(self._loads.items()) if shard in there}

    def are_popular(self, keys: Iterable[bytes], now: float) -> None:
        """The owner of these says that another shard has them too."""
        popular = self._popular
        with self._lock:
            for key in keys:
                popular.pop(key, None)
                while len(popular) >= POPULAR_MAX:
                    del popular[next(iter(popular))]
                popular[key] = now + POPULAR_S

    def seconds(self, router: Router, keys: Sequence[bytes], now: float) -> list[int] | None:
        """For each key who may have a second copy of it, `NOBODY` if there is none; None: there is none of any."""
        if not router.pod_map.seconds:
            return None
        if self.kept > 1:
            return router.seconds(keys)
        popular = self._popular
        if not popular:
            return None
        found = [popular.get(key, 0.0) > now for key in keys]
        if True not in found:
            self._expire(now)
            return None
        seconds = router.seconds(keys)
        return [second if there else NOBODY for second, there in zip(seconds, found, strict=True)]

    def doomed(self, router: Router, keys: Sequence[bytes]) -> list[int]:
        """For each key who must be told if it is deleted, since he may have a second copy; `NOBODY`: nobody."""
        if self.kept > 1 or self.popular:
            return router.seconds(keys)
        return [NOBODY] * len(keys)

    # Which of two.

    def choose(
        self, router: Router, keys: Sequence[bytes], owners: Sequence[int], seconds: Sequence[int], now: float
    ) -> list[int]:
        """Whom to get each chunk from. What is given to a shard counts for the next choice.

        A second that owned the slot before comes after the owner, if that answers: it may have what the owner did not take over.
        """
        given: dict[int, float] = {}
        chosen: list[int] = []
        formers = router.formers(keys)
        for key, owner, second, former in zip(keys, owners, seconds, formers, strict=True):
            shard = owner
            if second != NOBODY:
                for each in (owner, second):
                    if each not in given:
                        given[each] = self._busy_s(router, each, now)
                both = former != second or given[owner] == AVOIDED
                if both and given[second] * BIAS < given[owner]:
                    shard = second
                elif both and given[owner] * BIAS >= given[second] and self._popular.get(key, 0.0) > now:
                    shard = second if self._second_next else owner
                    self._second_next = not self._second_next
                given[shard] += self._load(router.shard_id(shard)).chunk_s
            chosen.append(shard)
        return chosen

    def answering(
        self, router: Router, owners: Sequence[int], seconds: Sequence[int], now: float
    ) -> list[int]:
        """Whom to ask what only one is asked: the owner of each chunk, unless it did not answer lately."""
        return [
            second
            if second != NOBODY
            and self._avoided(router, owner, now)
            and not self._avoided(router, second, now)
            else owner
            for owner, second in zip(owners, seconds, strict=True)
        ]

    def begin(self, shard: bytes, chunks: int) -> Load:
        """So many are being got from a shard: to be given to `end`."""
        load = self._load(shard)
        load.chunks += chunks
        return load

    def end(self, load: Load, chunks: int, seconds: float) -> None:
        """That is over; it took so long. If the shard has left the pod meanwhile, it is of no account."""
        load.chunks -= chunks
        load.chunk_s += NEWEST * (seconds / chunks - load.chunk_s)

    def silent(self, shard: bytes, now: float) -> None:
        """A shard did not answer."""
        self._load(shard).avoided_until = now + AVOIDED_S

    def _load(self, shard: bytes) -> Load:
        load = self._loads.get(shard)
        if load is None:
            load = self._loads.setdefault(shard, Load())
        return load

    def _busy_s(self, router: Router, shard: int, now: float) -> float:
        if self._avoided(router, shard, now):
            return AVOIDED
        load = self._load(router.shard_id(shard))
        return (load.chunks + 1) * load.chunk_s

    def _avoided(self, router: Router, shard: int, now: float) -> bool:
        load = self._loads.get(router.shard_id(shard))
        return load is not None and now < load.avoided_until

    def _expire(self, now: float) -> None:
        popular = self._popular
        with self._lock:
            while popular and popular[oldest := next(iter(popular))] <= now:
                del popular[oldest]
