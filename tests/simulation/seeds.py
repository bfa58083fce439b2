"""Seeds of simulations: which ones run, and how a failing one is repeated.

One seed, one trace.  ``MEZZO_SEED=17 make test`` (or pytest with ``-k`` the test's name) runs that one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def seeds(count: int, first: int = 0) -> list[int]:
    """``count`` seeds from ``first`` on, or the one that MEZZO_SEED names."""
    chosen = os.environ.get("MEZZO_SEED")
    return [int(chosen)] if chosen is not None else list(range(first, first + count))


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Add to whatever is raised how to see it again."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"repeat with MEZZO_SEED={seed} and -k this test's name")
        raise
