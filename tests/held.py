"""What a process holds: descriptors and threads, so that a test can say that nothing of its own stayed behind.

Sets, to be compared as sets: what earlier tests left to the collector may go at any moment, so a mere count
says nothing about one's own.
"""

from __future__ import annotations

import os
from pathlib import Path


def descriptors(pid: int | str = "self") -> frozenset[tuple[str, str]]:
    """Numbers of open descriptors, with what each leads to."""
    held = set()
    folder = Path(f"/proc/{pid}/fd")
    for number in os.listdir(folder):
        try:
            held.add((number, os.readlink(folder / number)))
        except FileNotFoundError:  # the one that listed them, or one that was closed meanwhile
            continue
    return frozenset(held)


def kernel_threads() -> frozenset[str]:
    """Threads of this process as the kernel knows them, Python's and others. One that was joined may stay a moment."""
    return frozenset(os.listdir("/proc/self/task"))
