"""Which faults a `FaultyDevice` injects, and when: by chance, by count, or by place."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from mezzo_server.blockstore.io import Op, Transfer


class FaultKind(Enum):
    """What goes wrong with one transfer. Silent ones report success."""

    EIO_READ = "eio_read"
    """a read fails; the target memory holds whatever had been read until then"""
    EIO_WRITE = "eio_write"
    """a write fails; any of its atoms may have landed"""
    EIO_FLUSH = "eio_flush"
    """a flush fails; nothing more is durable than was"""
    ENOSPC = "enospc"
    """a write fails for want of space; nothing landed"""
    TORN_WRITE = "torn_write"
    """silent: a subset of the atoms lands"""
    TORN_TAIL = "torn_tail"
    """silent: the first atoms land, the rest does not"""
    LOST_WRITE = "lost_write"
    """silent: nothing lands"""
    LOST_FLUSH = "lost_flush"
    """silent: nothing more is durable than was"""
    MISDIRECTED_WRITE = "misdirected_write"
    """silent: lands at another place, and not at its own"""
    MISDIRECTED_READ = "misdirected_read"
    """silent: bytes of another place"""
    STALE_READ = "stale_read"
    """silent: the bytes that were there before the last write of each block"""
    ROTTEN_WRITE = "rotten_write"
    """silent: one bit lands flipped"""
    ROTTEN_READ = "rotten_read"
    """silent: one bit arrives flipped; the medium is right"""
    SHORT = "short"
    """the lower level moves a part only, and the device goes on with the rest at a later reap"""
    LATENCY = "latency"
    """held back for ``reaps`` reaps"""
    STUCK = "stuck"
    """held back until `FaultyDevice.release`"""


_READS = frozenset({Op.READ})
_WRITES = frozenset({Op.WRITE})
_FLUSHES = frozenset({Op.FLUSH})
_OPS: dict[FaultKind, frozenset[Op]] = {
    FaultKind.EIO_READ: _READS,
    FaultKind.EIO_WRITE: _WRITES,
    FaultKind.EIO_FLUSH: _FLUSHES,
    FaultKind.ENOSPC: _WRITES,
    FaultKind.TORN_WRITE: _WRITES,
    FaultKind.TORN_TAIL: _WRITES,
    FaultKind.LOST_WRITE: _WRITES,
    FaultKind.LOST_FLUSH: _FLUSHES,
    FaultKind.MISDIRECTED_WRITE: _WRITES,
    FaultKind.MISDIRECTED_READ: _READS,
    FaultKind.STALE_READ: _READS,
    FaultKind.ROTTEN_WRITE: _WRITES,
    FaultKind.ROTTEN_READ: _READS,
    FaultKind.SHORT: _READS | _WRITES,
    FaultKind.LATENCY: _READS | _WRITES | _FLUSHES,
    FaultKind.STUCK: _READS | _WRITES | _FLUSHES,
}

_DELAYS = frozenset({FaultKind.SHORT, FaultKind.LATENCY, FaultKind.STUCK})


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule.  It strikes a transfer of its kind that touches ``within`` (None: anywhere), if its
    number among those is in ``nth`` (from 1), or by ``probability``; with neither given, always.
    """

    kind: FaultKind
    probability: float | None = None
    nth: Collection[int] = ()
    within: tuple[int, int] | None = None
    """bytes of the device: from, up to but not including; not for flushes"""
    times_max: int | None = None
    """strikes at most that often"""
    reaps: int = 3
    """of LATENCY: for how many reaps"""
    op: Op | None = None
    """of SHORT, LATENCY and STUCK: only this operation"""


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens to one transfer."""

    outcome: FaultKind | None
    short: bool
    stuck: bool
    reaps: int


class FaultPlan:
    """Decides for each transfer as it is submitted. Owner of the rules' counts."""

    def __init__(self, faults: Iterable[Fault], randomness: random.Random) -> None:
        self.faults = tuple(faults)
        self.injected: Counter[FaultKind] = Counter()
        self._random = randomness
        self._seen: list[int] = [0] * len(self.faults)
        self._struck: list[int] = [0] * len(self.faults)

    def injects(self, kind: FaultKind) -> bool:
        """Some rule is of this kind."""
        return any(fault.kind is kind for fault in self.faults)

    def decide(self, transfer: Transfer) -> Strike:
        """The first rule with an outcome wins; delays add up beside it."""
        outcome: FaultKind | None = None
        short = stuck = False
        reaps = 0
        for index, fault in enumerate(self.faults):
            if fault.kind not in _DELAYS and outcome is not None:
                continue
            if not self._strikes(index, fault, transfer):
                continue
            self._struck[index] += 1
            self.injected[fault.kind] += 1
            if fault.kind is FaultKind.SHORT:
                short = True
            elif fault.kind is FaultKind.STUCK:
                stuck = True
            elif fault.kind is FaultKind.LATENCY:
                reaps += fault.reaps
            else:
                outcome = fault.kind
        return Strike(outcome, short, stuck, reaps)

    def _strikes(self, index: int, fault: Fault, transfer: Transfer) -> bool:
        if transfer.op not in _OPS[fault.kind] or fault.op not in (None, transfer.op):
            return False
        if fault.within is not None and transfer.op != Op.FLUSH:
            start, end = fault.within
            if transfer.offset >= end or transfer.offset + transfer.length <= start:
                return False
        self._seen[index] += 1
        if fault.times_max is not None and self._struck[index] >= fault.times_max:
            return False
        if self._seen[index] in fault.nth:
            return True
        if fault.probability is None:
            return not fault.nth
        return self._random.random() < fault.probability
