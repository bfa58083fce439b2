"""What a check says."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class State(StrEnum):
    """How well something is."""

    GOOD = "good"
    BETTER = "could be better"
    MISSING = "missing"
    """a node works without it, and loses what `Finding.seen` says"""
    BROKEN = "broken"
    """a node needs it"""


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    state: State
    seen: str
    """in one sentence"""
    advice: str = ""
    """what to do, a command where there is one; empty where nothing is to be done"""
