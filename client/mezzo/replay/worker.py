"""Serves one request: lookup of the prefix, get of what is there, put of what is not.

Or, in place: acquire of the prefix, what is hot compared where it lies, get of the rest of it.

Before a get every byte of its target is made wrong, after it every byte is compared with what was
put: what the store says it delivered is checked whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from mezzo.errors import Busy, DeadlineExceeded, Gone, RegionError, Unavailable
from mezzo.replay.figures import Served
from mezzo.replay.payload import Pattern
from mezzo.replay.trace import Request

REGION_BYTES = 16 * 1024**2
"""of each worker; what does not fit goes in several calls"""
BUSY_WAIT_S_MAX = 30.0
"""how long a call is repeated while the server says that it is busy"""
WRONG_KEPT_MAX = 16

LEASE_S = 30.0
"""of a prefix that is read in place"""

T = TypeVar("T")


class StoreClient(Protocol):
    """What a replay needs of `mezzo.Client`; `mezzo.testing.FakeClient` has it too."""

    def region(self, nbytes: int, /) -> Any:
        """Shared memory."""

    def acquire(self, keys: Sequence[bytes], ttl_s: float, /, *, in_place: bool = False) -> Any:
        """A lease on the prefix that is there, with its bytes where they lie."""

    def lookup(self, keys: Sequence[bytes], /) -> Any:
        """`.prefix`: how many keys from the first on are there."""

    def get(self, keys: Sequence[bytes], targets: Sequence[Any], /) -> Any:
        """`.found`: for each key, whether its bytes are in its target."""

    def put(self, keys: Sequence[bytes], sources: Sequence[Any], /, *, position: int = 0) -> Any:
        """`.stored` and `.exists`: how many."""

    def stat(self, keys: Sequence[bytes], /) -> Any:
        """For each key, None where it is not there."""


class ReplayOptions(Struct, frozen=True, kw_only=True):
    """How a trace is run."""

    block_bytes: int = 64 * 1024
    concurrency: int = 4
    time_scale: float = 0.0
    """seconds of the trace in one second; 0: as fast as possible"""
    salt: str = ""
    """another salt, other keys and bytes: nothing that an earlier replay left is a hit"""
    in_place: bool = False
    """read hot chunks where they lie, under a lease, instead of getting them (shared memory only)"""
    stop_s: float = 0.0
    """no request is begun any more after so long; 0: all are served"""
    rides_out: bool = False
    """a call that no shard answers is counted, and its blocks are misses; otherwise it ends the run"""


class Wrong(Struct, frozen=True):
    """A block that came back with other bytes than were put."""

    request: int
    hash_id: int
    wrong_bytes: int


class Tally(Struct):
    """What one thread, or all together, did. Written by its thread alone until that has ended."""

    requests: int = 0
    references: int = 0
    hits: int = 0
    """blocks of the prefix that came back, every byte of them right"""
    lost: int = 0
    """blocks that lookup had announced and get did not find (reclaimed in between)"""
    stored: int = 0
    exists: int = 0
    in_place: int = 0
    """of the hits, those that were read where they lie"""
    gone: int = 0
    """blocks that the shard took back while they were read in place: not believed, and misses"""
    refused: int = 0
    """blocks that were put and neither stored nor there"""
    got_bytes: int = 0
    put_bytes: int = 0
    wrong_blocks: int = 0
    wrong_bytes: int = 0
    busy: int = 0
    """answers "busy"; the call was repeated"""
    given_up: int = 0
    """calls that failed by their deadline, or were busy for `BUSY_WAIT_S_MAX`"""
    unreached: int = 0
    """calls that no shard answered, where the run rides that out"""
    late_s_max: float = 0.0
    """scaled time: by how much the latest request began too late"""
    lookup_s: list[float] = []
    get_s: list[float] = []
    put_s: list[float] = []
    acquire_s: list[float] = []
    served: list[Served] = []
    wrong: list[Wrong] = []

    def add(self, other: Tally) -> None:
        """Count ``other`` in."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, theirs) if name == "late_s_max" else mine + theirs)
        del self.wrong[WRONG_KEPT_MAX:]


