"""One connection's share of the staging pool, so that a slow client holds no more than its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mezzo.errors import Busy, MezzoError, TooLarge
from mezzo_server.memory import Span
from mezzo_server.staging import StagingPool, StagingRequest


class Ask:
    """A piece that was asked for; made by `StagingShare.request`."""

    __slots__ = ("length", "ready", "request")

    def __init__(self, length: int, ready: Callable[[Span | None], None]) -> None:
        self.length = length
        self.ready: Callable[[Span | None], None] | None = ready
        self.request: StagingRequest | None = None

    def refuse(self) -> None:
        """There is no piece for it."""
        ready, self.ready = self.ready, None
        if ready is not None:
            ready(None)

    def cancel(self) -> None:
        """Never call back. Without effect on a piece that was handed over already."""
        self.ready = None


class StagingShare:
    """Pieces of the pool, at most ``bytes_max`` at a time (or one that is larger), in order.

    Owner of what this connection holds of the pool; after `close` it hands nothing out and only
    takes back.
    """

    def __init__(self, pool: StagingPool, bytes_max: int) -> None:
        self._pool = pool
        self.bytes_max = bytes_max
        self.owner: bytes | None = None
        """the tenant, of whose part of the pool it is; None: nobody shares with him"""
        self.bytes_held = 0
        """bytes of pieces handed out, and of the one that the pool was asked for"""
        self._waiting: deque[Ask] = deque()
        self._asked: Ask | None = None
        self._serving = False
        self._closed = False

    def busy(self) -> Busy:
        """What to say to who got None."""
        return self._pool.busy()

    def request(self, length: int, ready: Callable[[Span | None], None]) -> Ask:
        """Call ``ready`` with a piece: within this call if there is room, else in turn.

        With None where the pool refuses (too many wait, or this one did for too long): the caller is busy.

        Raises:
            TooLarge: longer than any piece of the pool can be.
        """
        if length > self._pool.piece_bytes_max:
            raise TooLarge(f"{length} bytes are over the longest piece of staging memory (staging_bytes)")
        ask = Ask(length, ready)
        self._waiting.append(ask)
        self._serve()
        return ask

    def give(self, span: Span) -> None:
        """Take a piece back."""
        self._pool.give(span)
        self.bytes_held -= span.length
        self._serve()

    def close(self) -> None:
        """Hand nothing out any more."""
        self._closed = True
        self._waiting.clear()
        asked, self._asked = self._asked, None
        if asked is not None and asked.request is not None:
            asked.request.cancel()
            self.bytes_held -= asked.length

    def _serve(self) -> None:
        # Callbacks may ask and give again: only the outermost call goes on serving.
        if self._serving or self._closed:
            return
        self._serving = True
        try:
            while self._waiting and self._asked is None:
                ask = self._waiting[0]
                if ask.ready is None:
                    self._waiting.popleft()
                    continue
                if self.bytes_held and self.bytes_held + ask.length > self.bytes_max:
                    return
                self._waiting.popleft()
                self._ask_pool(ask)
        finally:
            self._serving = False

    def _ask_pool(self, ask: Ask) -> None:
        self.bytes_held += ask.length
        self._asked = ask
        try:
            request = self._pool.request(ask.length, self._arrived, self.owner, self._refused)
        except MezzoError:
            self._asked = None
            self.bytes_held -= ask.length
            ask.refuse()
            return
        if self._asked is ask:
            ask.request = request

    def _refused(self) -> None:
        ask, self._asked = self._asked, None
        if ask is not None:
            self.bytes_held -= ask.length
            ask.refuse()
        self._serve()

    def _arrived(self, span: Span) -> None:
        ask, self._asked = self._asked, None
        ready = None
        if ask is not None:
            ready, ask.ready = ask.ready, None
        if ready is None:
            self.bytes_held -= span.length
            self._pool.give(span)
        else:
            ready(span)
        self._serve()
