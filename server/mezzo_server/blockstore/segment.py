"""One life of one segment, in memory.

Invariants: ``refs`` counts reads and writes in flight, and the segment is not reused before it is
zero; ``live_*`` count entries that the index points to; an entry is appended when its write has
completed, never before.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from mezzo_server.blockstore.entries import ENTRY_BITS, ENTRY_MASK, EntryTable
from mezzo_server.blockstore.format.block import BLOCK_BYTES, blocks_of
from mezzo_server.blockstore.tasks import Event

if TYPE_CHECKING:
    from mezzo_server.blockstore.device_log import DeviceLog
    from mezzo_server.blockstore.stream import ChunkStream


class Purpose(IntEnum):
    """Why a segment was opened; also on the device."""

    CHUNKS = 0
    SURVIVORS = 1
    TOMBSTONES = 2


class State(Enum):
    """Stations of a life."""

    OPEN = "open"
    SEALING = "sealing"
    """takes no more records; its table follows when writes in flight ended"""
    SEALED = "sealed"
    RECLAIMING = "reclaiming"
    GONE = "gone"
    """its header is overwritten"""


class Segment:
    """One life. Owner: the `DeviceLog` of its device."""

    __slots__ = (
        "_idle",
        "base",
        "blockers",
        "expires_ms",
        "incarnation",
        "seen",
        "stamps",
        "lane",
        "last_block",
        "life",
        "live_bytes",
        "live_count",
        "log",
        "next_block",
        "opened",
        "number",
        "offset",
        "opened_sequence",
        "order",
        "pinned_bytes",
        "purpose",
        "refs",
        "reserved_entries",
        "reserved_key_bytes",
        "reserved_rows",
        "retire",
        "state",
        "streams",
        "suspects",
        "table",
        "touched_sum",
        "writes",
    )

    def __init__(
        self,
        log: DeviceLog,
        number: int,
        life: int,
        incarnation: bytes,
        opened_sequence: int,
        purpose: Purpose,
        state: State = State.OPEN,
        lane: int = 0,
    ) -> None:
        self.log = log
        self.number = number
        self.life = life
        self.base = life << ENTRY_BITS
        self.offset = log.superblock.segment_offset(number)
        self.incarnation = incarnation
        self.opened_sequence = opened_sequence
        self.purpose = purpose
        self.state = state
        self.lane = lane
        """the policy's: what it keeps apart; 0 after a restart"""
        self.order = float(life)
        """the policy's: place in its queue"""
        self.seen = (-1, -1)
        self.stamps: tuple[tuple[int, int], ...] = ()
        """the policy's: (stamp, how many have it), as of when `touched_sum` and `live_count` were ``seen``"""
        self.last_block = 0
        """`DeviceLog.written_blocks` when a record went here last"""
        self.table = EntryTable()
        self.blockers: dict[int, frozenset[int]] = {}
        """tombstone's entry number -> lives that may hold a lower sequence of its key"""
        self.opened: Event[bool] = Event()
        """its header was written (True) or could not be"""
        self.next_block = 1
        self.reserved_entries = 0
        self.reserved_key_bytes = 0
        self.reserved_rows = 0
        self.refs = 0
        self.writes = 0
        self.live_bytes = 0
        self.live_count = 0
        self.pinned_bytes = 0
        self.touched_sum = 0
        self.expires_ms = 0
        """when the first of its chunks expires, or before; 0: none ever does"""
        self.suspects: list[tuple[int, int]] = []
        """(block, blocks) where a mismatch was confirmed: to be tried before the segment is reused"""
        self.retire = False
        """an I/O error happened here: never use it again"""
        self.streams: dict[ChunkStream, None] = {}
        """streams that read from here; reclaim may revoke them"""
        self._idle: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Segment {self.number} life {self.life} {self.state.value} live {self.live_count}>"

    def hold(self) -> None:
        """A read or write begins."""
        self.refs += 1

    def release(self) -> None:
        """A read or write ended."""
        self.refs -= 1
        if not self.refs and self._idle:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiter()

    def when_idle(self, waiter: Callable[[], None]) -> None:
        """Call ``waiter`` once nothing is in flight."""
        if self.refs:
            self._idle.append(waiter)
        else:
            waiter()

    def account(self, number: int, sign: int) -> None:
        """An entry became live (+1) or dead (-1)."""
        table, log = self.table, self.log
        size = sign * blocks_of(table.length[number]) * BLOCK_BYTES
        self.live_bytes += size
        place = table.scope[number]
        table.live_bytes[place] += size
        scope = table.scopes[place]
        log.tenant_bytes[scope.tenant] += size
        log.namespace_bytes[scope.namespace] += size
        self.live_count += sign
        if table.expiry_ms[number]:
            log.expiring += sign
        self.touched_sum += sign * table.touched[number]
        if sign < 0:
            table.touched[number] = 0
            # Who has nothing any more is not counted: tenants and namespaces come and go for ever.
            if not log.tenant_bytes[scope.tenant]:
                del log.tenant_bytes[scope.tenant]
            if not log.namespace_bytes[scope.namespace]:
                del log.namespace_bytes[scope.namespace]

    def restamp(self, stamp: int) -> None:
        """Give all entries this stamp, after a restart."""
        table = self.table
        table.touched = array("I", [stamp]) * len(table)
        self.touched_sum = stamp * self.live_count


def number_of(location: int) -> int:
    """Entry number within a location."""
    return location & ENTRY_MASK


def life_of(location: int) -> int:
    """Life within a location."""
    return location >> ENTRY_BITS
