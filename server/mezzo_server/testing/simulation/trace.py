"""What happened in a run, line by line: bounded in memory, and as one hash by which two runs are compared."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

LINES_KEPT = 4000


class Trace:
    """Owner of the last lines, and of the hash over all of them."""

    def __init__(self, lines_kept: int = LINES_KEPT, tell: Callable[[str], None] | None = None) -> None:
        """``tell`` gets each line as it comes."""
        self.lines: deque[str] = deque(maxlen=lines_kept)
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=8)
        self._tell = tell
        self._over = False

    def add(self, now: float, who: str, what: str) -> None:
        """One line: when, by true time; who; what."""
        if self._over:
            return
        line = f"{now:10.4f} {who:<10} {what}"
        self.count += 1
        self._hash.update(line.encode())
        self.lines.append(line)
        if self._tell is not None:
            self._tell(line)

    def end(self) -> None:
        """The run is over: what is said from now on is no part of it."""
        self._over = True

    @property
    def digest(self) -> str:
        """Of all lines, those that were not kept too."""
        return self._hash.hexdigest()
