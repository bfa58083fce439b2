"""The two operations that move chunks: get and put, over shared memory and over the stream. No I/O.

Over shared memory a shard moves the bytes and has checked them before it answers.  Over the stream
the SDK receives them straight into their targets and checks them itself: the checksums are seeded
with tenant, namespace and key, so the right bytes of a wrong chunk do not pass.  A target whose
bytes are not confirmed is overwritten with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le

import xxhash

from mezzo.checksum import chunk_seed, part_seed
from mezzo.errors import ProtocolError
from mezzo.operations import Operation, expect
from mezzo.outgoing import Payload
from mezzo.places import Place, Places
from mezzo.protocol import messages
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import Body, Kind
from mezzo.regions import Extent, Region
from mezzo.results import PutState
from mezzo.statistics import Counters

_ZEROS = bytes(1 << 20)


def zero(views: Sequence[memoryview]) -> None:
    """Overwrite with zeros."""
    for view in views:
        for start in range(0, len(view), len(_ZEROS)):
            piece = view[start : start + len(_ZEROS)]
            piece[:] = _ZEROS[: len(piece)]


def cut(views: Sequence[memoryview], length: int) -> list[memoryview]:
    """The first ``length`` bytes of ``views``."""
    kept = []
    for view in views:
        if length <= 0:
            break
        kept.append(view if len(view) <= length else view[:length])
        length -= len(kept[-1])
    return kept


class Transfer(Operation):
    """Base of the two."""

    moves = True

    def __init__(self, keys: list[bytes], places: Places | Sequence[Place], region: Region | None) -> None:
        self.keys = keys
        self.places = places if isinstance(places, Places) else Places.of(places)
        super().__init__(region, self.places.regions() if region is None else (region,))

    @property
    def extents(self) -> Sequence[Extent]:
        """See `Operation.extents`."""
        return [extent for place in self.places for extent in place.extents]


class CheckedSink:
    """Receives one chunk and computes its parts' checksums as the bytes come (`operations.Sink`)."""

    def __init__(
        self,
        views: list[memoryview],
        seed: int,
        first_part: int,
        part_bytes: Sequence[int],
        checksums: Sequence[int],
    ) -> None:
        self.views = views
        self.length = sum(part_bytes)
        self.verified = False
        self._seed = seed
        self._part = first_part
        self._first_part = first_part
        self._part_bytes = part_bytes
        self._checksums = checksums
        self._good = True
        self._hashed = 0
        self._view_index = 0
        self._view_offset = 0
        self._left = part_bytes[0]
        self._state = xxhash.xxh3_64(seed=part_seed(seed, first_part))

    def advance(self, received: int) -> None:
        """Hash what came since the last call, while it is in cache."""
        while self._hashed < received:
            while self._left == 0:
                self._close_part()
            view = self.views[self._view_index]
            count = min(received - self._hashed, len(view) - self._view_offset, self._left)
            self._state.update(view[self._view_offset : self._view_offset + count])
            self._hashed += count
            self._left -= count
            self._view_offset += count
            if self._view_offset == len(view):
                self._view_index += 1
                self._view_offset = 0

    def finish(self) -> None:
        """Compare the last checksums."""
        self.advance(self.length)
        end = self._first_part + len(self._part_bytes)
        while self._part < end:
            self._close_part()
        self.verified = self._good

    def _close_part(self) -> None:
        index = self._part - self._first_part
        if self._state.intdigest() != self._checksums[index]:
            self._good = False
        self._part += 1
        if index + 1 < len(self._part_bytes):
            self._left = self._part_bytes[index + 1]
            self._state = xxhash.xxh3_64(seed=part_seed(self._seed, self._part))


