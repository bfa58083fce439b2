"""How long the shards are waited for, of the time that a caller waits. No clock.

Where there are several, those that answer are a result, and it has to reach the caller within his time.
"""

from __future__ import annotations

RESERVE_S = 0.25
RESERVE = 8
"""The part that is kept for the answer, `RESERVE_S` at most."""


def for_shards(left_s: float, *, several: bool) -> float:
    """Seconds for all that is asked of the shards."""
    return left_s - min(RESERVE_S, left_s / RESERVE) if several else left_s


def for_next(left_s: float, *, several: bool, more: bool) -> float:
    """Seconds for the next question of a call; ``more``: others follow.

    A shard that does not answer takes all that it gets, but only once: then it is known to be away.
    """
    seconds = for_shards(left_s, several=several)
    return seconds / 2 if several and more else seconds
