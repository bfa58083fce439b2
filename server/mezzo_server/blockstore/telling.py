"""What is told of a namespace as a whole: what appears and vanishes in it, and what is in it now."""

from __future__ import annotations

from mezzo_server.blockstore.api import EventSink, Scope
from mezzo_server.blockstore.context import Context


class Telling:
    """The part of `BlockStore` that tells of namespaces. Owns nothing."""

    _context: Context

    def watch(self, scope: Scope, sink: EventSink | None) -> None:
        """Tell ``sink`` what appears and vanishes in a namespace from now on; None: nobody any more."""
        self._context.index.watch(scope, sink)

    def count(self, scope: Scope) -> int:
        """Chunks present in a namespace."""
        return self._context.index.peek(scope).count

    def list_part(self, scope: Scope, part: int, parts: int) -> list[tuple[bytes, int]]:
        """Keys and lengths of the chunks in one of ``parts`` (a power of two) of a namespace.

        A key is always in the same part, so that who lists one after the other misses none that was there
        all the time, whatever comes and goes meanwhile.
        """
        namespace = self._context.index.peek(scope)
        places = [(key, self._context.find(namespace, key)) for key in namespace.part(part, parts)]
        return [(key, place[0].table.length[place[1]]) for key, place in places if place is not None]
