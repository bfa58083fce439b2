"""Carries out what the plan says: processes, signals, timers, and what is said when the node is ready."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from mezzo_server.config import NodeConfig
from mezzo_server.config.memory import check_hot, node_memory, told
from mezzo_server.config.several import shard_name
from mezzo_server.logs import log_format
from mezzo_server.machine.cores import format_cores
from mezzo_server.machine.host import Host
from mezzo_server.machine.memory import memory_seen
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.metrics.parts import supervisor_sample
from mezzo_server.supervisor.child import Child, describe_status, start
from mezzo_server.supervisor.devices import Dealt
from mezzo_server.supervisor.looking import cores_of, devices_of
from mezzo_server.supervisor.plan import Action, PartReport, Plan
from mezzo_server.supervisor.settings import FRONTEND, METADATA, ProcessSettings

PROCESS = "mezzo_server.supervisor.process"

log = structlog.get_logger("mezzo.supervisor")

READY_EVENT = "a process is ready"
"""what the log says then, with ``part`` and ``of`` (its process id)"""


class NodeReadiness(Struct, frozen=True):
    """What the supervisor says once, when everything serves."""

    pid: int
    """of the supervisor"""
    start_s: float
    shard: dict[str, Any]
    """as the (first) shard said it"""
    frontend: dict[str, Any] | None
    """as the front-end said it; None: there is none"""
    metadata: dict[str, Any] | None
    """as the metadata service said it; None: there is none"""
    metrics: dict[str, str]
    """address of the metrics of each process that has them"""
    shards: list[dict[str, Any]]
    """as each shard said it, in their order"""


def default_commands(config: NodeConfig, dealt: Dealt | None = None) -> dict[str, list[str]]:
    """How each part is started, in the order in which they start."""
    count = config.supervisor.shards
    cores = _cores(config, dealt)
    commands = {}
    if config.metadata_service.enabled:
        commands[METADATA] = _command(METADATA, METADATA)
    for number, own in enumerate(cores):
        name = shard_name(number, count)
        commands[name] = _command("shard", name)
        if own is not None:
            commands[name].append(format_cores(own))
    if config.frontend.enabled:
        commands[FRONTEND] = _command(FRONTEND, FRONTEND)
    return commands


def _command(command: str, name: str) -> list[str]:
    return [sys.executable, "-m", PROCESS, command, str(os.getpid()), name]


def _cores(config: NodeConfig, dealt: Dealt | None) -> list[frozenset[int] | None]:
    """The cores of each shard; None: all."""
    if dealt is None:
        return [None]
    return cores_of(config, dealt.devices, Host(), os.sched_getaffinity(0))


class Supervisor:
    """Owner of the processes of a node, and of the settings with the addresses that they took."""

    def __init__(
        self,
        config: NodeConfig,
        announce: Callable[[NodeReadiness], None],
        *,
        commands: Mapping[str, Sequence[str]] | None = None,
        metrics_address: str = "",
    ) -> None:
        """
        Raises:
            InvalidArgument: the devices do not fit the number of shards.
        """
        dealt = devices_of(config, Host())
        # Each shard sees its own part only.
        check_hot(config.shard.hot.bytes, memory_seen(Host()))
        # Its processes write to a pipe of ours, so they are told what our standard error is.
        told = replace(config, log=replace(config.log, format=log_format(config.log)))
        self._settings = ProcessSettings(told, dealt)
        self._announce = announce
        self._commands = default_commands(config, dealt) if commands is None else commands
        self._metrics_address = metrics_address
        shards = self._settings.shards
        first = [(name,) for name in self._commands if name == METADATA]
        rest = [(name,) for name in self._commands if name not in (*shards, METADATA)]
        self._plan = Plan(
            (*first, shards, *rest), config.supervisor, random.random, self._settings.dispensable
        )
        self._children: dict[str, Child] = {}
        self._said: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._finished: asyncio.Future[int] | None = None
        self._began = time.monotonic()

    def report(self) -> list[PartReport]:
        """The state of each process; may be called from another thread."""
        return self._plan.report()

    async def run(self) -> int:
        """Run the node until it is stopped; the exit status."""
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            self._do(self._plan.begin(time.monotonic()))
            return await self._finished
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            if self._timer is not None:
                self._timer.cancel()
            for child in self._children.values():
                child.signal(signal.SIGKILL)  # none is left but after a fault of ours
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            child = self._children.get(action.part)
            if action.verb == "start":
                task = asyncio.get_running_loop().create_task(self._run_child(action.part))
                self._tasks.add(task)
                task.add_done_callback(self._on_task_done)
            elif action.verb == "announce":
                self._say()
            elif action.verb == "finish":
                if self._finished is not None and not self._finished.done():
                    self._finished.set_result(action.status)
            elif child is not None:
                kill = action.verb == "kill"
                if kill:
                    log.warning("a process took too long and is killed", part=action.part, of=child.pid)
                child.signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._set_timer()

    async def _run_child(self, name: str) -> None:
        try:
            child = await start(name, self._commands[name])
        except OSError as error:
            log.error("a process cannot be started", part=name, error=str(error))
            self._do(self._plan.ended(name, 127, time.monotonic()))
            return
        self._children[name] = child
        log.info("a process was started", part=name, of=child.pid)
        if self._plan.stopping:
            child.signal(signal.SIGTERM)  # a stop came between the decision and the process

        def on_ready(said: dict[str, Any]) -> None:
            self._said[name] = said
            self._settings.ready(name, said)
            log.info(READY_EVENT, part=name, of=child.pid)
            self._do(self._plan.ready(name, time.monotonic()))

        def on_change(said: dict[str, Any]) -> None:
            self._settings.changed(name, said)

        status = await child.watch(msgspec.json.encode(self._settings.of(name)), on_ready, on_change)
        del self._children[name]
        expected = self._plan.stopping
        self._do(self._plan.ended(name, status, time.monotonic()))
        if expected:
            log.info("a process has stopped", part=name, of=child.pid, status=describe_status(status))
        elif not self._plan.stopping:
            again_s = (self._plan.due_of(name) or 0.0) - time.monotonic()
            log.warning(
                "a process ended and is started again",
                part=name,
                of=child.pid,
                status=describe_status(status),
                again_in_s=round(max(0.0, again_s), 2),
                last_words=child.last_words,
            )

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        # A fault of ours: without the task nobody watches the process, so the node must not go on.
        if fault is not None and self._finished is not None and not self._finished.done():
            self._finished.set_exception(fault)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._plan.due()
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._do(self._plan.tick(time.monotonic()))

    def _on_stop(self, number: signal.Signals) -> None:
        if self._plan.stopping:
            log.warning("already stopping", signal=number.name)
        else:
            log.info("stopping", signal=number.name)
        self._do(self._plan.stop(time.monotonic()))

    def _on_hangup(self) -> None:
        log.warning("SIGHUP is ignored: settings are read at the start only")

    def _say(self) -> None:
        try:
            self._announce(self._readiness())
        except OSError as error:
            # Whoever was to read it has gone; that is no reason to take the node away from its clients.
            log.warning("nobody reads that the node is ready", error=str(error))

    def _readiness(self) -> NodeReadiness:
        metrics = {name: said["metrics"] for name, said in self._said.items() if said.get("metrics")}
        if self._metrics_address:
            metrics["supervisor"] = self._metrics_address
        return NodeReadiness(
            pid=os.getpid(),
            start_s=round(time.monotonic() - self._began, 3),
            shard=self._said.get(self._settings.shards[0], {}),
            frontend=self._said.get(FRONTEND),
            metadata=self._said.get(METADATA),
            metrics=metrics,
            shards=[self._said.get(name, {}) for name in self._settings.shards],
        )


def serve(config: NodeConfig, announce: Callable[[NodeReadiness], None]) -> int:
    """Run a node in this process and its children until SIGTERM or SIGINT; the exit status.

    0: stopped cleanly; 1: a process had to be killed; 2: it could not start, and a process has said why.
    """
    began = time.monotonic()
    supervisor: Supervisor | None = None

    def sample() -> Sample:
        parts = supervisor.report() if supervisor is not None else []
        return supervisor_sample(parts, time.monotonic() - began)

    def healthy() -> bool:
        return supervisor is not None and all(part.ready_since for part in supervisor.report())

    with ExitStack() as stack:
        address = ""
        if config.metrics.supervisor:
            settings = config.metrics
            endpoint = Endpoint(
                settings.supervisor, "supervisor", sample, healthy, insecure=settings.insecure
            )
            stack.callback(endpoint.close)
            address = endpoint.address
        supervisor = Supervisor(config, announce, metrics_address=address)
        if config.supervisor.shards > 1:
            log.info("memory", of_the_node=told(node_memory(config)))
        return asyncio.run(supervisor.run())
