"""What a pod is hurt with: one seed, one schedule. Which moment of the pod's own work a fault meets is chance still."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mezzo.errors import MezzoError
from tests.chaos.cutting import Link, Way
from tests.chaos.lab import SHARDS, Lab, Node, restart

Act = Callable[[], None]
LONG_PAUSE_S = 6.0
"""Longer than a lease of the lab: who stands so long has lost it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that begins, lasts and ends."""

    name: str
    on: str
    """what it is done to: nothing is hurt in two ways at a time"""
    begin: Act
    end: Act
    lasts_s: float


class Faults:
    """Draws faults for a lab. Owner of the random source."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab = lab
        self._random = random.Random(seed)
        self._kinds: list[tuple[int, Callable[[], Fault]]] = [
            (4, self._killed_shard),
            (4, self._paused_shard),
            (2, self._killed_frontend),
            (2, self._paused_frontend),
            (2, self._killed_service),
            (2, self._paused_service),
            (2, self._killed_member),
            (2, self._paused_member),
            (3, self._cut_shard),
            (3, self._cut_engine),
            (1, self._no_quorum),
        ]
        self.log: list[str] = []
        """what was done when"""

    def draw(self) -> Fault:
        """The next one."""
        weights = [weight for weight, _ in self._kinds]
        (kind,) = self._random.choices([each for _, each in self._kinds], weights)
        return kind()

    def run(self, seconds: float, together: int = 1) -> None:
        """Hurt the lab for so long, by so many faults at a time; all have ended when it returns."""
        began = time.monotonic()
        until = began + seconds
        running: list[tuple[float, Fault]] = []
        while (now := time.monotonic()) < until or running:
            for ends, fault in [each for each in running if each[0] <= now or now >= until]:
                self._do(fault.end, f"end of {fault.name}")
                running.remove((ends, fault))
            if now < until and len(running) < together:
                fault = self.draw()
                if all(fault.on != other.on for _, other in running):
                    self._do(fault.begin, fault.name)
                    running.append((now + fault.lasts_s, fault))
            time.sleep(0.05 + 0.3 * self._random.random())

    def _do(self, act: Act, name: str) -> None:
        self.log.append(f"{time.monotonic():.3f} {name}")
        with suppress(MezzoError, ProcessLookupError):
            act()

    # Kinds.

    def _shard(self) -> tuple[Node, int]:
        return self._random.choice(self._lab.nodes), self._random.randrange(SHARDS)

    def _lasts(self, least: float = 0.2, most: float = 2.0) -> float:
        """Mostly short; now and then longer than a lease."""
        if self._random.random() < 0.2:
            return LONG_PAUSE_S
        return self._random.uniform(least, most)

    def _killed_shard(self) -> Fault:
        node, number = self._shard()
        part = f"shard-{number}"

        def begin() -> None:
            node.process.kill_shard(number)

        return Fault(f"SIGKILL to {part} of {node}", f"{node} {part}", begin, lambda: None, 0.5)

    def _paused_shard(self) -> Fault:
        node, number = self._shard()
        part, lasts_s = f"shard-{number}", self._lasts()
        return Fault(
            f"SIGSTOP to {part} of {node} for {lasts_s:.1f} s",
            f"{node} {part}",
            lambda: _discard(node.signal(part, signal.SIGSTOP)),
            lambda: _discard(node.signal(part, signal.SIGCONT)),
            lasts_s,
        )

    def _killed_frontend(self) -> Fault:
        number = self._random.randrange(4)
        if number < 2:
            node = self._lab.nodes[number]
            return Fault(
                f"SIGKILL to the front-end of {node}",
                f"{node} frontend",
                lambda: _discard(node.process.kill_frontend()),
                lambda: None,
                0.5,
            )
        frontend = self._lab.frontends[number - 2]
        name = f"front-end {number - 2}"

        lasts_s = self._lasts()
        return Fault(
            f"SIGKILL to {name} for {lasts_s:.1f} s",
            name,
            lambda: self._lab.fell(frontend),
            lambda: self._lab.revive(frontend),
            lasts_s,
        )

    def _paused_frontend(self) -> Fault:
        number, lasts_s = self._random.randrange(4), self._lasts()
        if number < 2:
            node = self._lab.nodes[number]
            return Fault(
                f"SIGSTOP to the front-end of {node} for {lasts_s:.1f} s",
                f"{node} frontend",
                lambda: _discard(node.signal("frontend", signal.SIGSTOP)),
                lambda: _discard(node.signal("frontend", signal.SIGCONT)),
                lasts_s,
            )
        frontend = self._lab.frontends[number - 2]
        name = f"front-end {number - 2}"
        return Fault(
            f"SIGSTOP to {name} for {lasts_s:.1f} s",
            name,
            lambda: os.kill(frontend.pid, signal.SIGSTOP),
            lambda: os.kill(frontend.pid, signal.SIGCONT),
            lasts_s,
        )

    def _killed_service(self) -> Fault:
        number, lasts_s = self._random.randrange(2), self._lasts()
        service = self._lab.services[number]
        name = f"metadata service {number}"
        return Fault(
            f"SIGKILL to {name} for {lasts_s:.1f} s",
            name,
            lambda: self._lab.fell(service),
            lambda: self._lab.revive(service),
            lasts_s,
        )

    def _paused_service(self) -> Fault:
        number, lasts_s = self._random.randrange(2), self._lasts()
        service = self._lab.services[number]
        name = f"metadata service {number}"
        return Fault(
            f"SIGSTOP to {name} for {lasts_s:.1f} s",
            name,
            lambda: os.kill(service.pid, signal.SIGSTOP),
            lambda: os.kill(service.pid, signal.SIGCONT),
            lasts_s,
        )

    def _killed_member(self) -> Fault:
        number, lasts_s = self._random.randrange(3), self._lasts()
        member = self._lab.etcd.members[number]
        return Fault(
            f"SIGKILL to etcd {number} for {lasts_s:.1f} s",
            f"etcd {number}",
            member.kill,
            lambda: restart(member),
            lasts_s,
        )

    def _paused_member(self) -> Fault:
        number, lasts_s = self._random.randrange(3), self._lasts()
        member = self._lab.etcd.members[number]
        return Fault(
            f"SIGSTOP to etcd {number} for {lasts_s:.1f} s",
            f"etcd {number}",
            lambda: member.signal(signal.SIGSTOP),
            lambda: member.signal(signal.SIGCONT),
            lasts_s,
        )

    def _no_quorum(self) -> Fault:
        lasts_s = self._random.uniform(0.5, 2.5)
        members = self._random.sample(self._lab.etcd.members, 2)

        def signalled(number: signal.Signals) -> Act:
            return lambda: [member.signal(number) for member in members] and None

        return Fault(
            f"SIGSTOP to two etcd members for {lasts_s:.1f} s",
            "etcd",
            signalled(signal.SIGSTOP),
            signalled(signal.SIGCONT),
            lasts_s,
        )

    def _cut_shard(self) -> Fault:
        node = self._random.choice([node for node in self._lab.nodes if node.shards])
        number = self._random.randrange(len(node.shards))
        what = f"clients and shard-{number} of {node}"
        return self._cut([node.shards[number]], what, self._lasts())

    def _cut_engine(self) -> Fault:
        node = self._random.choice(self._lab.nodes)
        return self._cut(node.engine, f"{node} and the metadata", self._lasts())

    def _cut(self, links: list[Link], between: str, lasts_s: float) -> Fault:
        way: Way = self._random.choice(["both", "both", "there", "back"])
        reset = self._random.random() < 0.5
        kind = self._random.choice(["cut", "cut", "stall", "delay"])
        after_bytes = self._random.randrange(1, 5000) if kind == "stall" else 0
        delay_s = self._random.uniform(0.01, 0.3)

        def begin() -> None:
            for link in links:
                if kind == "delay":
                    link.delay(delay_s, way)
                else:
                    link.cut(way, after_bytes)

        def end() -> None:
            for link in links:
                link.heal(reset=reset)

        name = f"{kind} ({way}) between {between} for {lasts_s:.1f} s{', then reset' if reset else ''}"
        return Fault(name, between, begin, end, lasts_s)


def _discard(value: object) -> None:
    """What a fault's act gives is of no use."""
