"""The version that runs."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    """Of the installed distribution; ``unknown`` in a tree that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("mezzo")
    except metadata.PackageNotFoundError:
        return "unknown"