class Worker:
    """Serves requests one after the other, through one client and one region cut into slots.

    `tally` counts what it does.
    """

    def __init__(
        self,
        client: StoreClient,
        options: ReplayOptions,
        tally: Tally,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
    ) -> None:
        size = options.block_bytes
        self._client = client
        self.pattern = Pattern(size, options.salt)
        self.tally = tally
        self._clock = clock
        self._stop = stop
        self._in_place = options.in_place
        self._rides_out = options.rides_out
        self.slots = max(1, REGION_BYTES // size)
        self._open_region()

    def _open_region(self) -> None:
        size, slots = self.pattern.block_bytes, self.slots
        self._region = self._client.region(slots * size)
        self._extents = [self._region[i * size : (i + 1) * size] for i in range(slots)]
        self._views = [self._region.view[i * size : (i + 1) * size] for i in range(slots)]

    def close(self) -> None:
        """Give the memory back (the views of it first, or the region could not be unmapped)."""
        self._extents.clear()
        for view in self._views:
            view.release()
        self._region.close()

    def serve(self, number: int, request: Request) -> tuple[int, int, int]:
        """Serve one request: blocks hit, bytes got, bytes put."""
        tally = self.tally
        hash_ids = request.hash_ids
        keys = [self.pattern.key(hash_id) for hash_id in hash_ids]
        tally.references += len(keys)
        got_before, put_before = tally.got_bytes, tally.put_bytes
        if self._in_place:
            hits = self._read_in_place(number, hash_ids, keys)
        else:
            hits = self._look_up_and_get(number, hash_ids, keys)
        tally.hits += hits
        for first in range(hits, len(keys), self.slots):
            last = first + self.slots
            self._put(hash_ids[first:last], keys[first:last], first)
        return hits, tally.got_bytes - got_before, tally.put_bytes - put_before

    def _look_up_and_get(self, number: int, hash_ids: Sequence[int], keys: list[bytes]) -> int:
        looked_up = self._call(self.tally.lookup_s, lambda: self._client.lookup(keys))
        announced = looked_up.prefix if looked_up is not None else 0
        return self._get_all(number, hash_ids[:announced], keys[:announced])

    def _read_in_place(self, number: int, hash_ids: Sequence[int], keys: list[bytes]) -> int:
        """Lease the prefix, compare what is hot, get the rest; how many from the first on are right."""
        tally = self.tally
        start_s = self._clock()
        try:
            lease = self._client.acquire(keys, LEASE_S, in_place=True)
        except (Busy, DeadlineExceeded) as error:
            # Leases are an extra: without one, the chunks are got.
            tally.busy += isinstance(error, Busy)
            return self._look_up_and_get(number, hash_ids, keys)
        finally:
            tally.acquire_s.append(self._clock() - start_s)
        hot: dict[int, int] = {}
        try:
            with lease.using() as views:
                for index, view in enumerate(views):
                    if view is not None:
                        hot[index] = self.pattern.wrong_bytes(view, hash_ids[index])
        except Gone:
            # Whatever was compared, right or wrong, is not to be believed.
            tally.gone += len(hot)
            hot.clear()
            return self._get_all(number, hash_ids[: lease.prefix], keys[: lease.prefix])
        else:
            return self._count_in_place(number, hash_ids, keys, lease.prefix, hot)
        finally:
            self._release(lease)

    def _count_in_place(
        self, number: int, hash_ids: Sequence[int], keys: list[bytes], prefix: int, hot: dict[int, int]
    ) -> int:
        """What came of the ``hot`` blocks, by index: their wrong bytes. Gets the others, as far as is right."""
        tally = self.tally
        for index, wrong in hot.items():
            if wrong:
                self._note_wrong(number, hash_ids[index], wrong)
        done = 0
        while done < prefix:
            if done in hot:
                if hot[done]:
                    break
                tally.in_place += 1
                done += 1
                continue
            last = done
            while last < prefix and last not in hot:
                last += 1
            fresh = self._get_all(number, hash_ids[done:last], keys[done:last])
            done += fresh
            if done < last:
                break
        return done

    def _release(self, lease: Any) -> None:
        try:
            lease.release()
        except Gone:
            # The check after reading has decided what is believed; what happened since does not matter.
            pass

    def _get_all(self, number: int, hash_ids: Sequence[int], keys: list[bytes]) -> int:
        """Get blocks in as many calls as it takes; how many from the first on are there and right."""
        hits = 0
        while hits < len(keys):
            count = min(len(keys) - hits, self.slots)
            fresh = self.get(number, hash_ids[hits : hits + count], keys[hits : hits + count])
            hits += fresh
            if fresh < count:
                break
        return hits

    def get(self, number: int, hash_ids: Sequence[int], keys: list[bytes]) -> int:
        """Get blocks and check them; how many from the first on are there and right."""
        tally, pattern, count = self.tally, self.pattern, len(keys)
        for hash_id, view in zip(hash_ids, self._views, strict=False):
            pattern.spoil(view, hash_id)
        targets = self._extents[:count]
        got = self._call(tally.get_s, lambda: self._client.get(keys, targets))
        if got is None:
            return 0
        right = [False] * count
        for index, hash_id in enumerate(hash_ids):
            if not got.found[index]:
                tally.lost += 1
                continue
            tally.got_bytes += pattern.block_bytes
            wrong = pattern.wrong_bytes(self._views[index], hash_id)
            if wrong:
                self._note_wrong(number, hash_id, wrong)
            right[index] = not wrong
        return right.index(False) if False in right else count

    def _note_wrong(self, number: int, hash_id: int, wrong_bytes: int) -> None:
        tally = self.tally
        tally.wrong_blocks += 1
        tally.wrong_bytes += wrong_bytes
        if len(tally.wrong) < WRONG_KEPT_MAX:
            tally.wrong.append(Wrong(number, hash_id, wrong_bytes))

    def _put(self, hash_ids: Sequence[int], keys: list[bytes], position: int) -> None:
        tally, pattern, count = self.tally, self.pattern, len(keys)
        for hash_id, view in zip(hash_ids, self._views, strict=False):
            pattern.fill(view, hash_id)
        sources = self._extents[:count]
        done = self._call(tally.put_s, lambda: self._client.put(keys, sources, position=position))
        if done is None:
            tally.refused += count
            return
        tally.stored += done.stored
        tally.exists += done.exists
        tally.refused += count - done.stored - done.exists
        tally.put_bytes += done.stored * pattern.block_bytes

    def _call(self, durations: list[float], call: Callable[[], T]) -> T | None:
        """The answer, or None where it was not to be had in time, or from nobody.

        Waits while the server is busy; that is part of the latency.
        """
        start_s = self._clock()
        try:
            while True:
                try:
                    return call()
                except Busy as busy:
                    self.tally.busy += 1
                    over = self._clock() - start_s >= BUSY_WAIT_S_MAX
                    if over or self._stop.wait(min(1.0, max(0.001, busy.retry_after_s))):
                        self.tally.given_up += 1
                        return None
                except DeadlineExceeded:
                    self.tally.given_up += 1
                    return None
                except Unavailable:
                    if not self._rides_out:
                        raise
                    self.tally.unreached += 1
                    return None
                except RegionError:
                    # A shard that was lost may be writing to it until its process has gone for good.
                    if not self._rides_out:
                        raise
                    self.tally.unreached += 1
                    self.close()
                    self._open_region()
                    return None
        finally:
            durations.append(self._clock() - start_s)
