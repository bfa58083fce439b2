"""What the block store is asked and what it answers.

All calls return at once; answers come through callbacks, from within the call or later, each
exactly once.  Keys are scoped by the `Scope` that the caller was given for its session: there is no
way to name another tenant's chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from mezzo.protocol.messages.types import PRIORITY_DEFAULT
from mezzo_server.memory import Span


class Scope(NamedTuple):
    """A tenant's namespace. Ids are random 128-bit numbers; generations erase what came before.

    A tuple, since what is asked of a store begins with looking its scope up: a data class would be hashed
    in the interpreter.
    """

    tenant: bytes
    namespace: bytes
    tenant_generation: int = 0
    namespace_generation: int = 0


class Standing(IntEnum):
    """What is known of a scope."""

    ALIVE = 0
    ERASED = 1
    """its tenant or namespace was deleted, or has a higher generation: nothing of it is ever read again"""
    UNKNOWN = 2
    """nobody knows its tenant or namespace, so no session reaches it"""


StandingOf = Callable[[Scope], Standing]
"""Tells of every scope what is known of it now. Immutable: another one is given when something changed."""


class EventSink(Protocol):
    """Is told what becomes of the chunks of a namespace, in order. `mezzo_server.events` keeps it."""

    def add(self, kind: int, key: bytes, length: int) -> None:
        """A chunk appeared or vanished (`EventKind`): at once, and without raising."""

    def erased(self) -> None:
        """All of the namespace is gone, and it with it: nothing more is told."""


class Guard(Protocol):
    """Is told of every chunk that leaves the index, and may keep others from taking its place for a while."""

    def left(self, scope: Scope, key: bytes, why: int) -> None:
        """A chunk has left (``why``: an `EventKind`): at once, and without raising."""

    def bars(self, scope: Scope, key: bytes) -> bool:
        """Whether a put of a key that is not there is to be declined now."""


class PutStatus(IntEnum):
    """How the put of one chunk ended."""

    STORED = 0
    EXISTS = 1
    FAILED = 2
    """I/O error; the error is in the outcome"""
    DECLINED = 3
    """not taken: it is not worth the device's writes now (`admission`), or the guard bars it"""


@dataclass(slots=True)
class PutChunk:
    """One chunk to store: ``parts`` are part lengths in bytes (their sum is the chunk's)."""

    key: bytes
    parts: tuple[int, ...]
    source: tuple[Span, ...]
    position: int = 0
    checksums: tuple[int, ...] | None = None
    """known already (verified over TCP); None: the store computes them from ``source``"""
    expiry_ms: int = 0
    """when its time is over, on the clock of `BlockStore.now_ms`; 0: never"""
    priority: int = PRIORITY_DEFAULT
    """0 to 7: policies keep what has a higher one longer"""
    admitted: bool = False
    """admission was asked already (`BlockStore.takes`)"""


@dataclass(slots=True)
class PutOutcome:
    """Statuses in the order of the request's chunks; ``error`` for those that FAILED."""

    statuses: list[PutStatus]
    error: Exception | None = None


@dataclass(slots=True)
class GetChunk:
    """Where the bytes of one chunk go; room for all the bytes asked for."""

    key: bytes
    target: tuple[Span, ...]


@dataclass(slots=True)
class GetOutcome:
    """Bytes delivered for each chunk of the request; -1 for a miss. All were checked."""

    lengths: list[int]


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """What the index knows of a present chunk."""

    length: int
    parts: tuple[int, ...]
    sequence: int
    position: int
    leased: bool
    expiry_ms: int = 0
    """0: never"""
    priority: int = PRIORITY_DEFAULT
    checksums: tuple[int, ...] = ()
    """of its parts, the same wherever it is stored; empty: it is encrypted, and nothing tells without reading it"""


PutDone = Callable[[PutOutcome], None]
GetDone = Callable[[GetOutcome], None]
DeleteDone = Callable[[list[bool], Exception | None], None]


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device, for `stat` and people."""

    name: str
    state: str
    """``serving``, ``joining``, ``draining``, ``leaving`` or ``fenced: why``"""
    bytes_total: int
    segments_total: int
    segments_free: int
    segments_retired: int
    segments_open: int = 0
    segments_sealing: int = 0
    segments_sealed: int = 0
    segments_reclaiming: int = 0
    bytes_live: int = 0
    transfers_in_flight: int = 0
    transfers_waiting: int = 0
    """of those in flight, how many wait for room: more than its depth were submitted"""
    transfers_scheduled: int = 0
    """that wait for their tenant's turn, and that the device has not been given yet"""
    bytes_scheduled: int = 0
    """of those"""
    io_errors: int = 0
    bytes_written: int = 0
    """of records since the start, headers and padding included"""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device and what is done to it, for who looks after devices."""

    name: str
    state: str
    """``serving``, ``joining``, ``draining``, ``gone`` or ``fenced: why``"""
    bytes_total: int
    bytes_live: int
    chunks: int
    segments_total: int
    segments_free: int
    segments_retired: int
    change: str = ""
    """``add``, ``drain``, ``replace`` or ``grow``: what is being done to it, or was last"""
    change_state: str = ""
    """``running``, ``done`` (with a remark, maybe) or ``failed: why``"""
    change_bytes: int = 0
    change_bytes_done: int = 0
    change_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreReport:
    """State of the store at one moment."""

    chunks: int
    bytes_live: int
    devices: Sequence[DeviceReport]
    counters: dict[str, int] = field(default_factory=dict)
