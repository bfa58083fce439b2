"""What the block store asks of the world: device transfers and off-loop work.

The store decides; it queues `Transfer` and `Job` objects and is called back when they end.  Whoever
runs the store (the shard's runtime, an offline tool, a simulation) moves them:

    store queues ops -> device.submit(ops) ... device.reap() -> op.done(op)

Nothing here blocks, and callbacks run in the thread that reaps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum

from mezzo.errors import Unsupported
from mezzo_server.memory import Memory, Span


class Op(IntEnum):
    """What a transfer does."""

    READ = 0
    WRITE = 1
    FLUSH = 2


class DeviceTime:
    """When the devices worked for somebody, by the store's clock: from his first transfer to his last.

    Whoever asks something of the store may hand one in; the store's logs write it, in place.
    """

    __slots__ = ("device_began", "device_ended")

    def __init__(self) -> None:
        self.device_began = 0.0
        """when the first transfer was handed to a device; 0: none was"""
        self.device_ended = 0.0
        """when the last one that has ended was reaped"""

    @property
    def device_s(self) -> float:
        """Seconds between the two."""
        return max(0.0, self.device_ended - self.device_began)


class Transfer:
    """One operation on one device.

    ``offset`` and the total of ``spans`` are multiples of the device's ``block_bytes``, each span's
    address and length are multiples of ``memory_align_bytes``.  The device owns it from ``submit``
    until ``reap`` returns it with ``result`` set: bytes moved (always all of them) or ``-errno``.
    Short transfers, EINTR and EAGAIN are the device's to finish: a read that meets the end of the
    device is ``-EIO``.
    """

    __slots__ = ("context", "done", "length", "offset", "op", "result", "spans", "tenant", "time")

    def __init__(
        self,
        op: Op,
        offset: int = 0,
        spans: Sequence[Span] = (),
        done: Callable[[Transfer], None] | None = None,
        context: object = None,
        time: DeviceTime | None = None,
        tenant: bytes | None = None,
    ) -> None:
        self.op = op
        self.offset = offset
        self.spans = spans
        self.length = spans[0].length if len(spans) == 1 else sum([span.length for span in spans])
        self.done = done
        self.context = context
        self.time = time
        """of whom it is for, if he wants to know"""
        self.tenant = tenant
        """for whose work the device is used (schedule.py); None: it is urgent"""
        self.result = 0


class Device(ABC):
    """Where segments live: a preallocated file, a block device, memory.

    Contract (tests/contract/device.py): ``submit`` never blocks and takes any number of transfers
    (what is over the ring's depth queues inside); every transfer submitted comes back from ``reap``
    exactly once, in any order; WRITE has reached the device when it comes back, FLUSH makes durable
    every WRITE that had come back before the FLUSH was submitted.
    """

    name: str
    size_bytes: int
    block_bytes: int
    memory_align_bytes: int

    @abstractmethod
    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Begin all of them."""

    @abstractmethod
    def reap(self) -> list[Transfer]:
        """Those that ended since, ``result`` set. Does not call ``done``; does not block."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> None:
        """Block until ``reap`` would return something, or nothing is in flight, or the timeout."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Transfers submitted and not yet reaped."""

    @property
    def event_fd(self) -> int | None:
        """A descriptor that turns readable when ``reap`` has something; None: reap after submit."""
        return None

    def register(self, memory: Memory) -> bool:
        """Make transfers of this memory cheaper, where the device can. False: works unregistered."""
        return False

    def unregister(self, memory: Memory) -> None:
        """Undo `register`; nothing of the memory is in flight."""

    def grow(self, size_bytes: int = 0) -> None:
        """Use more of what is under the device: ``size_bytes``, or all that there is (0).

        A file is made as large as asked.  Blocks, and may be called from another thread while transfers
        are in flight; ``size_bytes`` has the new size when it returns.  InvalidArgument if that is less
        than now, Unavailable if there is no room, Unsupported where a device cannot grow.
        """
        raise Unsupported(f"device {self.name} cannot grow")

    def borrow(self, offset: int, length: int) -> Span | None:
        """The bytes in place, where the device is memory; None elsewhere. Valid until rewritten."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release everything; transfers in flight end first."""


class Task(IntEnum):
    """What a job does."""

    CHECKSUM = 0
    COPY = 1
    ZERO = 2
    FD_READ = 3
    FD_WRITE = 4
    COPY_CHECKSUM = 5
    SEAL = 6
    UNSEAL = 7


class Job:
    """Work on memory, done off the loop with the interpreter lock released.

    CHECKSUM: XXH3-64 of ``source`` spans in order with ``seed``; ``result`` is the digest.
    COPY: ``source`` to ``target``, equal totals, any split.  COPY_CHECKSUM: the same, and ``result`` is
    the digest of the bytes as they arrived in ``target``, whatever becomes of ``source`` meanwhile.
     ZERO: fills ``target``.
    FD_READ, FD_WRITE: between descriptor ``fd`` at ``offset`` and ``target`` or ``source`` with
    pread and pwrite; ``result`` is bytes moved or ``-errno`` (short at the end of the file).
    SEAL, UNSEAL: encryption and decryption of one part, which ``context`` describes
    (`blockstore.sealing`); ``result`` is 0 or ``-errno``. Only workers with the interpreter do these.
    """

    __slots__ = (
        "context",
        "done",
        "fd",
        "length",
        "offset",
        "result",
        "seed",
        "source",
        "target",
        "task",
        "tenant",
    )

    def __init__(
        self,
        task: Task,
        *,
        source: Sequence[Span] = (),
        target: Sequence[Span] = (),
        seed: int = 0,
        fd: int = -1,
        offset: int = 0,
        done: Callable[[Job], None] | None = None,
        context: object = None,
    ) -> None:
        self.task = task
        self.source = source
        self.target = target
        self.seed = seed
        self.fd = fd
        self.offset = offset
        self.done = done
        self.context = context
        self.tenant: bytes | None = None
        """for whose work the threads are used (jobs.py)"""
        self.length = 0
        """bytes that it works on, for who shares the threads' time"""
        self.result = 0


class Workers(ABC):
    """Runs jobs. Contract (tests/contract/workers.py): like `Device`, each job comes back once."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Begin all of them; never blocks."""

    @abstractmethod
    def reap(self) -> list[Job]:
        """Those that ended since, ``result`` set. Does not call ``done``; does not block."""

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> None:
        """Block until ``reap`` would return something, or nothing is in flight, or the timeout."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Jobs submitted and not yet reaped."""

    @property
    def event_fd(self) -> int | None:
        """A descriptor that turns readable when ``reap`` has something; None: reap after submit."""
        return None

    @abstractmethod
    def checksum(self, source: Sequence[Span], seed: int) -> int:
        """XXH3-64 at once, in the caller's thread: for small payloads."""

    @abstractmethod
    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        """COPY_CHECKSUM at once, in the caller's thread: for small payloads."""

    @abstractmethod
    def close(self) -> None:
        """End the threads; jobs in flight end first."""
