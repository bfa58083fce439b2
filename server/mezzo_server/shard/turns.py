"""Whose turn it is on the shard's loop: its time is shared between tenants, however many connections they have.

The loop calls each connection that is ready once in each of its iterations, so a tenant with a hundred busy
connections would get a hundred turns for each of another's.  Here a tenant may use the loop for its quantum in a
*round*; what is over that waits in a queue of the tenant's, and goes on in the next round, which is the loop's
next iteration at the earliest: whoever else is ready has his turn before.  A quantum is the tenant's part of a
round by weight, among those that were seen lately; what one callback took beyond it is paid off in the next
rounds.  While only one tenant is seen nothing is counted and nothing waits.

No I/O, no clock of its own; every step is O(1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from mezzo_server.blockstore.schedule import BEHIND_WEIGHT
from mezzo_server.blockstore.shares import Shares

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

ROUND_NS = 2_000_000
QUANTUM_NS_MIN = 200_000
"""Less would be spent on taking turns."""
ALL_NS = 1 << 62
NOBODY = b"\xff"
"""No tenant's id."""

Step = Callable[[], None]


class Turn:
    """What a connection does when something is ready for it."""

    __slots__ = ("callback", "queued", "session")

    def __init__(self, session: Session, callback: Callable[[], None]) -> None:
        self.session = session
        self.callback = callback
        self.queued = False
        """it waits for its tenant's turn"""


class Part:
    """One tenant's part of the loop."""

    __slots__ = ("quantum_ns", "queue", "round", "seen", "tenant", "used_ns")

    def __init__(self, tenant: bytes) -> None:
        self.tenant = tenant
        self.queue: deque[Step] = deque()
        self.quantum_ns = QUANTUM_NS_MIN
        self.used_ns = 0
        """in this round, and what is owed from those before"""
        self.round = 0
        """that `used_ns` is of"""
        self.seen = 0
        """the tick before which it was seen last"""


class Turns:
    """Turns of all tenants. Owner: the runtime, which runs the steps and says what they took."""

    def __init__(self, shares: Callable[[], Shares]) -> None:
        self._shares = shares
        self._parts: dict[bytes, Part] = {}
        self._ring: deque[Part] = deque()
        """those with steps in their queue, each once"""
        self._round = 0
        self._round_began_ns = 0
        self._tick = 1
        self._total = 0.0
        """weight of all parts"""
        self.alone = NOBODY
        """the only tenant that was seen lately, and which nobody has to wait for"""
        self.waiting = 0
        """steps in queues"""

    def may(self, tenant: bytes, now_ns: int) -> bool:
        """Whether a tenant may use the loop at once. To be followed by `spent`, or by `add`."""
        part = self._part(tenant)
        if part.queue:
            return False
        if now_ns - self._round_began_ns > ROUND_NS and not self.waiting:
            self.begin_round(now_ns)
        return self._used(part) < part.quantum_ns

    def spent(self, tenant: bytes, took_ns: int) -> None:
        """A tenant's step held the loop for so long."""
        part = self._part(tenant)
        self._used(part)
        part.used_ns += took_ns

    def add(self, tenant: bytes, step: Step) -> None:
        """A step waits for the tenant's turn, behind its others."""
        part = self._part(tenant)
        if not part.queue:
            self._ring.append(part)
        part.queue.append(step)
        self.waiting += 1

    def begin_round(self, now_ns: int) -> None:
        """The loop has looked for who is ready, since the last round began."""
        self._round += 1
        self._round_began_ns = now_ns

    def next(self) -> tuple[bytes, Step] | None:
        """The next step of this round, and whose it is; None: all that wait have had their part."""
        for _ in range(len(self._ring)):
            part = self._ring[0]
            if self._used(part) >= part.quantum_ns:
                self._ring.rotate(-1)
                continue
            step = part.queue.popleft()
            self.waiting -= 1
            if not part.queue:
                self._ring.popleft()
            else:
                self._ring.rotate(-1)
            return part.tenant, step
        return None

    def tick(self) -> None:
        """A few times a second: look who is there, and what they weigh."""
        recent = [part for part in self._parts.values() if part.seen == self._tick or part.queue]
        self._parts = {part.tenant: part for part in recent}
        self._tick += 1
        if recent:
            self.alone = recent[0].tenant if len(recent) == 1 and not self.waiting else NOBODY
            self._weigh(recent)
        # else nobody came but the one who is alone, whom nobody looks for, if there is one: that stays so

    def _weigh(self, parts: list[Part]) -> None:
        weights = [self._weight(part.tenant) for part in parts]
        self._total = sum(weights)
        for part, weight in zip(parts, weights, strict=True):
            part.quantum_ns = self._quantum_ns(weight)
        if len(parts) == 1:
            parts[0].quantum_ns = ALL_NS

    def _quantum_ns(self, weight: float) -> int:
        return max(QUANTUM_NS_MIN, int(ROUND_NS * weight / self._total))

    def _weight(self, tenant: bytes) -> float:
        shares = self._shares()
        return shares.weight(tenant) * (BEHIND_WEIGHT if shares.behind(tenant) else 1.0)

    def _part(self, tenant: bytes) -> Part:
        part = self._parts.get(tenant)
        if part is None:
            part = self._parts[tenant] = Part(tenant)
            part.round = self._round
            self.alone = NOBODY
            if len(self._parts) <= 2:
                self._weigh(list(self._parts.values()))
            else:  # the quanta of the others follow at the next tick
                weight = self._weight(tenant)
                self._total += weight
                part.quantum_ns = self._quantum_ns(weight)
        part.seen = self._tick
        return part

    def _used(self, part: Part) -> int:
        if part.round != self._round:
            paid = (self._round - part.round) * part.quantum_ns
            part.round = self._round
            part.used_ns = max(0, part.used_ns - paid)
        return part.used_ns
