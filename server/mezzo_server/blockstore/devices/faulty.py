"""A device in memory that goes wrong in every way that real ones do, repeatably.

Fault model:

- *Order*: each ``reap`` returns a seeded choice of what is in flight, in a seeded order; a transfer
  takes effect at the moment at which it is chosen.  Concurrent transfers of the same place may hence
  take effect in any order.
- *Volatile cache*: a write that came back is in the cache.  A FLUSH makes durable what had come back
  before the FLUSH was submitted, and nothing else.  `power_cut` leaves of each atom any version since
  its durable one; so it drops, reorders and tears writes at will, never within an atom.
- *Kill*: `kill` ends the process, not the device: of each transfer in flight no, some or all atoms
  land; what had landed stays, flushed or not.
- *Atoms*: 4096 bytes by default, 512 for devices that tear within a page.
- *Faults* of single transfers: `FaultKind`; rules say when they strike (`Fault`).  At rest: `flip`.
- *Not modelled*: time, wear, and bytes that change while a transfer reads them from memory.

Everything depends on the seed and the order of calls alone; there is no clock and no thread.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from mezzo.errors import DeviceFailed, InvalidArgument
from mezzo_server.blockstore.devices.base import (
    BLOCK_BYTES,
    MEMORY_ALIGN_BYTES,
    check_room,
    check_transfers,
)
from mezzo_server.blockstore.devices.faults import Fault, FaultKind, FaultPlan, Strike
from mezzo_server.blockstore.devices.medium import Medium
from mezzo_server.blockstore.io import Device, Op, Transfer


class _Flight:
    """One transfer on its way; ``moved`` bytes of it are done."""

    __slots__ = ("flushed", "moved", "number", "reaps", "strike", "transfer")

    def __init__(self, transfer: Transfer, number: int, strike: Strike, flushed: frozenset[int]) -> None:
        self.transfer = transfer
        self.number = number
        self.strike = strike
        self.reaps = strike.reaps
        self.moved = 0
        self.flushed = flushed


class FaultyDevice(Device):
    """See the module. ``event_fd`` is None: whoever drives it reaps while anything is in flight."""

    def __init__(
        self,
        contents: int | bytes | bytearray,
        *,
        seed: int = 0,
        faults: Iterable[Fault] = (),
        name: str = "faulty",
        in_order: bool = False,
        atom_bytes: int = BLOCK_BYTES,
        memory_align_bytes: int = MEMORY_ALIGN_BYTES,
    ) -> None:
        """``contents``: size in bytes (zeros), or the bytes. ``in_order``: everything at the next reap."""
        size = contents if isinstance(contents, int) else len(contents)
        if not size or size % BLOCK_BYTES or BLOCK_BYTES % atom_bytes:
            raise InvalidArgument(f"{size} bytes in blocks of {BLOCK_BYTES} in atoms of {atom_bytes}")
        self.name = name
        self.size_bytes = size
        self.block_bytes = BLOCK_BYTES
        self.memory_align_bytes = memory_align_bytes
        self._in_order = in_order
        self._random = random.Random(seed)
        self._plan = FaultPlan(faults, self._random)
        self._medium = Medium(contents, atom_bytes, keep_former=self._plan.injects(FaultKind.STALE_READ))
        self._flights: list[_Flight] = []
        self._ended: list[_Flight] = []
        self._acknowledged: set[int] = set()
        self._count = 0
        self._closed = False

    @property
    def injected(self) -> Counter[FaultKind]:
        """How often each fault struck."""
        return self._plan.injected

    @property
    def in_flight(self) -> int:
        """Transfers submitted and not reaped."""
        return len(self._flights) + len(self._ended)

    @property
    def stuck(self) -> int:
        """Transfers that wait for `release`."""
        return sum(flight.strike.stuck for flight in self._flights)

    @property
    def unflushed_bytes(self) -> int:
        """Bytes that a power cut may take."""
        return self._medium.unflushed_bytes

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Take them; nothing has any effect before a reap, `settle`, `kill` or `power_cut`."""
        if self._closed:
            raise DeviceFailed(f"device {self.name} is closed")
        check_room(self.name, self.in_flight, len(transfers))
        check_transfers(transfers, self.block_bytes, self.memory_align_bytes)
        for transfer in transfers:
            flushed = frozenset(self._acknowledged) if transfer.op == Op.FLUSH else frozenset()
            self._flights.append(_Flight(transfer, self._count, self._plan.decide(transfer), flushed))
            self._count += 1

    def reap(self) -> list[Transfer]:
        """A seeded choice of what is in flight: at least one, unless all of it is held back."""
        ready = [flight for flight in self._flights if not flight.strike.stuck and not flight.reaps]
        for flight in self._flights:
            flight.reaps = max(0, flight.reaps - 1)
        if ready and not self._in_order:
            ready = self._random.sample(ready, self._random.randint(1, len(ready)))
        for flight in ready:
            self._step(flight)
        ended, self._ended = self._ended, []
        for flight in ended:
            if flight.transfer.op == Op.WRITE:
                self._acknowledged.add(flight.number)
        return [flight.transfer for flight in ended]

    def settle(self) -> None:
        """Bring everything but stuck transfers to its end; the next reap returns it all."""
        while True:
            ready = [flight for flight in self._flights if not flight.strike.stuck]
            if not ready:
                return
            for flight in ready if self._in_order else self._random.sample(ready, len(ready)):
                flight.reaps = 0
                self._step(flight)

    def release(self) -> None:
        """Let stuck transfers go on."""
        for flight in self._flights:
            strike = flight.strike
            flight.strike = Strike(strike.outcome, strike.short, False, strike.reaps)

    def wait(self, timeout_s: float | None = None) -> None:
        """Return at once: nothing happens here but by reaping."""

    def close(self) -> None:
        """Settle (stuck transfers too), and refuse more. What ended may still be reaped."""
        self.release()
        self.settle()
        self._closed = True

    def grow(self, size_bytes: int = 0) -> None:
        """The file under it becomes larger at once, whatever becomes of the process."""
        if size_bytes < self.size_bytes or size_bytes % BLOCK_BYTES:
            raise InvalidArgument(
                f"device {self.name} has {self.size_bytes} bytes; {size_bytes} is no growth"
            )
        self.size_bytes = self._medium.size_bytes = size_bytes

    def strike(self, faults: Iterable[Fault]) -> None:
        """Other rules are in force for what is submitted from now on; of stale data, for what is written from now on."""
        self._plan = FaultPlan(faults, self._random)
        self._medium.keep_former(self._plan.injects(FaultKind.STALE_READ))

    def kill(self, *, seed: int | None = None, faults: Iterable[Fault] = ()) -> FaultyDevice:
        """The process dies: a new device with what landed. This one gives nothing back any more."""
        randomness = self._random if seed is None else random.Random(seed)
        for flight in self._flights:
            if flight.transfer.op == Op.WRITE:
                self._land_partly(flight, randomness.choice((0.0, 0.5, 1.0)), randomness)
        return self._successor(self._medium.copy(), randomness, faults)

    def power_cut(self, seed: int | None = None, *, faults: Iterable[Fault] = ()) -> FaultyDevice:
        """The power fails: a new device with what survived. This one gives nothing back any more."""
        randomness = self._random if seed is None else random.Random(seed)
        for flight in self._flights:
            if flight.transfer.op == Op.WRITE:
                self._land_partly(flight, randomness.choice((0.0, 0.5, 1.0)), randomness)
        return self._successor(self._medium.power_cut(randomness), randomness, faults)

    def peek(self, offset: int = 0, length: int | None = None) -> bytes:
        """What is at rest, behind the device's back."""
        return self._medium.read(offset, self.size_bytes - offset if length is None else length)

    def poke(self, offset: int, data: bytes) -> None:
        """Change what is at rest, durably, behind the device's back."""
        self._medium.poke(offset, data)

    def flip(self, offset: int, bit: int = 0) -> None:
        """Flip one bit at rest."""
        self.poke(offset, bytes([self.peek(offset, 1)[0] ^ (1 << bit)]))

    def _successor(self, medium: Medium, randomness: random.Random, faults: Iterable[Fault]) -> FaultyDevice:
        self._flights, self._ended, self._closed = [], [], True
        device = FaultyDevice(
            self.size_bytes,
            seed=randomness.getrandbits(64),
            faults=faults,
            name=self.name,
            in_order=self._in_order,
            atom_bytes=medium.atom_bytes,
            memory_align_bytes=self.memory_align_bytes,
        )
        device._adopt(medium, self._count, self._acknowledged)
        return device

    def _adopt(self, medium: Medium, count: int, acknowledged: set[int]) -> None:
        # Write numbers go on, so that a flush of the new process covers what the old one had written:
        # the kernel flushes the device, not the process's writes.
        medium.keep_former(self._plan.injects(FaultKind.STALE_READ))
        self._medium = medium
        self._count = count
        self._acknowledged = acknowledged | set(range(count))

    def _step(self, flight: _Flight) -> None:
        transfer = flight.transfer
        if flight.strike.short and not flight.moved and transfer.length > self._medium.atom_bytes:
            # The lower level stops early; the rest goes on at a later reap.
            atoms = transfer.length // self._medium.atom_bytes
            flight.strike = Strike(flight.strike.outcome, False, flight.strike.stuck, 0)
            if flight.strike.outcome is None and transfer.offset + transfer.length <= self.size_bytes:
                count = self._random.randint(1, atoms - 1) * self._medium.atom_bytes
                self._move(flight, count)
            return
        transfer.result = self._finish(flight)
        self._flights.remove(flight)
        self._ended.append(flight)

    def _finish(self, flight: _Flight) -> int:
        transfer, outcome = flight.transfer, flight.strike.outcome
        if transfer.op == Op.FLUSH:
            if outcome is FaultKind.EIO_FLUSH:
                return -errno.EIO
            if outcome is not FaultKind.LOST_FLUSH:
                self._medium.flush(flight.flushed)
                self._acknowledged -= flight.flushed
            return 0
        if transfer.offset + transfer.length > self.size_bytes:
            return -errno.EIO
        if transfer.op == Op.READ:
            return self._finish_read(flight, outcome)
        return self._finish_write(flight, outcome)

    def _finish_read(self, flight: _Flight, outcome: FaultKind | None) -> int:
        transfer, offset, length = flight.transfer, flight.transfer.offset, flight.transfer.length
        if outcome is None:
            self._move(flight, length - flight.moved)
            return length
        if outcome is FaultKind.EIO_READ:
            atoms = self._random.randint(0, length // self._medium.atom_bytes - 1)
            self._move(flight, atoms * self._medium.atom_bytes)
            return -errno.EIO
        if outcome is FaultKind.MISDIRECTED_READ:
            data = self._medium.read(self._elsewhere(offset, length), length)
        elif outcome is FaultKind.STALE_READ:
            data = self._medium.former(offset, length)
        else:
            data = self._rotten(self._medium.read(offset, length))
        _scatter(transfer, 0, data)
        return length

    def _finish_write(self, flight: _Flight, outcome: FaultKind | None) -> int:
        transfer, offset, length = flight.transfer, flight.transfer.offset, flight.transfer.length
        match outcome:
            case FaultKind.EIO_WRITE:
                self._land_partly(flight, 0.5, self._random)
                return -errno.EIO
            case FaultKind.ENOSPC:
                return -errno.ENOSPC
            case FaultKind.TORN_WRITE:
                self._land_partly(flight, 0.5, self._random)
            case FaultKind.TORN_TAIL:
                atoms = self._random.randint(0, length // self._medium.atom_bytes - 1)
                self._move(flight, atoms * self._medium.atom_bytes)
            case FaultKind.LOST_WRITE:
                pass
            case FaultKind.MISDIRECTED_WRITE:
                elsewhere = self._elsewhere(offset, length)
                self._medium.land(elsewhere, _gather(transfer, 0, length), flight.number)
            case FaultKind.ROTTEN_WRITE:
                self._medium.land(offset, self._rotten(_gather(transfer, 0, length)), flight.number)
            case _:
                self._move(flight, length - flight.moved)
        return length

    def _move(self, flight: _Flight, count: int) -> None:
        """The right thing, for the next ``count`` bytes."""
        transfer, at = flight.transfer, flight.moved
        if transfer.op == Op.READ:
            if len(transfer.spans) == 1:
                self._medium.read_into(transfer.offset + at, transfer.spans[0].view[at : at + count])
            else:
                _scatter(transfer, at, self._medium.read(transfer.offset + at, count))
        else:
            self._medium.land(transfer.offset + at, _gather(transfer, at, count), flight.number)
        flight.moved += count

    def _land_partly(self, flight: _Flight, share: float, randomness: random.Random) -> None:
        """Each atom of a write lands with probability ``share``; 1.0 always."""
        transfer = flight.transfer
        if transfer.offset + transfer.length > self.size_bytes:
            return
        data = _gather(transfer, 0, transfer.length)
        step = self._medium.atom_bytes
        for at in range(flight.moved, transfer.length, step):
            if randomness.random() < share:
                self._medium.land(transfer.offset + at, data[at : at + step], flight.number)

    def _elsewhere(self, offset: int, length: int) -> int:
        """Another place for ``length`` bytes; the same where the device has no other."""
        places = (self.size_bytes - length) // self.block_bytes + 1
        if places == 1:
            return offset
        place = self._random.randrange(places - 1)
        return (place + (place >= offset // self.block_bytes)) * self.block_bytes

    def _rotten(self, data: bytes) -> bytes:
        rotten = bytearray(data)
        rotten[self._random.randrange(len(rotten))] ^= 1 << self._random.randrange(8)
        return bytes(rotten)


def _gather(transfer: Transfer, at: int, count: int) -> bytes:
    """Bytes ``[at, at + count)`` of the transfer's memory."""
    if len(transfer.spans) == 1:
        return bytes(transfer.spans[0].view[at : at + count])
    return b"".join(span.view for span in transfer.spans)[at : at + count]


def _scatter(transfer: Transfer, at: int, data: bytes) -> None:
    """Put ``data`` into the transfer's memory from byte ``at`` on."""
    start = 0
    end = at + len(data)
    for span in transfer.spans:
        first, last = max(at, start), min(end, start + span.length)
        if first < last:
            span.view[first - start : last - start] = data[first - at : last - at]
        start += span.length
