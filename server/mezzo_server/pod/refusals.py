"""Keys that nothing may be done with for a while, in bounded memory. No I/O, no clock.

When the bound is reached *all* keys of whose they are are refused for that while: what was noted is never forgotten
early.  Nobody has more than half of the room, so that who notes very many keys does not have those of others refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

NEVER = float("-inf")


class Refusals:
    """Keys of several owners, each until a moment. Owned by one thread."""

    def __init__(self, seconds: float, keys_max: int) -> None:
        """Each is refused for ``seconds``; ``keys_max`` of them are told apart."""
        self._seconds = seconds
        self._keys_max = keys_max
        self._until: dict[Hashable, float] = {}
        self._order: deque[tuple[float, Hashable, Hashable]] = deque()
        self._counts: dict[Hashable, int] = {}
        """how often owners stand in it"""
        self._all_until: dict[Hashable, float] = {}
        """of owners all of whose keys are refused; who is free first comes first"""

    def __len__(self) -> int:
        return len(self._until)

    def all_refused(self, of: Hashable, now: float) -> bool:
        """Whether there were so many that all of an owner's are refused."""
        return now < self._all_until.get(of, NEVER)

    def note(self, of: Hashable, key: Hashable, now: float) -> None:
        """Refuse this key of an owner's from now on."""
        self._expire(now)
        name, until, count = (of, key), now + self._seconds, self._counts.get(of, 0)
        if len(self._order) >= self._keys_max or count >= max(1, self._keys_max // 2):
            # Those that are told apart stay so: when all are free again, some of them may not be yet.
            self._all_until.pop(of, None)
            self._all_until[of] = until
            return
        self._until[name] = until
        self._order.append((until, of, key))
        self._counts[of] = count + 1

    def refuses(self, of: Hashable, key: Hashable, now: float) -> bool:
        """Whether it is refused."""
        return now < self._until.get((of, key), NEVER) or self.all_refused(of, now)

    def _expire(self, now: float) -> None:
        order, counts, everything = self._order, self._counts, self._all_until
        while order and order[0][0] <= now:
            until, of, key = order.popleft()
            counts[of] -= 1
            if not counts[of]:
                del counts[of]
            if self._until.get((of, key)) == until:
                del self._until[of, key]
        while everything and everything[first := next(iter(everything))] <= now:
            del everything[first]
