"""Whether a client moves what it owes: payload that it was granted, or output that waits for it. No clock.

A byte now and then is none: it would hold staging memory, slots and answers for as long as the client pleases.
"""

from __future__ import annotations

STEP_BYTES = 1 << 20
"""Of what is owed, or all of it if that is less, has to be moved in each time that a client is waited for."""


class Progress:
    """Of one connection, in one direction."""

    __slots__ = ("_step_left", "since")

    def __init__(self, now: float) -> None:
        self._step_left = 0
        self.since = now
        """when the last step was made, or something began to be owed"""

    def begin(self, owed_bytes: int, now: float) -> None:
        """So much is owed now: as much of it as is a step has to be moved until the next."""
        self.since = now
        self._step_left = owed_bytes if owed_bytes < STEP_BYTES else STEP_BYTES

    def moved(self, count: int, owed_bytes: int, now: float) -> None:
        """So many bytes of it were, and so many are owed still."""
        self._step_left -= count
        if self._step_left <= 0:
            self.begin(owed_bytes, now)
