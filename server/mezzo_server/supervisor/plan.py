"""What the supervisor does next: decided here, without I/O and without a clock of its own.

Parts are given in stages: those of one start together, once all of the stage before were ready once.
A part that the others can do without is waited for until it was ready or has failed once, as long as another of its
stage was ready.  Stages stop in the reverse order.  A part that ends is started again after a wait that doubles, with
jitter, until it has run for long enough; the others go on meanwhile.  A part whose very first start
fails for what it was told (exit status 2: settings, a device in use) ends the whole instead, unless others of its
stage can do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from mezzo.backoff import Backoff
from mezzo_server.config.schema import SupervisorConfig

EXIT_REFUSED = 2
"""the status of a command of ours that could not do what it was asked to"""

Verb = Literal["start", "terminate", "kill", "announce", "finish"]


class State(Enum):
    """Of one part."""

    IDLE = "idle"
    """not started yet, or stopped"""
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """it ended, and is started again after a while"""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done now."""

    verb: Verb
    part: str = ""
    """which part; empty for ``announce`` and ``finish``"""
    status: int = 0
    """of the supervisor, for ``finish``"""


@dataclass(frozen=True, slots=True)
class PartReport:
    """One part, for metrics and for people."""

    name: str
    state: str
    restarts: int
    """starts after the first"""
    failures: int
    """ends since it last ran for long enough"""
    ready_since: float
    """clock reading; 0: it is not ready"""


class Part:
    """One process as the plan sees it. Owner of its state."""

    def __init__(self, name: str, backoff: Backoff) -> None:
        self.name = name
        self.state = State.IDLE
        self.backoff = backoff
        self.starts = 0
        self.was_ready = False
        """ever"""
        self.has_failed = False
        """ever, whether or not it was ready"""
        self.ready_since = 0.0
        self.due: float | None = None
        """when its state times out: start again, kill"""


class Plan:
    """Owner of the state of all parts. Each method takes the time, and gives what to do, in order."""

    def __init__(
        self,
        stages: Sequence[Sequence[str]],
        config: SupervisorConfig,
        random: Callable[[], float],
        dispensable: Collection[str] = (),
    ) -> None:
        """``stages``: names of the parts of each; ``dispensable``: those that others can do without for a while."""
        self._config = config
        self._dispensable = frozenset(dispensable)
        self._stages = [
            [
                Part(name, Backoff(random, first_s=config.backoff_s_min, max_s=config.backoff_s_max))
                for name in stage
            ]
            for stage in stages
        ]
        self._parts = {part.name: part for stage in self._stages for part in stage}
        self._announced = False
        self._stopping = False
        self._status = 0

    @property
    def stopping(self) -> bool:
        """Whether it is on its way down."""
        return self._stopping

    def report(self) -> list[PartReport]:
        """The state of each part."""
        return [
            PartReport(
                part.name,
                part.state.value,
                max(0, part.starts - 1),
                part.backoff.failures,
                part.ready_since if part.state is State.READY else 0.0,
            )
            for part in self._parts.values()
        ]

    def due(self) -> float | None:
        """When `tick` is to be called, unless something happens before; None: nothing is waited for."""
        return min((part.due for part in self._parts.values() if part.due is not None), default=None)

    def due_of(self, name: str) -> float | None:
        """When the state of one part times out."""
        return self._parts[name].due

    def begin(self, now: float) -> list[Action]:
        """Start the first stage."""
        return self._start_next(now)

    def ready(self, name: str, now: float) -> list[Action]:
        """A part says that it is ready."""
        part = self._parts[name]
        if part.state is not State.STARTING:
            return []
        part.state, part.due = State.READY, None
        part.was_ready, part.ready_since = True, now
        return self._start_next(now)

    def ended(self, name: str, status: int, now: float) -> list[Action]:
        """A part's process has ended; ``status`` is negative for a signal."""
        part = self._parts[name]
        state, part.state, part.due = part.state, State.IDLE, None
        if self._stopping:
            return self._stop_next(now)
        if state is State.READY and now - part.ready_since >= self._config.stable_s:
            part.backoff.succeeded()
        refused = not self._announced and part.starts == 1 and not part.was_ready and status == EXIT_REFUSED
        if refused and not self._others_go_on(part):
            # The same settings will not do better the next time.
            return self._stop(EXIT_REFUSED, now)
        part.state, part.has_failed = State.WAITING, True
        part.due = now + part.backoff.failed(now)
        return self._start_next(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        actions: list[Action] = []
        for part in self._parts.values():
            if part.due is None or now < part.due:
                continue
            if part.state is State.WAITING:
                actions += self._start(part, now)
            else:
                # Not ready in time, or not gone in time. Its end is told by `ended`, as any other.
                part.due = None
                actions.append(Action("kill", part.name))
                if part.state is State.STOPPING:
                    self._status = self._status or 1
        return actions

    def stop(self, now: float) -> list[Action]:
        """Stop everything, the last part first. Harmless if that is under way."""
        return [] if self._stopping else self._stop(0, now)

    def _stop(self, status: int, now: float) -> list[Action]:
        self._stopping, self._status = True, status
        for part in self._parts.values():
            if part.state is State.WAITING:
                part.state, part.due = State.IDLE, None
        return self._stop_next(now)

    def _start_next(self, now: float) -> list[Action]:
        """Start the first stage that was not started yet, if all before it were ready."""
        for stage in self._stages:
            fresh = [part for part in stage if not part.starts]
            if fresh:
                return [action for part in fresh for action in self._start(part, now)]
            if not self._passed(stage):
                return []
        if self._announced:
            return []
        self._announced = True
        return [Action("announce")]

    def _passed(self, stage: Sequence[Part]) -> bool:
        """Whether the next stage may start."""
        without = [part for part in stage if not part.was_ready]
        return len(without) < len(stage) and all(
            part.has_failed and part.name in self._dispensable for part in without
        )

    def _others_go_on(self, part: Part) -> bool:
        """Whether others of a part's stage are ready, or may become so, and can do without it."""
        stage = next(stage for stage in self._stages if part in stage)
        going = [
            other
            for other in stage
            if other is not part and (other.was_ready or other.state is State.STARTING)
        ]
        return part.name in self._dispensable and bool(going)

    def _stop_next(self, now: float) -> list[Action]:
        for stage in reversed(self._stages):
            running = [part for part in stage if part.state in {State.STARTING, State.READY}]
            for part in running:
                part.state, part.due = State.STOPPING, now + self._config.stop_s
            if running or any(part.state is State.STOPPING for part in stage):
                return [Action("terminate", part.name) for part in running]
        return [Action("finish", status=self._status)]

    def _start(self, part: Part, now: float) -> list[Action]:
        part.state, part.due = State.STARTING, now + self._config.start_s
        part.starts += 1
        return [Action("start", part.name)]
