"""The event loop's side of a shard: who is called when, and for how long.

Invariant: the block store, the sessions and the connections are touched by this one thread only.
Every callback is timed; the longest is the metric ``loop_hold_max_us``.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mezzo_server.metrics.measures import HOLD_SECONDS, Histogram
from mezzo_server.shard.descriptor_passing import close_in
from mezzo_server.shard.turns import Turn, Turns

if TYPE_CHECKING:
    from mezzo_server.blockstore.io import Device
    from mezzo_server.blockstore.store import BlockStore
    from mezzo_server.shard.connection import Connection
    from mezzo_server.shard.service import Service
    from mezzo_server.shard.session import Session

log = structlog.get_logger("mezzo.runtime")

TICK_S = 0.02
TICK_IDLE_S = 0.2
CONNECTION_CHECK_S = 0.25
HOLD_GOAL_NS = 1_000_000
HOLD_TOLD_NS = int(HOLD_SECONDS[0] * 1e9)
"""What is shorter is only counted."""
PAGE_BYTES = resource.getpagesize()
POLL_NS = 30_000
"""How long after a completion the loop looks for the next one before it sleeps: about what falling
asleep and being woken costs (`python -m benchmarks.wakeup`)."""
SWITCH_S = 0.0002
"""How long another thread (a scrape that is rendered, a region that is opened) may keep the interpreter from
the loop. Python's 5 ms would be the longest hold of all."""
YOUNG_COUNT = 3_000
"""Container objects left since the last collection before the youngest are collected: few, since our own
code leaves no cycles behind; a collection of so many takes half a millisecond."""
MIDDLE_EVERY = 20
"""Collections of the youngest between two of those that survived one."""
FULL_COLLECTION_S = 60.0
"""Between full collections, when nothing is under way; ten times as long when always something is."""


