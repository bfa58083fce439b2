"""Keys that nothing may be done with for a while, in bounded memory. No I/O, no clock.

When the bound is reached *all* keys are refused for that while: what was noted is never forgotten early.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

NEVER = float("-inf")


class Refusals:
    """Keys, each until a moment. Owned by one thread."""

    def __init__(self, seconds: float, keys_max: int) -> None:
        """Each is refused for ``seconds``; ``keys_max`` of them are told apart."""
        self._seconds = seconds
        self._keys_max = keys_max
        self._until: dict[Hashable, float] = {}
        self._order: deque[tuple[float, Hashable]] = deque()
        self._all_until = NEVER

    def __len__(self) -> int:
        return len(self._until)

    def all_refused(self, now: float) -> bool:
        """Whether there were so many that all are refused."""
        return now < self._all_until

    def note(self, key: Hashable, now: float) -> None:
        """Refuse this key from now on."""
        self._expire(now)
        if len(self._order) >= self._keys_max:
            # Those that are told apart stay so: when all are free again, some of them may not be yet.
            self._all_until = now + self._seconds
            return
        self._until[key] = now + self._seconds
        self._order.append((now + self._seconds, key))

    def refuses(self, key: Hashable, now: float) -> bool:
        """Whether it is refused."""
        if now < self._all_until:
            return True
        until = self._until.get(key)
        return until is not None and now < until

    def _expire(self, now: float) -> None:
        order = self._order
        while order and order[0][0] <= now:
            until, key = order.popleft()
            if self._until.get(key) == until:
                del self._until[key]
