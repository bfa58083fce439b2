"""A thread that does what a machine of the pod wants done, so that no loop that serves waits for the metadata."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from mezzo.errors import FormatError, MezzoError, Unavailable
from mezzo_server.metadata.engine import Engine, Scan
from mezzo_server.pod.steps import Commit, End, Grant, Keep, Look, Machine, Revoke, Step, Wait, Watch

log = structlog.get_logger("mezzo.pod")

CANCEL_S = 1.0
READ_S = 5.0
READS_MAX = 16
"""Scans that others ask for, at a time."""
WATCH_GAP_S = 0.1
"""before a watch that broke off is begun anew"""
FAULT_S = 1.0
"""after a fault in what the machine decides, which may be there still"""


def machine_seconds() -> float:
    """A clock that never jumps, and goes on while the machine sleeps: what leases are counted by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def perform(machine: Machine, engine: Engine, step: Step, clock: Callable[[], float]) -> None:
    """Do what a step says, and tell the machine how it went. Raises MezzoError: it did not come to its end."""
    sent = clock()
    if isinstance(step, Look):
        scan = await engine.scan(step.prefix)
        machine.looked(scan, clock())
    elif isinstance(step, Commit):
        outcome = await engine.transact(step.checks, step.writes)
        machine.committed(outcome, clock())
    elif isinstance(step, Grant):
        lease = await engine.grant(step.ttl_s)
        machine.granted(lease, sent, clock())
    elif isinstance(step, Keep):
        alive = await engine.keep(step.lease)
        machine.kept(alive, sent, clock())
    elif isinstance(step, Revoke):
        await engine.revoke(step.lease)
        machine.revoked(clock())


