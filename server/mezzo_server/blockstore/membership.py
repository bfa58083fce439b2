"""Which devices a running store has: added, drained, replaced and grown while it serves.

A change of the set is a superblock with a generation one higher on every device that stays
(docs/format.md, "Sets of devices").  A device joins in this order:

    its own superblock, of generation 0 -> the others name it -> its own names the set -> chunks go to it

and leaves in this:

    it is empty -> the others name the set without it -> its superblocks are erased -> it is closed

so a store that is killed at any point starts with the devices that its superblocks name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from mezzo.errors import Busy, ClientClosed, DeviceFailed, InvalidArgument
from mezzo_server.blockstore.api import DeviceStatus
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.device_log import DeviceLog, Role
from mezzo_server.blockstore.device_parts import DeviceParts
from mezzo_server.blockstore.drain import CannotDrain, Drain
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import (
    COPY_OFFSETS,
    DATA_OFFSET,
    MEMBERS_MAX,
    Superblock,
    left_mark,
)
from mezzo_server.blockstore.io import Device, Op, Transfer
from mezzo_server.blockstore.join import JoinTerms
from mezzo_server.blockstore.tasks import Event
from mezzo_server.memory import Memory

GONE_MAX = 64
"""Devices that left since the start, which are still listed."""
ERASED_TAIL_BYTES = 1 << 20
"""Erased at a device's end, which a start looks at too."""
SHADOWS_STEP = 512
"""Shadows looked at in one turn."""
Work = Callable[[], Coroutine[Event[Any], None, None]]


@dataclass(eq=False, slots=True)
class Change:
    """What is done to one device. Owner: `Membership`."""

    kind: str
    began: float
    state: str = "running"
    ended: float = 0.0
    drain: Drain | None = None
    cancelled: bool = False
    leaving: bool = False
    """past the point of no return"""
    remarks: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.state == "running"


