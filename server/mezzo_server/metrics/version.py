"""The version that runs."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """Of the installed distribution; ``unknown`` in a tree that is not installed."""
    try:
        return metadata.version("mezzo")
    except metadata.PackageNotFoundError:
        return "unknown"
