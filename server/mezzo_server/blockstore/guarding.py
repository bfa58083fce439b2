"""What a pod asks of a store beside chunks: in which order they were put, what leaves it, and what is to leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mezzo.protocol.messages import EventKind
from mezzo_server.blockstore.api import Guard, Scope
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.segment import life_of, number_of


class Guarding:
    """The part of `BlockStore` for who has copies of what others have. Owns nothing."""

    _context: Context

    def guarded_by(self, guard: Guard | None) -> None:
        """Tell ``guard`` what leaves the index from now on, and let it bar puts; None: nobody any more."""
        self._context.guard = guard

    @property
    def next_sequence(self) -> int:
        """Whatever is put from now on has at least this sequence."""
        return self._context.next_sequence

    def sequence(self, scope: Scope, key: bytes) -> int | None:
        """The sequence of a chunk; None: it is not present."""
        place = self._context.find(self._context.index.peek(scope), key)
        return None if place is None else place[0].table.sequence[place[1]]

    def dismiss(self, scope: Scope, keys: Iterable[bytes], done: Callable[[], None]) -> None:
        """Forget chunks, each when nothing is under way for it; ``done`` is called when none is there, maybe at once.

        As if they had been evicted: nothing is written, their space comes back with their segments, and a restart may find them
        again.
        """
        context = self._context
        namespace = context.index.peek(scope)
        left = dict.fromkeys(keys)

        def dismissed(key: bytes) -> None:
            if key in namespace.busy:
                namespace.wait(key, lambda: dismissed(key))
                return
            location = namespace.get(key)
            if location is not None:
                segment = context.lives[life_of(location)]
                context.forget(namespace, key, segment, number_of(location), why=EventKind.EVICTED)
                context.trimmed.setdefault(scope.tenant, set()).add(segment.life)
                context.changes += 1
            del left[key]
            if not left:
                done()

        if not left:
            done()
        for key in tuple(left):
            dismissed(key)