class Membership:
    """Changes the set of devices. Owner of the changes under way; driven by `tick`."""

    def __init__(self, context: Context, parts: DeviceParts) -> None:
        self._context = context
        self._parts = parts
        self._changes: dict[DeviceLog, Change] = {}
        self._gone: deque[DeviceStatus] = deque(maxlen=GONE_MAX)
        self._pauses: list[Event[None]] = []
        self._setting: Event[None] | None = None
        """a change of the set is being written"""
        self.attached: Callable[[Device], None] = lambda device: None
        """a device has come: look at its event descriptor"""
        self.detached: Callable[[Device], None] = lambda device: device.close()
        """a device has left, nothing is in flight: stop looking at it, and close it"""
        self.changed: Callable[[], None] = lambda: None
        """what depends on the devices (capacity, alignment) may have changed"""

    # -- what is asked -----------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a change is under way."""
        return any(change.running for change in self._changes.values())

    def terms(self, chunk_bytes_max: int) -> JoinTerms:
        """What a device must comply with to join. Raises if none may join now."""
        context = self._context
        self._check_open()
        if len(context.logs) >= MEMBERS_MAX:
            raise InvalidArgument(f"the store has {len(context.logs)} devices, the most that it can have")
        blocks = [log.superblock for log in context.logs]
        return JoinTerms(
            blocks[0].store_id,
            tuple(block.device_id for block in blocks),
            max(block.set_generation for block in blocks),
            context.options.segment_bytes or min(block.segment_bytes for block in blocks),
            chunk_bytes_max,
        )

    def find(self, name: str) -> DeviceLog:
        """The device of that name. InvalidArgument if there is none, or more than one."""
        logs = [log for log in self._context.logs if log.device.name == name]
        if len(logs) == 1:
            return logs[0]
        if logs:
            raise InvalidArgument(f"{len(logs)} devices of the store are called {name}")
        names = ", ".join(log.device.name for log in self._context.logs)
        raise InvalidArgument(f"the store has no device {name}; it has {names}")

    def check_drain(self, name: str, *, replaced: bool = False) -> DeviceLog:
        """The device, if it may be drained now: something must remain, or come in its place."""
        self._check_open()
        log = self.find(name)
        self._check_free(log)
        others = [other for other in self._context.logs if other is not log and other.takes_chunks]
        if not others and not replaced:
            raise InvalidArgument(
                f"device {name} is the last one that takes chunks: add another one first, or replace it"
            )
        return log

    def add(self, device: Device, block: Superblock) -> None:
        """Begin to add a device that `join.prepare` has made fit."""
        self._check_open()
        log, change = self._enter(device, block)
        self._start(log, change, lambda: self._add(log))

    def drain(self, name: str) -> None:
        """Begin to empty a device and take it out."""
        log = self.check_drain(name)
        change = Change("drain", self._context.now())
        self._start(log, change, lambda: self._drain(log, change))

    def replace(self, name: str, device: Device, block: Superblock) -> None:
        """Begin to add a device, then to drain ``name`` into what is there."""
        log = self.check_drain(name, replaced=True)
        new, change_of_new = self._enter(device, block)
        change = Change("replace", self._context.now())

        async def exchange() -> None:
            await self._run(new, change_of_new, lambda: self._add(new))
            if change_of_new.state != "done":
                raise CannotDrain(f"device {new.device.name} could not be added: {change_of_new.state}")
            await self._drain(log, change)

        self._changes[new] = change_of_new
        self._start(log, change, exchange)

    def check_grow(self, name: str) -> DeviceLog:
        """The device, if it may be grown now."""
        self._check_open()
        log = self.find(name)
        self._check_free(log)
        if not log.takes_chunks:
            raise InvalidArgument(f"device {name} is {log.state}: only one that serves can grow")
        return log

    def grow(self, name: str) -> None:
        """Begin to use what a device has become larger by (`Device.grow`)."""
        log = self.check_grow(name)
        block, size = log.superblock, log.device.size_bytes
        count = min((size - DATA_OFFSET) // block.segment_bytes, (1 << 32) - 1)
        if count <= block.segment_count:
            raise InvalidArgument(
                f"device {name} has {size} bytes, {block.device_bytes} of them are used already: it grows by "
                f"whole segments of {block.segment_bytes} bytes"
            )
        change = Change("grow", self._context.now())
        self._start(log, change, lambda: self._grow(log, size, count))

    def cancel(self, name: str) -> None:
        """End a drain: what has moved has moved, and the device takes chunks again."""
        log = self.find(name)
        change = self._changes.get(log)
        if change is None or not change.running or change.kind not in ("drain", "replace"):
            raise InvalidArgument(f"device {name} is not being drained")
        if change.leaving:
            raise InvalidArgument(
                f"device {name} is empty already and about to leave: it is too late to cancel"
            )
        change.cancelled = True
        self.tick()

    def states(self) -> list[DeviceStatus]:
        """All devices, and those that have left since the start."""
        return [self._status(log) for log in self._context.logs] + list(self._gone)

    # -- running -----------------------------------------------------------------------------

    def tick(self) -> None:
        """Time has passed: drains that wait for it go on."""
        pauses, self._pauses = self._pauses, []
        for pause in pauses:
            pause(None)

    def _check_open(self) -> None:
        if self._context.closing:
            raise ClientClosed("the store is closing")

    def _check_free(self, log: DeviceLog) -> None:
        change = self._changes.get(log)
        if log.role is Role.JOINING or (change is not None and change.running):
            kind = "add" if change is None else change.kind
            raise Busy(f"device {log.device.name} has a change under way already ({kind})", retry_after_s=1.0)

    def _enter(self, device: Device, block: Superblock) -> tuple[DeviceLog, Change]:
        """A device that is moved with the others from now on, but none of the set yet."""
        if any(log.superblock.device_id == block.device_id for log in self._context.logs):
            raise InvalidArgument(f"device {device.name} is part of the store already")
        if any(log.device.name == device.name for log in self._context.logs):
            raise InvalidArgument(f"the store has a device called {device.name} already")
        if len(self._context.logs) >= MEMBERS_MAX:
            raise InvalidArgument(f"the store has {MEMBERS_MAX} devices, the most that it can have")
        log = DeviceLog(self._context, device, block)
        log.role = Role.JOINING
        self._context.logs = [*self._context.logs, log]
        self.attached(device)
        return log, Change("add", self._context.now())

    def _start(self, log: DeviceLog, change: Change, work: Work) -> None:
        self._changes[log] = change
        self._context.start(self._run(log, change, work))

    async def _run(self, log: DeviceLog, change: Change, work: Work) -> None:
        """Do it, and say how it ended."""
        state = "done"
        try:
            await work()
        except (CannotDrain, DeviceFailed) as error:
            state = f"failed: {error}"
        else:
            if change.drain is not None and change.drain.lost:
                change.remarks.append(f"{change.drain.lost} chunks could not be read and are given up")
        change.ended = self._context.now()
        change.state = "; ".join((state, *change.remarks))
        if log not in self._context.logs:
            self._gone.append(self._status(log))
            del self._changes[log]
        self.changed()

    # -- add, grow ---------------------------------------------------------------------------

    async def _add(self, log: DeviceLog) -> None:
        await self._parts.joining(log)
        self.changed()
        if not await self._write_set(log):
            self._eject(log)
            raise DeviceFailed("no device of the store could write down that it joins")
        if log.fenced is not None:
            raise log.failure()

    def _admit(self, log: DeviceLog) -> None:
        """The set names it: chunks may go to it."""
        log.role = Role.SERVING
        if log.fenced is None:
            log.free.extend(range(log.superblock.segment_count))
        self._context.changes += 1
        self._parts.serves(log)
        self.changed()

    async def _grow(self, log: DeviceLog, size: int, count: int) -> None:
        first = log.superblock.segment_count

        def grown(block: Superblock) -> Superblock:
            return replace(block, device_bytes=size, segment_count=count)

        if not await log.change_superblock(grown):
            raise log.failure()
        log.free.extend(range(first, count))
        self._context.changes += 1
        self._parts.serves(log)
        self.changed()

    # -- drain -------------------------------------------------------------------------------

    async def _drain(self, log: DeviceLog, change: Change) -> None:
        def check() -> None:
            if change.cancelled:
                raise CannotDrain("cancelled")
            if self._context.closing:
                raise CannotDrain("the store is closing")
            if not any(other.takes_chunks for other in self._context.logs if other is not log):
                raise CannotDrain("no other device serves any more")

        async def pause() -> None:
            check()
            await self._turn()
            check()

        log.role = Role.DRAINING
        self._context.changes += 1
        self.changed()
        try:
            change.drain = self._parts.drain(log, pause, check)
            await change.drain.run()
            while _flying(log):
                await pause()
            check()
            change.leaving = True
            log.role = Role.LEFT
            if not await self._write_set():
                change.leaving = False
                raise DeviceFailed("no other device could write down that it leaves")
        except (CannotDrain, DeviceFailed):
            log.role = Role.SERVING
            self._context.changes += 1
            self._parts.serves(log)
            raise
        change.remarks.extend(await self._erase(log))
        await self._forget(log)
        while _flying(log) and not self._context.closing:
            await self._turn()
        self._eject(log)

    async def _turn(self) -> None:
        """Until the next tick."""
        event: Event[None] = Event()
        self._pauses.append(event)
        await event

    async def _erase(self, log: DeviceLog) -> list[str]:
        """Leave nothing of the store but a mark that it has left; what went wrong, if anything did."""
        device = log.device
        end = device.size_bytes - device.size_bytes % BLOCK_BYTES
        tail = max(DATA_OFFSET, end - ERASED_TAIL_BYTES)
        memory = Memory.anonymous(ERASED_TAIL_BYTES)
        failed = False
        # The first copy last: beside a valid one, zeros are a lost write, anything else is somebody's data.
        places = [(offset, BLOCK_BYTES) for offset in reversed(COPY_OFFSETS)]
        for offset, length in ((tail, end - tail), *places):
            memory.view[:BLOCK_BYTES] = left_mark() if not offset else bytes(BLOCK_BYTES)
            event: Event[Transfer] = Event()
            log.transfer(Op.WRITE, offset, (memory.span(0, length),), event, though_fenced=True)
            failed |= (await event).result < 0
            event = Event()
            log.transfer(Op.FLUSH, 0, (), event, though_fenced=True)
            failed |= (await event).result < 0
        memory.close()
        return ["its superblocks could not be erased"] if failed else []

    async def _forget(self, log: DeviceLog) -> None:
        """No restart finds its lives any more."""
        context = self._context
        lives = log.lives_on_disk()
        for segment in list(log.segments.values()):
            del context.lives[segment.life]
        log.segments.clear()
        log.limbo.clear()
        context.on_disk -= lives
        looked = 0
        for namespace in context.index:
            for key in list(namespace.shadows):
                looked += 1
                if looked % SHADOWS_STEP == 0:
                    await context.later.turn()
                shadows = namespace.shadows.get(key)
                if shadows is None or not shadows & lives:
                    continue
                if shadows - lives:
                    namespace.shadows[key] = shadows - lives
                else:
                    del namespace.shadows[key]

    def _eject(self, log: DeviceLog) -> None:
        self._context.logs = [other for other in self._context.logs if other is not log]
        self._context.changes += 1
        self._parts.left(log)
        self.detached(log.device)

    # -- the set -----------------------------------------------------------------------------

    async def _write_set(self, joining: DeviceLog | None = None) -> bool:
        """Let every device of the set name the new one, the one that joins last. False: none could."""
        while self._setting is not None:
            await self._setting
        done = self._setting = Event()
        stay = [log for log in self._context.logs if log.role in (Role.SERVING, Role.DRAINING)]
        generation = 1 + max(log.superblock.set_generation for log in self._context.logs)
        names = [log.superblock.device_id for log in stay]
        if joining is not None:
            names.append(joining.superblock.device_id)

        def renamed(block: Superblock) -> Superblock:
            return replace(block, members=tuple(names), set_generation=generation)

        # A fenced one keeps its older generation, and takes the newer one over at the next start.
        written = [await log.change_superblock(renamed) for log in stay]
        if joining is not None and any(written):
            await joining.change_superblock(renamed)
            self._admit(joining)
        self._setting = None
        done(None)
        return any(written)

    # -- how it goes -------------------------------------------------------------------------

    def _status(self, log: DeviceLog) -> DeviceStatus:
        block = log.superblock
        change = self._changes.get(log)
        segments = log.segments.values()
        here = log in self._context.logs
        status = DeviceStatus(
            log.device.name,
            log.state if here else "gone",
            block.segment_count * block.segment_bytes,
            log.bytes_live,
            sum(segment.live_count for segment in segments),
            block.segment_count,
            len(log.free),
            len(block.retired),
        )
        if change is None:
            return status
        return replace(
            status,
            change=change.kind,
            change_state=change.state,
            change_bytes=0 if change.drain is None else change.drain.bytes,
            change_bytes_done=0 if change.drain is None else change.drain.bytes_done,
            change_s=(self._context.now() if change.running else change.ended) - change.began,
        )


def _flying(log: DeviceLog) -> bool:
    """Whether transfers are under way on a device."""
    return bool(log.device.in_flight or log.queue or log.schedule.waiting)
