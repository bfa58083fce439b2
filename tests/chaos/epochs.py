"""Between which moments a slot certainly had one owner: from looks at the metadata while a pod is hurt.

A look that was sent when the plan of an epoch was in force, and one that says that every member follows it, bound the time
for which that epoch is sure.  What lies between two epochs is nobody's, and nothing is asserted of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mezzo.errors import MezzoError
from mezzo.placement.pod_map import PodMap
from mezzo_server.metadata.engine import Engine
from mezzo_server.pod.operating import PodOperator

LOOK_S = 0.05
ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """What the metadata said once. Times are readings of the monotonic clock."""

    sent: float
    came: float
    pod_map: PodMap
    followed: bool
    """by all members that there were"""


@dataclass(frozen=True, slots=True)
class Tenure:
    """For so long a slot had one owner, and one to be asked before it, or none; with two copies one second, too."""

    begin: float
    end: float
    epochs: tuple[int, int]
    """the first and the last"""
    owner: bytes
    before: bytes | None
    second: bytes | None = None
    """where chunks have two copies"""
    changes: tuple[tuple[float, float], ...] = ()
    """in which epochs followed one another: its shard may have refused then what it had done, and been asked again"""

    def is_steady(self, begin: float, end: float) -> bool:
        """Whether no epoch followed another between these moments."""
        return all(end < since or begin > until for since, until in self.changes)


def tenures(looks: list[Look], slot: int, copies: int = 1) -> list[Tenure]:
    """Of a slot, one after the other. Epochs of which nothing is sure are left out."""
    found: list[Tenure] = []
    for begin, end, pod_map in _certain(looks):
        owner, before = pod_map.owner(slot), pod_map.owner_before(slot)
        second = pod_map.second(slot) if copies > 1 else None
        if owner is None:
            continue
        who = owner.id, *(None if each is None else each.id for each in (before, second))
        last = found[-1] if found else None
        epoch = pod_map.epoch
        if last is not None and last.epochs[1] + 1 == epoch and (last.owner, last.before, last.second) == who:
            changes = (*last.changes, (last.end, begin))
            found[-1] = Tenure(last.begin, end, (last.epochs[0], epoch), *who, changes=changes)
        else:
            found.append(Tenure(begin, end, (epoch, epoch), *who))
    return found


def _certain(looks: list[Look]) -> list[tuple[float, float, PodMap]]:
    sure: dict[int, tuple[float, float, PodMap]] = {}
    for look in looks:
        epoch = look.pod_map.epoch
        if epoch in sure:
            begin, _, pod_map = sure[epoch]
            sure[epoch] = begin, look.sent, pod_map
        elif look.followed:
            sure[epoch] = look.came, look.came, look.pod_map
    return [each for _, each in sorted(sure.items()) if each[0] < each[1]]


class Watcher:
    """Looks at the metadata every now and then, in a thread of its own. `start`, then `stop`."""

    def __init__(self, make_engine: Callable[[], Engine]) -> None:
        self.looks: list[Look] = []
        self._make_engine = make_engine
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> list[Look]:
        """End, and give all looks."""
        self._stopping = True
        self._thread.join()
        return self.looks

    async def _run(self) -> None:
        engine = self._make_engine()
        operator = PodOperator(engine, time.time)
        try:
            while not self._stopping:
                sent = time.monotonic()
                try:
                    view = await asyncio.wait_for(operator.view(), ANSWER_S)
                except (MezzoError, TimeoutError):
                    view = None
                if view is not None and view.plan is not None:
                    look = Look(sent, time.monotonic(), view.plan.pod_map, not view.behind())
                    self.looks.append(look)
                await asyncio.sleep(LOOK_S)
        finally:
            await engine.close()
