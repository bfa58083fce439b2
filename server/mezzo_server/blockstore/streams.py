"""Opens streams: out of the hot tier where the chunk is hot or can become so, else from its device."""

from __future__ import annotations

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.get import Gets, submit
from mezzo_server.blockstore.hot_stream import HotStream
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import DeviceTime
from mezzo_server.blockstore.read import ChunkRead
from mezzo_server.blockstore.sealed_stream import SealedStream
from mezzo_server.blockstore.sealing import is_sealed
from mezzo_server.blockstore.segment import Segment
from mezzo_server.blockstore.stream import ChunkStream
from mezzo_server.blockstore.whole_stream import WholeStream

Stream = ChunkStream | WholeStream


class Streams:
    """Opens streams of chunks; owns none of them."""

    def __init__(self, context: Context, gets: Gets) -> None:
        self._context = context
        self._gets = gets

    def open(
        self, namespace: NamespaceIndex, key: bytes, parts: tuple[int, int], time: DeviceTime | None
    ) -> Stream | None:
        """A chunk, or ``parts`` (first, count; 0: all that follow) of it; None: a miss.

        InvalidArgument for parts that make no sense.
        """
        if min(parts) < 0:
            raise InvalidArgument(f"parts {parts[0]}+{parts[1]} make no sense")
        context = self._context
        place = context.find(namespace, key)
        if place is None or parts[0] >= place[0].table.parts[place[1]]:
            context.counters["chunks_missed"] += 1
            return None
        segment, number = place
        context.policy.request()
        context.policy.used(segment, number)
        stream, tier = self._hot(namespace, key, place, parts, time)
        if stream is None:
            if is_sealed(segment.table, number):
                stream = SealedStream(context, namespace, key, place, parts, self._gets.drop, time)
            else:
                stream = ChunkStream(context, namespace, key, place, parts, self._gets.drop)
                stream.time = time
        context.counters["chunks_got"] += 1
        context.counters["bytes_got"] += stream.length
        context.counters[f"chunks_got_{tier}"] += 1
        context.counters[f"bytes_got_{tier}"] += stream.length
        return stream

    def _hot(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        place: tuple[Segment, int],
        parts: tuple[int, int],
        time: DeviceTime | None,
    ) -> tuple[Stream | None, str]:
        """(a stream out of the hot tier if there is one, the tier whose bytes it gives)."""
        hot = self._gets.hot
        if hot is None:
            return None, "device"
        reads: list[ChunkRead] = []
        whole = not parts[0] and (not parts[1] or parts[1] >= place[0].table.parts[place[1]])
        slot, begun = hot.slot(namespace, key, place, reads, fill=whole, time=time)
        if slot is None:
            return None, "device"
        stream = HotStream(self._context, hot.hot, slot, namespace, place, parts)
        if reads:
            submit(reads)
        return stream, "device" if begun else "hot"
