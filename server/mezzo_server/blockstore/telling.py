"""What is told of a namespace as a whole: what appears and vanishes in it, and what is in it now."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo_server.blockstore.api import EventSink, Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.pace import BATCH_BYTES, SLOW, Pace
from mezzo_server.blockstore.sealing import plain_length
from mezzo_server.blockstore.segment import life_of, number_of
from mezzo_server.hot.slots import State

Sizes = tuple[int, int, int, int, Pace | None]
"""What there would be to load: keys of the prefix, bytes, leading keys that are hot, bytes that are hot, and, of several
devices, the pace of that on which all of it probably is, or of one that takes far longer than others."""
NO_SIZES: Sizes = (0, 0, 0, 0, None)


class Telling:
    """The part of `BlockStore` that tells of namespaces. Owns nothing."""

    _context: Context

    def watch(self, scope: Scope, sink: EventSink | None) -> None:
        """Tell ``sink`` what appears and vanishes in a namespace from now on; None: nobody any more."""
        self._context.index.watch(scope, sink)

    def sizes(
        self,
        scope: Scope,
        keys: Sequence[bytes],
        *,
        beyond: bool = False,
        known: tuple[int, int] | None = None,
    ) -> Sizes:
        """What a load of the present prefix of ``keys`` would be; ``beyond``: and of those that follow a gap.

        ``known``: what `BlockStore.prefix` has just told.
        """
        context = self._context
        namespace = context.index.peek(scope)
        if known is not None:
            count, nbytes = known
        elif len(keys) == 1:
            place = context.find(namespace, keys[0])
            if place is None or scope.tenant in context.sealer.without:
                return NO_SIZES
            table, number = place[0].table, place[1]
            count, nbytes = 1, plain_length(table, number) if table.has_sealed else table.length[number]
        else:
            count, nbytes = context.prefix(namespace, keys)
        rest = beyond and count < len(keys)
        if not count and not rest:
            return NO_SIZES
        hot = context.hot is not None and namespace.hot.count
        if not (hot or rest) and len(context.logs) == 1:
            return count, nbytes, 0, 0, None
        wanted = keys if count == len(keys) or rest else keys[:count]
        hot_count = hot_bytes = 0
        if hot:
            ready = State.READY
            slots = namespace.hot.get_all(wanted)
            lengths = [0 if slot is None or slot.state is not ready else slot.length for slot in slots]
            hot_bytes = sum(lengths)
            hot_count = min(lengths.index(0), count) if 0 in lengths else count
        if rest:
            lives = context.lives
            found = [place for place in namespace.get_all(keys[count:]) if place is not None]
            nbytes += sum([plain_length(lives[life_of(place)].table, number_of(place)) for place in found])
        return count, nbytes, hot_count, hot_bytes, self._slowest(namespace, wanted)

    def _slowest(self, namespace: NamespaceIndex, keys: Sequence[bytes]) -> Pace | None:
        """By the first and the last: of the device on which all lie, or of one of them that takes far longer."""
        lives, first, last = self._context.lives, namespace.get(keys[0]), namespace.get(keys[-1])
        if len(self._context.logs) == 1 or first is None or last is None:
            return None
        one, other = lives[life_of(first)].log.pace, lives[life_of(last)].log.pace
        if one is other:
            return one
        slow, fast = (one, other) if one.rate < other.rate else (other, one)
        return slow if slow.lone_s(BATCH_BYTES) > SLOW * fast.lone_s(BATCH_BYTES) else None

    def count(self, scope: Scope) -> int:
        """Chunks present in a namespace."""
        return self._context.index.peek(scope).count

    def list_part(
        self, scope: Scope, part: int, parts: int, count_max: int
    ) -> list[tuple[bytes, int]] | None:
        """Keys and lengths of the chunks in one of ``parts`` (a power of two) of a namespace.

        A key is always in the same part, so that who lists one after the other misses none that was there
        all the time, whatever comes and goes meanwhile.  None: the part has more than ``count_max`` keys.
        """
        namespace = self._context.index.peek(scope)
        keys = namespace.part(part, parts, count_max)
        if keys is None:
            return None
        places = [(key, self._context.find(namespace, key)) for key in keys]
        return [(key, plain_length(place[0].table, place[1])) for key, place in places if place is not None]
