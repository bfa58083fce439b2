"""Expiry: chunks go when their time is over, each at O(1), and however many at once in slices.

Nothing is served from its deadline on, since whoever looks a chunk up looks at the deadline too
(`Context.find`).  The wheel gives back what it takes up: within a tick (512 ms), and the time that a mass of
others takes, an expired chunk has left the index and the hot tier, and its space is dead.

What the index does not hold at its place any more (deleted, evicted, rewritten, erased) stays in the wheel
until it comes up; when more than half of the wheel is of that kind, all of it is put in anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import Segment, life_of, number_of
from mezzo_server.blockstore.wheel import Wheel

if TYPE_CHECKING:
    from mezzo_server.blockstore.context import Context

STEP_CHUNKS = 128
"""Places looked at in one turn."""
GONE_MIN = 1 << 16
"""Places of chunks that are gone which may be in the wheel without being looked for."""


class Expiry:
    """Owner of the wheel. Driven by `tick`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wheel = Wheel(context.clock.now_ms())
        self._stepping = False
        self._last: tuple[Segment, int, NamespaceIndex] | None = None

    @property
    def places(self) -> int:
        """In the wheel, those of chunks that are gone included."""
        return self._wheel.count

    def watch(self, segment: Segment, number: int) -> None:
        """A chunk with a deadline has appeared at this place."""
        due = segment.table.expiry_ms[number]
        segment.expires_ms = min(segment.expires_ms or due, due)
        self._wheel.add(segment.base + number, due)

    def watch_all(self, segment: Segment, expires_ms: int) -> None:
        """A segment was recovered; the first of its chunks to expire does so then, or later."""
        segment.expires_ms = expires_ms
        self._wheel.add_all(range(segment.base, segment.base + len(segment.table)))

    def tick(self) -> None:
        """Time has passed."""
        wheel = self._wheel
        if not wheel.count or self._stepping:
            return
        if wheel.count > GONE_MIN + 2 * self._watched and not wheel.working:
            wheel.renew()
        self._step()

    @property
    def _watched(self) -> int:
        """Chunks with a deadline that are there."""
        return sum(log.expiring for log in self._context.logs)

    def _step(self) -> None:
        context, wheel = self._context, self._wheel
        self._last = None
        due = wheel.due(context.clock.now_ms(), STEP_CHUNKS, self._due)
        for place in due:
            segment, number = context.lives[life_of(place)], number_of(place)
            self.end(self._namespace(segment, number), segment, number)
        context.changes += bool(due)
        self._stepping = wheel.working and not context.closing
        if self._stepping:
            context.later.add(self._step)

    def end(self, namespace: NamespaceIndex, segment: Segment, number: int) -> None:
        """A chunk's time is over: if it is still there, it goes."""
        context = self._context
        key = segment.table.keys[number]
        if context.forget(namespace, key, segment, number, why=EventKind.EXPIRED):
            context.counters["chunks_expired"] += 1
            context.counters["bytes_expired"] += segment.table.length[number]

    def _due(self, place: int) -> int:
        segment = self._context.lives.get(life_of(place))
        if segment is None:
            return 0
        number, table = number_of(place), segment.table
        due = table.expiry_ms[number]
        if not due or self._namespace(segment, number).get(table.keys[number]) != place:
            return 0
        return due

    def _namespace(self, segment: Segment, number: int) -> NamespaceIndex:
        """Neighbours are mostly of one namespace, and to look one up costs as much as all the rest."""
        scope, last = segment.table.scope[number], self._last
        if last is not None and last[0] is segment and last[1] == scope:
            return last[2]
        namespace = self._context.index.peek(segment.table.scopes[scope])
        self._last = (segment, scope, namespace)
        return namespace
