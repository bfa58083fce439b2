"""What ends a run: something happened that must never happen."""

from __future__ import annotations


class Violation(Exception):
    """An invariant does not hold; its text says which, and what was seen."""
