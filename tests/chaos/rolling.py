"""Everything of a pod stopped and started, one after the other, while clients go on: who had to ask more than once?"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from mezzo.errors import Busy
from tests.chaos.history import Called, History
from tests.chaos.lab import SHARDS, Lab, Node, restart
from tests.chaos.load import TIMEOUT_S, Load, Teller
from tests.integration.etcd_members import Member
from tests.patience import PATIENCE_S, eventually

Step: TypeAlias = tuple[str, Callable[[], object]]
"""What is restarted, and how."""
STORED = 96
"""Chunks that are there before anything is restarted."""


@dataclass(slots=True)
class Asked:
    """What clients had to ask more than once."""

    calls: int = 0
    again: list[str] = field(default_factory=list)
    """calls that failed, and were made once more"""
    failed: list[str] = field(default_factory=list)
    """and failed once more"""


class Asking:
    """What a client of the load does: calls of each kind, each once more if it failed."""

    def __init__(self, asked: Asked, stored: list[bytes]) -> None:
        self._asked = asked
        self._stored = stored
        self._number = 0

    def __call__(self, teller: Teller, source: random.Random, since_s: float) -> None:
        choice = source.random()
        keys = source.sample(self._stored, 8)
        if choice < 0.4:
            self._number += 1
            fresh = [f"{teller.run}-{id(self)}-{self._number}-{each}".encode() for each in range(4)]
            self._twice(lambda timeout_s: teller.put(fresh, timeout_s))
        elif choice < 0.8:
            self._twice(lambda timeout_s: teller.get(keys, timeout_s)[0])
        else:
            self._twice(lambda timeout_s: teller.lookup(keys, timeout_s))

    def _twice(self, call: Callable[[float], Called]) -> None:
        self._asked.calls += 1
        first = call(TIMEOUT_S)
        if not first.failed:
            return
        self._asked.again.append(str(first))
        if isinstance(first.error, Busy):
            time.sleep(first.error.retry_after_s)
        # What is asked here is whether it fails, and not how long it takes on a machine that does other things, too.
        second = call(PATIENCE_S)
        if second.failed:
            self._asked.failed.append(f"{first}; then {second}")


def roll(lab: Lab, steps: Sequence[Step]) -> tuple[Asked, dict[str, object]]:
    """Restart pieces under load, each once the pod is whole again; what clients had to ask again, and figures for people."""
    asked, history = Asked(), History()
    stored = [f"{history.run}-{number}".encode() for number in range(STORED)]
    with lab.client("direct") as client:
        teller = Teller(client, "before", history)
        for start in range(0, STORED, 8):
            assert not teller.put(stored[start : start + 8]).failed
    took: dict[str, float] = {}
    load = Load(history, 1)
    try:
        for number in range(4):
            via = ("direct", "proxy")[number % 2]
            load.start(f"{via} {number}", partial(lab.client, via, first=number // 2), Asking(asked, stored))
        for name, step in steps:
            began = time.monotonic()
            step()
            lab.becomes_whole(f"the pod is whole after {name}")
            took[name] = round(time.monotonic() - began, 2)
    finally:
        load.stop()
    assert not history.faults, "\n".join(history.faults)
    found = 0
    with lab.client("direct") as client:
        teller = Teller(client, "after", history)
        for start in range(0, STORED, 8):
            found += teller.get(stored[start : start + 8])[1]
    return asked, {"calls": asked.calls, "again": len(asked.again), "found": found / STORED, "took_s": took}


def nodes(lab: Lab) -> list[Step]:
    """Each node as a whole, as for another release of it."""
    return [(str(node), node.process.restart) for node in lab.nodes]


def parts(lab: Lab) -> list[Step]:
    """Each shard and front-end of the nodes by itself: its supervisor starts it again."""
    return [
        (f"{part} of {node}", partial(_stop, node, part))
        for node in lab.nodes
        for part in (*(f"shard-{number}" for number in range(SHARDS)), "frontend")
    ]


def frontends(lab: Lab) -> list[Step]:
    """Each of the front-ends that stand alone."""
    return [(f"front-end {number}", frontend.restart) for number, frontend in enumerate(lab.frontends)]


def services(lab: Lab) -> list[Step]:
    """Each metadata service."""
    return [(f"metadata service {number}", service.restart) for number, service in enumerate(lab.services)]


def members(lab: Lab) -> list[Step]:
    """Each member of the etcd."""

    def again(member: Member) -> None:
        member.signal(signal.SIGTERM)
        if member.process is not None:
            member.process.wait(PATIENCE_S)
        restart(member)
        lab.etcd.wait()

    return [(f"etcd {number}", partial(again, member)) for number, member in enumerate(lab.etcd.members)]


def _stop(node: Node, part: str) -> None:
    """A clean stop of a part, which its supervisor starts again."""
    before = node.pid_of(part)
    node.signal(part, signal.SIGTERM)
    eventually(lambda: node.pid_of(part) != before, f"{part} is back")