class Get(Transfer):
    """Reads chunks into ``places``: through ``region`` (shared memory), or from the stream."""

    kind = Kind.GET

    def __init__(
        self,
        keys: list[bytes],
        places: Places | Sequence[Place],
        *,
        region: Region | None,
        scope: bytes,
        part: tuple[int, int],
        counters: Counters,
    ) -> None:
        super().__init__(keys, places, region)
        self.part = part
        self.found: tuple[bool, ...] = (False,) * len(keys)
        self.lengths: tuple[int, ...] = (0,) * len(keys)
        self.popular: tuple[bool, ...] = ()
        """what another shard has too; empty: nothing"""
        self._scope = scope
        self._counters = counters
        self._sinks: dict[int, CheckedSink] = {}

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        first, count = self.part
        if self.region is not None:
            return messages.Get(
                self.keys,
                self.region.number,
                self.places.flat(),
                first,
                count,
                [],
                deadline_ms,
            )
        return messages.Get(self.keys, 0, [], first, count, list(self.places.lengths), deadline_ms)

    def receive_data(self, data: messages.GetData, payload_bytes: int) -> CheckedSink:
        """Where the payload of this frame goes. Raises ProtocolError if nobody asked for it."""
        first, count = self.part
        if self.region is not None:
            raise ProtocolError("GET_DATA for a get into a region")
        if data.index >= len(self.keys) or data.index in self._sinks:
            raise ProtocolError(f"GET_DATA for index {data.index}, which is not due")
        if len(data.part_bytes) != len(data.checksums) or data.first_part != first:
            raise ProtocolError("GET_DATA has parts that were not asked for")
        if count and len(data.part_bytes) > count:
            raise ProtocolError("GET_DATA has more parts than were asked for")
        place = self.places[data.index]
        if payload_bytes > place.length:
            raise ProtocolError(f"GET_DATA of {payload_bytes} bytes for a target of {place.length}")
        seed = chunk_seed(self._scope, self.keys[data.index])
        views = cut(place.memory(), payload_bytes)
        sink = CheckedSink(views, seed, data.first_part, data.part_bytes, data.checksums)
        self._sinks[data.index] = sink
        return sink

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        got = expect(body, messages.Got)
        claimed = unpack(got.found, len(self.keys))
        if len(got.lengths) != len(self.keys):
            raise ProtocolError(f"GOT has {len(got.lengths)} lengths for {len(self.keys)} keys")
        if got.popular:
            self.popular = unpack(got.popular, len(self.keys))
        room = self.places.lengths
        if (
            self.region is not None
            and False not in claimed
            and min(got.lengths) > 0
            and all(map(le, got.lengths, room))
        ):
            self.found, self.lengths = claimed, tuple(got.lengths)
            return
        found, lengths = [], []
        for index, there in enumerate(claimed):
            length = got.lengths[index] if there else 0
            if there and not 0 < length <= room[index]:
                raise ProtocolError(f"GOT says {length} bytes for a target of {room[index]}")
            if self.region is None:
                there, length = self._confirm(index, there, length)
            found.append(there)
            lengths.append(length)
        self.found, self.lengths = tuple(found), tuple(lengths)

    def renew(self) -> None:
        """See `Operation.renew`."""
        super().renew()
        self.found, self.lengths = (False,) * len(self.keys), (0,) * len(self.keys)

    def end(self) -> None:
        """Overwrite what was received and not confirmed."""
        if self.error is not None:
            self.found = (False,) * len(self.keys)
            self.lengths = (0,) * len(self.keys)
        for index, sink in self._sinks.items():
            if not self.found[index]:
                zero(sink.views)
        self._sinks.clear()

    def _confirm(self, index: int, there: bool, length: int) -> tuple[bool, int]:
        """Whether the bytes of ``keys[index]`` are what the server says, by our own reckoning."""
        sink = self._sinks.get(index)
        if sink is None:
            if there:
                raise ProtocolError(f"GOT says that index {index} was found, but no GET_DATA came for it")
            return False, 0
        if there and sink.length != length:
            raise ProtocolError(f"GOT says {length} bytes for index {index}, {sink.length} came")
        if there and not sink.verified:
            self._counters.checksum_mismatches += 1
            return False, 0
        return there, length


class Put(Transfer):
    """Stores chunks from ``places``: through ``region`` (shared memory), or over the stream."""

    kind = Kind.PUT

    def __init__(
        self,
        keys: list[bytes],
        places: Places | Sequence[Place],
        *,
        parts: list[list[int]],
        region: Region | None,
        scope: bytes,
        positions: Sequence[int],
        ttl_ms: int = 0,
        priority: int = messages.PRIORITY_DEFAULT,
    ) -> None:
        super().__init__(keys, places, region)
        self.parts = parts
        self.positions = positions
        self.ttl_ms = ttl_ms
        self.priority = priority
        self.states: tuple[PutState, ...] = ()
        self._scope = scope
        self._granted: set[int] = set()

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        number, sources = 0, []
        if self.region is not None:
            number, sources = self.region.number, self.places.flat()
        return messages.Put(
            self.keys,
            list(self.places.lengths),
            self.parts,
            number,
            sources,
            self.positions[0],
            deadline_ms,
            self.ttl_ms,
            self.priority,
            [] if self.in_order else list(self.positions),
        )

    @property
    def in_order(self) -> bool:
        """Whether each chunk is the next one of its prefix after that before it."""
        positions = self.positions
        first = positions[0]
        following = range(first, first + len(positions))
        return positions == following or list(positions) == list(following)

    def receive_grant(self, grant: messages.PutGrant) -> list[Payload]:
        """What to send for this grant, in order. Raises ProtocolError if it cannot be one."""
        if self.region is not None:
            raise ProtocolError("PUT_GRANT for a put from a region")
        payloads = []
        for index in grant.indexes:
            if index >= len(self.keys) or index in self._granted:
                raise ProtocolError(f"PUT_GRANT for index {index}, which is not due")
            self._granted.add(index)
            place = self.places[index]
            seed = chunk_seed(self._scope, self.keys[index])
            payloads.append(Payload(self.request_id, index, place.memory(), self._parts_of(index), seed))
        return payloads

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        done = expect(body, messages.PutDone)
        stored = unpack(done.stored, len(self.keys))
        exists = unpack(done.exists, len(self.keys))
        declined = unpack(done.declined, len(self.keys))
        if False not in stored and True not in exists and True not in declined:
            self.states = (PutState.STORED,) * len(self.keys)
            return
        states = []
        for index in range(len(self.keys)):
            if stored[index]:
                state, more = PutState.STORED, exists[index] or declined[index]
            elif exists[index]:
                state, more = PutState.EXISTS, declined[index]
            else:
                state, more = PutState.DECLINED if declined[index] else PutState.FAILED, False
            if more:
                raise ProtocolError(f"PUT_DONE says more than one thing of index {index}")
            states.append(state)
        self.states = tuple(states)

    def renew(self) -> None:
        """See `Operation.renew`."""
        super().renew()
        self.states = ()
        self._granted.clear()

    def _parts_of(self, index: int) -> list[int]:
        if not self.parts:
            return [self.places.lengths[index]]
        return self.parts[0] if len(self.parts) == 1 else self.parts[index]