class Runtime:
    """Owner of the connections, the timers and the wake-ups of one shard.

    Driven by an asyncio event loop: ``start`` after `service` was set, ``stop`` before the store is
    closed.
    """

    service: Service

    def __init__(self, loop: asyncio.AbstractEventLoop, store: BlockStore) -> None:
        self._loop = loop
        self._store = store
        self.connections: set[Connection] = set()
        self._turns = Turns(lambda: store.shares)
        self._round_scheduled = False
        self._pump_scheduled = False
        self._moved_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0
        self._collected_at = 0.0
        self._running = False
        self._event_fds: list[int] = []
        self._helper = ThreadPoolExecutor(1, "mezzo-helper")
        self._offloaded: deque[Callable[[], None]] = deque()
        self.holds = Histogram(HOLD_SECONDS)
        """callbacks of more than `HOLD_TOLD_NS`; the others are in ``callbacks`` alone"""
        self.held_ns = 0
        self.hold_max_ns = 0
        self.holds_long = 0
        self.collections = 0
        self.collection_max_ns = 0
        self.callbacks = 0
        self.faults = 0
        self._callbacks_seen = 0
        self._switch_s = sys.getswitchinterval()

    def start(self) -> None:
        """Begin to serve: everything that was built so far is exempt from garbage collection."""
        self._running = True
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        sources = [device.event_fd for device in self._store.devices]
        for fd in (*sources, *(workers.event_fd for workers in self._store.all_workers)):
            self._watch_events(fd)
        # Collections would hold the loop at a time that nobody chose; `_tick` makes them.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._collected_at = self._checked_at = self.service.now()
        self._schedule_tick()
        self.poke()

    def _watch_events(self, fd: int | None) -> None:
        if fd is not None:
            self._event_fds.append(fd)
            self._loop.add_reader(fd, self._timed, self._pump)

    def device_attached(self, device: Device) -> None:
        """The store has one device more."""
        if self._running:
            self._watch_events(device.event_fd)

    def device_detached(self, device: Device) -> None:
        """The store has one device less: closed where it holds up nobody."""
        fd = device.event_fd
        if fd in self._event_fds:
            self._event_fds.remove(fd)
            self._loop.remove_reader(fd)
        if self._running:
            self.apart(device.close, lambda: None)
        else:
            device.close()

    def stop(self) -> None:
        """Close all connections and timers."""
        self._running = False
        for connection in tuple(self.connections):
            connection.close()
        if self._timer is not None:
            self._timer.cancel()
        self._helper.shutdown()
        while self._offloaded:
            self._offloaded.popleft()()
        for fd in self._event_fds:
            self._loop.remove_reader(fd)
        self._event_fds.clear()
        gc.enable()
        gc.unfreeze()
        sys.setswitchinterval(self._switch_s)

    def numbers(self) -> Mapping[str, int | float]:
        """How the loop fares."""
        return {
            "loop_hold_max_us": self.hold_max_ns / 1000,
            "loop_holds_over_1ms": self.holds_long,
            "loop_held_us": self.held_ns // 1000,
            "loop_callbacks": self.callbacks,
            "collections": self.collections,
            "collection_max_us": self.collection_max_ns / 1000,
            "faults": self.faults,
            "turns_waiting": self._turns.waiting,
            "output_bytes": sum(connection.output_bytes for connection in self.connections),
            "memory_bytes": _memory_bytes(),
        }

    def holds_told(self) -> Histogram:
        """How long callbacks held the loop, seconds: all of them."""
        told = self.holds.copy()
        told.counts[0] += self.callbacks - told.count
        told.total = self.held_ns / 1e9
        return told

    def from_thread(self, step: Callable[[], None]) -> None:
        """Call ``step`` in a turn of the loop; from any thread. RuntimeError if the loop is closed."""
        self._loop.call_soon_threadsafe(self._timed, step)

    # -- what connections ask

    def later(self, step: Callable[[], None]) -> None:
        """Call ``step`` in a later turn."""
        self._loop.call_soon(self._timed, step)

    def later_for(self, session: Session, step: Callable[[], None]) -> None:
        """Call ``step`` in a later turn, when it is the turn of the session's tenant."""
        tenant = session.scope.tenant
        if tenant == self._turns.alone:
            self._loop.call_soon(self._timed, step)
        else:
            self._turns.add(tenant, step)
            self._schedule_round()

    def turn(self, session: Session, callback: Callable[[], None]) -> Callable[[], None]:
        """A callback that takes turns with those of other tenants: to be watched with, or called within another."""
        turn = Turn(session, callback)

        def within() -> None:
            self._take_turn(turn, callback)

        return within

    def after(self, delay_s: float, step: Callable[[], None]) -> None:
        """Call ``step`` in ``delay_s`` seconds."""
        self._loop.call_later(delay_s, self._timed, step)

    def poke(self) -> None:
        """Work was queued in the store: submit it once, when this turn's callbacks have run."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._timed, self._pump)

    def offload(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """Run ``work`` in a thread of its own kind, then ``done`` in ours; here, when the loop has stopped."""
        if not self._running:
            work()
            done()
            return
        self._offloaded.append(done)
        future = self._helper.submit(work)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._timed, self._offload_done))

    def apart(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        """`offload` for what may take minutes, or for ever: in a thread of its own, which nobody waits for at the end."""

        def run() -> None:
            try:
                work()
            finally:
                with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                    self._loop.call_soon_threadsafe(self._timed, done)

        threading.Thread(target=run, name="mezzo-apart", daemon=True).start()

    def discard(self, descriptor: int) -> None:
        """Close what a client gave, where it holds up nobody."""
        close_in(self.apart, descriptor)

    def _offload_done(self) -> None:
        # One thread: they end in the order in which they began.
        if self._offloaded:
            self._offloaded.popleft()()

    def watch_input(self, fd: int, ready: Callable[[], None] | Turn) -> None:
        """Call ``ready`` whenever ``fd`` can be read; a `Turn`: when it is its tenant's turn, too."""
        if isinstance(ready, Turn):
            self._loop.add_reader(fd, self._turn, ready)
        else:
            self._loop.add_reader(fd, self._timed, ready)

    def unwatch_input(self, fd: int) -> None:
        """Undo `watch_input`."""
        self._loop.remove_reader(fd)

    def watch_output(self, fd: int, ready: Turn) -> None:
        """Call ``ready`` whenever ``fd`` can be written and it is its tenant's turn."""
        self._loop.add_writer(fd, self._turn, ready)

    def unwatch_output(self, fd: int) -> None:
        """Undo `watch_output`."""
        self._loop.remove_writer(fd)

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self.connections.discard(connection)

    # -- turns

    def _turn(self, turn: Turn) -> None:
        """Something is ready for a connection: now, or when it is its tenant's turn."""
        if turn.session.scope.tenant == self._turns.alone:
            self._timed(turn.callback)
        else:
            self._take_turn(turn, partial(self._timed, turn.callback))

    def _take_turn(self, turn: Turn, call: Callable[[], None]) -> None:
        if turn.queued:
            return
        tenant = turn.session.scope.tenant
        turns = self._turns
        began = time.perf_counter_ns()
        if turns.may(tenant, began):
            call()
            turns.spent(tenant, time.perf_counter_ns() - began)
        else:
            turn.queued = True
            turns.add(tenant, partial(self._its_turn, turn))
            self._schedule_round()

    @staticmethod
    def _its_turn(turn: Turn) -> None:
        turn.queued = False
        turn.callback()

    def _schedule_round(self) -> None:
        if not self._round_scheduled:
            self._round_scheduled = True
            # behind a look at who is ready: whoever has not had his part is called before
            self._loop.call_soon(self._play_round)

    def _play_round(self) -> None:
        self._round_scheduled = False
        turns = self._turns
        turns.begin_round(time.perf_counter_ns())
        while (drawn := turns.next()) is not None:
            tenant, step = drawn
            began = time.perf_counter_ns()
            self._timed(step)
            turns.spent(tenant, time.perf_counter_ns() - began)
        if turns.waiting:
            self._schedule_round()

    def _timed(self, callback: Callable[[], None]) -> None:
        began = time.perf_counter_ns()
        try:
            callback()
        except Exception:  # a fault of ours must not end the loop, and must be seen
            self.faults += 1
            log.exception("fault", by=getattr(callback, "__qualname__", "?"))
        finally:
            held = time.perf_counter_ns() - began
            self.callbacks += 1
            self.held_ns += held
            if held > HOLD_TOLD_NS:
                self.holds.observe(held / 1e9)
                self.holds_long += held > HOLD_GOAL_NS
            if held > self.hold_max_ns:
                self.hold_max_ns = held
                if held > 50 * HOLD_GOAL_NS:
                    log.warning("loop was held", ms=held / 1e6, by=getattr(callback, "__qualname__", "?"))

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._store.pump():
            self._moved_ns = time.perf_counter_ns()
        if self._store.eager or self._expects_more():
            self.poke()

    def _expects_more(self) -> bool:
        """Whether a transfer is likely to end before the loop had fallen asleep and been woken."""
        if not any(device.in_flight for device in self._store.devices):
            return False
        return time.perf_counter_ns() - self._moved_ns < POLL_NS

    def _schedule_tick(self) -> None:
        # Idle: nothing of the store's is under way and nobody called since the last tick.
        idle = not self._store.busy and self.callbacks - self._callbacks_seen <= 1
        self._callbacks_seen = self.callbacks
        self._timer = self._loop.call_later(TICK_IDLE_S if idle else TICK_S, self._timed, self._tick)

    def _tick(self) -> None:
        if not self._running:
            return
        try:
            self._turns.tick()
            self._store.tick()
            self.poke()
            self.service.tick()
            now = self.service.now()
            if now - self._checked_at >= CONNECTION_CHECK_S:
                self._checked_at = now
                for connection in tuple(self.connections):
                    connection.check_time(now)
            self._collect(now)
        finally:  # a fault in one of them must not stop the clock of all
            self._schedule_tick()

    def _collect(self, now: float) -> None:
        since = now - self._collected_at
        if since >= FULL_COLLECTION_S and (since >= 10 * FULL_COLLECTION_S or not self._store.busy):
            self._collected_at = now
            self._collect_generation(2)
            # What survived lives long: the next full collection need not look at it again.
            gc.freeze()
            return
        young, collected, _ = gc.get_count()
        if young > YOUNG_COUNT:
            self._collect_generation(1 if collected >= MIDDLE_EVERY else 0)

    def _collect_generation(self, generation: int) -> None:
        began = time.perf_counter_ns()
        gc.collect(generation)
        self.collections += 1
        self.collection_max_ns = max(self.collection_max_ns, time.perf_counter_ns() - began)


def _memory_bytes() -> int:
    """Resident memory of this process, shared pages included; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            return int(statm.read(128).split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
