"""Waiting in tests: for an event, never for time to pass, and everywhere with the same patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 60.0
"""Far more than anything takes, also on a machine that is busy with something else: who waits so long, hangs."""
POLL_S = 0.01


def eventually(condition: Callable[[], T], what: str, *, poll_s: float = POLL_S) -> T:
    """Ask until the answer is true, and return it: for what gives no other sign. AssertionError after `PATIENCE_S`.

    ``poll_s``: between two questions; more where asking is work.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(poll_s)
    return answer
