"""Bodies about regions."""

from __future__ import annotations

from mezzo.protocol.messages.types import U32, Body, U


class RegionAdd(Body, frozen=True):
    """Registers a region; exactly one descriptor comes with the frame (SCM_RIGHTS).

    ``offset`` (page-aligned) and ``length`` bound what the server may touch of it.
    """

    region: U32
    """number that the client gives it, unique on this connection"""
    offset: U
    length: U


class RegionAdded(Body, frozen=True):
    """``mapped``: sealed, so the server maps it (no copies). ``registered``: with the ring too."""

    mapped: bool
    registered: bool


class RegionRemove(Body, frozen=True):
    """Forgets a region, after what is in flight on it has ended."""

    region: U32


class RegionRemoved(Body, frozen=True):
    """From here on the server touches the region no more."""
