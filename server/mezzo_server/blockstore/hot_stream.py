"""A hot chunk as a stream: its pieces are lent where they lie in the slot.

Nothing is hashed here: the checksums that were stored go with the payload, and the receiver, who must
check them anyhow, is the one who notices.  The slot is not reused before the last piece came back; a
stream holds no segment, so reclaim never waits for it.
"""

from __future__ import annotations

from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.hot_read import hot_select
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.segment import Segment
from mezzo_server.blockstore.whole_stream import WholeStream
from mezzo_server.hot.slots import Slot, State
from mezzo_server.hot.tier import HotTier


class HotStream(WholeStream):
    """Pieces of one chunk out of its slot, which may still be filling."""

    def __init__(
        self,
        context: Context,
        hot: HotTier,
        slot: Slot,
        namespace: NamespaceIndex,
        place: tuple[Segment, int],
        parts: tuple[int, int],
    ) -> None:
        self._offset, lengths, checksums = hot_select(slot, *place, *parts)
        super().__init__(context, namespace, slot.key, lengths, checksums)
        self._place = place
        self._parts = parts
        self._hot = hot
        self._slot = slot
        hot.used(slot)
        hot.use(slot)
        if slot.state is State.READY:
            self._arrived(slot.span(self._offset, self.length))
        else:
            slot.waiters.append(self._filled)

    def _filled(self, right: bool) -> None:
        if right:
            self.checksums = tuple(hot_select(self._slot, *self._place, *self._parts)[2])
        self._arrived(self._slot.span(self._offset, self.length) if right else None)

    def _take_back(self) -> bool:
        self._hot.unuse(self._slot)
        return True
