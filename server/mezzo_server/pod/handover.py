"""When a shard that is to stop may: once others have its slots, or it is plain that nobody takes them. No I/O, no clock.

A shard that stops says so in its member record (`Membership.retire`) and goes on serving.  The next map gives its slots to
others; by that map it is asked for what it has, and refuses what is theirs, so that clients learn of the map while there
is somebody who tells them.  Then it goes.
"""

from __future__ import annotations

from mezzo_server.pod.standing import Share

UNPLANNED_S = 2.0
"""Without another map for so long, nobody plans: this was the last front-end, or the metadata are away."""
LINGER_S = 0.7
"""From the map by which it has nothing until it goes: others follow it by then, and clients that are busy have met it."""
HANDOVER_S = 10.0
"""It goes after so long, whatever becomes of its slots. Less than `mezzo serve` waits for a process that it stops."""


class Handover:
    """One shard's, from when it said that it is to stop. `is_over` is asked every now and then."""

    def __init__(self, share: Share, now: float) -> None:
        """``share``: what the shard had then."""
        self._epoch = share.epoch
        self._began = now
        self._without_since: float | None = None

    def is_over(self, share: Share, serving: bool, now: float) -> bool:
        """Whether it may go, of what it has by now."""
        if not serving or share.alone or now - self._began >= HANDOVER_S:
            return True
        if share.epoch == self._epoch:
            return now - self._began >= UNPLANNED_S
        if share.owns_any:
            self._without_since = None
            return False
        if self._without_since is None:
            self._without_since = now
        return now - self._without_since >= LINGER_S