class Driver:
    """Owner of a thread, its event loop and an engine; drives one machine. `start`, then `stop`.

    The machine is touched by that thread alone: others `call`.
    """

    def __init__(
        self,
        machine: Machine,
        make_engine: Callable[[], Engine],
        moved: Callable[[], None],
        *,
        name: str,
        clock: Callable[[], float] = machine_seconds,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``moved`` is called in the thread whenever the machine may have come to know something."""
        self._machine = machine
        self._make_engine = make_engine
        self._moved = moved
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Callable[[], None]] = []
        self._woken = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._engine: Engine | None = None
        self._reading: set[asyncio.Future[None]] = set()
        self._stopping = False
        self._away = False
        self._unread = ""
        """why the pod could not be read, as it was last told"""
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def call(self, work: Callable[[], None]) -> None:
        """Have something done to the machine, in its thread; from any thread. Nothing happens once it has ended."""

        def run() -> None:
            work()
            self._woken.set()

        with self._lock:
            if self._loop is None:
                self._early.append(run)
                return
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(run)

    def read(self, prefix: str, told: Callable[[Scan | MezzoError], None]) -> None:
        """Scan a prefix beside what the machine does; from any thread. ``told`` is called in the driver's, within
        `READ_S`, or never if that ends before.
        """

        def begin() -> None:
            if self._engine is None or len(self._reading) >= READS_MAX:
                told(Unavailable("the metadata are not asked at this moment"))
                return
            reading = asyncio.ensure_future(self._read(self._engine, prefix, told))
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)

        self.call(begin)

    def join(self, timeout_s: float) -> bool:
        """Wait until the machine wants nothing more; whether it came to that."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        """End the thread, whatever the machine wants."""

        def end() -> None:
            self._stopping = True

        self.call(end)
        self.join(timeout_s)

    # -- in the thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:  # a fault of ours: it must be seen
            log.exception("the pod is not followed any more")

    async def _run(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            early, self._early = self._early, []
        for work in early:
            work()
        try:
            while not self._stopping:
                self._tell()
                step = self._next_step()
                if isinstance(step, End):
                    break
                engine = self._engine = self._engine or self._make_engine()
                await self._watch(engine)
                if isinstance(step, Wait):
                    await self._wait(step.seconds)
                elif not await self._perform(engine, step):
                    self._engine = None
                    await _quietly(engine.close())
        finally:
            await self._unwatch()
            for reading in tuple(self._reading):
                reading.cancel()
            if self._engine is not None:
                await _quietly(self._engine.close())

    def _next_step(self) -> Step:
        try:
            return self._machine.next_step(self._clock(), self._wall())
        except Exception as error:  # a fault of ours must be seen, and must not end what is followed
            self._fault(error)
            return Wait(FAULT_S)

    async def _read(self, engine: Engine, prefix: str, told: Callable[[Scan | MezzoError], None]) -> None:
        result: Scan | MezzoError
        try:
            async with asyncio.timeout(READ_S):
                result = await engine.scan(prefix)
        except TimeoutError:
            result = Unavailable(f"the metadata did not answer within {READ_S:g} s")
        except MezzoError as error:
            result = error
        with suppress(RuntimeError):  # who asked has ended
            told(result)

    async def _perform(self, engine: Engine, step: Step) -> bool:
        """False: a fault of ours, and another engine is to be made."""
        # Whoever stops does not wait for an engine that is away.
        work = asyncio.ensure_future(perform(self._machine, engine, step, self._clock))
        while not work.done():
            self._woken.clear()
            woken = asyncio.ensure_future(self._woken.wait())
            await asyncio.wait((work, woken), return_when=asyncio.FIRST_COMPLETED)
            woken.cancel()
            if self._stopping:
                work.cancel()
                await asyncio.wait((work,))
                return True
        error = work.exception()
        if error is None:
            if self._away:
                self._away = False
                log.info("the metadata are reached again")
            return True
        if isinstance(error, MezzoError):
            self._failed(error)
            return True
        self._fault(error)
        return False

    async def _wait(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _watch(self, engine: Engine) -> None:
        wanted = self._machine.watch
        if wanted is None:
            await self._unwatch()
        elif self._following is None:
            self._following = asyncio.ensure_future(self._follow(engine, wanted))

    async def _unwatch(self) -> None:
        following, self._following = self._following, None
        while following is not None and not following.done():
            following.cancel()  # again, should it have been lost: whoever waited for ever would lose its lease
            await asyncio.wait((following,), timeout=CANCEL_S)

    async def _follow(self, engine: Engine, wanted: Watch) -> None:
        machine = self._machine
        try:
            async for changes in engine.watch(wanted.prefix, wanted.after):
                machine.changed(changes, self._clock())
                self._tell()
                self._woken.set()
            raise Unavailable("the metadata engine was closed")
        except FormatError as error:
            self._failed(error)
        except MezzoError as error:
            log.debug("a watch of the pod broke off", reason=str(error))
        except Exception:  # a fault of ours must be seen, and must not end what is followed
            log.exception("a watch of the pod failed")
        await asyncio.sleep(WATCH_GAP_S)
        machine.watch_ended(self._clock())
        self._woken.set()

    def _fault(self, error: BaseException) -> None:
        log.error("a fault in following the pod", exc_info=error)
        self._failed(Unavailable(f"a fault of ours: {error!r}"))

    def _failed(self, error: MezzoError) -> None:
        self._machine.failed(error, self._clock())
        if isinstance(error, FormatError):
            if str(error) != self._unread:
                self._unread = str(error)
                log.error("the pod cannot be followed", reason=self._unread)
        elif not self._away:
            self._away = True
            log.warning("the metadata cannot be reached; what is known of the pod stays", reason=str(error))

    def _tell(self) -> None:
        try:
            self._moved()
        except RuntimeError as error:
            log.debug("nobody follows the pod any more", reason=str(error))
        except Exception:  # a fault of who is told must not end what is followed
            log.exception("what is new of the pod could not be handed over")


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # it is of no more use anyway
        log.exception("a metadata engine could not be closed")
