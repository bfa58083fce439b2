"""How interpreter threads hand results to the loop: a list behind a lock, and an eventfd."""

from __future__ import annotations

import os
import select
import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Results that threads `put` and one reader takes.  Owner of the eventfd that tells of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[Item] = []
        self._event: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.expected = 0
        """Items announced and not taken yet."""

    @property
    def event_fd(self) -> int | None:
        """Readable when `take` has something; None once closed."""
        return self._event

    def expect(self, count: int) -> None:
        """Announce items. By the reader, like `take`."""
        self.expected += count

    def put(self, item: Item) -> None:
        """Hand an item over; from any thread."""
        with self._lock:
            self._items.append(item)
            if len(self._items) == 1 and self._event is not None:
                os.eventfd_write(self._event, 1)

    def take(self) -> list[Item]:
        """All items there are."""
        with self._lock:
            if self._items and self._event is not None:
                os.eventfd_read(self._event)
            items, self._items = self._items, []
        self.expected -= len(items)
        return items

    def wait(self, timeout_s: float | None = None) -> None:
        """Until `take` has something, nothing is expected, or the timeout."""
        if self.expected and self._event is not None:
            timeout_ms = None if timeout_s is None else max(0.0, timeout_s) * 1000
            poller = select.poll()
            poller.register(self._event, select.POLLIN)
            poller.poll(timeout_ms)

    def close(self) -> None:
        """Close the eventfd; nobody puts any more, and what is there may still be taken."""
        with self._lock:
            if self._event is not None:
                os.close(self._event)
                self._event = None
