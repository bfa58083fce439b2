"""What is checked at a shard, at the moment at which it says something: invariants of one that serves.

By true time, which no process sees:

- *Nothing past the lease*: what was asked when the shard's metadata lease had ended is refused; no write is
  acknowledged once it has ended, whenever it began.
- *No write under a stale epoch*: a put is acknowledged only by the owner of its slot, by a map that is in force or
  the one before (no two maps that shards act by are further apart); a delete also by who had the slot before,
  or has second copies.
- *Nothing acknowledged is lost*: a chunk that a shard said it has is there until somebody deletes it, through
  every end of a process; of a power cut, what the durability says that it may take is excepted, and so is all of a
  shard whose device lies.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mezzo.protocol.bitmap import unpack
from mezzo.protocol.frame import FROM_SERVER, Frame, FrameReader
from mezzo.protocol.messages import Deleted, Kind, PutDone
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.options import Durability
from mezzo_server.blockstore.segment import Purpose, State
from mezzo_server.pod.records import member_key
from mezzo_server.pod.standing import SECOND, Share
from mezzo_server.testing.simulation.catalog import Space, Spaces
from mezzo_server.testing.simulation.metadata import Metadata
from mezzo_server.testing.simulation.placement import Placement
from mezzo_server.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from mezzo_server.testing.simulation.connection import Connection
    from mezzo_server.testing.simulation.shard import Life, Shard

B = TypeVar("B")
_HEADER = struct.Struct("<HBBIQQ")
DATA = frozenset({Kind.GET, Kind.PUT, Kind.DELETE, Kind.LOOKUP, Kind.ACQUIRE, Kind.STAT})
ANSWERS = {
    Kind.GOT: Kind.GET,
    Kind.PUT_DONE: Kind.PUT,
    Kind.DELETED: Kind.DELETE,
    Kind.LOOKED_UP: Kind.LOOKUP,
    Kind.ACQUIRED: Kind.ACQUIRE,
    Kind.STATED: Kind.STAT,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that a shard has not answered yet."""

    kind: Kind
    keys: Sequence[bytes]
    held: bool
    """whether the lease was held when it came"""
    came: float
    scope: Scope
    """its session's then"""


class Witness:
    """Of one shard, through all of its lives; implements `connection.Watcher`. Owner of what it is bound to have."""

    def __init__(self, shard: Shard, metadata: Metadata, placement: Placement, spaces: Spaces) -> None:
        self._shard = shard
        self._metadata = metadata
        self._placement = placement
        self._spaces = spaces
        self._asked: dict[tuple[int, int], Asked] = {}
        """by connection and request"""
        self._deleted_at: dict[tuple[Scope, bytes], float] = {}
        """when a delete of a key came last"""
        self.kept: dict[tuple[Scope, bytes], int] = {}
        """what was acknowledged: the chunk's sequence"""
        self.lies = False
        """whether its device does, and nothing is binding"""
        self._lost_power = False
        self._epoch = 0
        """by which the shard was seen to act"""
        self.answers = 0

    # -- Watcher

    def received(self, connection: Connection, frame: Frame) -> None:
        """See `Watcher`."""
        if frame.kind not in DATA:
            return
        keys: Sequence[bytes] = getattr(frame.body, "keys", ())
        now = self._metadata.clockwork.now
        scope = connection.session.scope
        self._asked[connection.number, frame.request_id] = Asked(
            frame.kind, keys, self._holds_lease(), now, scope
        )
        if frame.kind is Kind.DELETE:
            for key in keys:
                self.kept.pop((scope, key), None)
                self._deleted_at[scope, key] = now

    def sent(self, connection: Connection, data: bytes) -> None:
        """See `Watcher`."""
        _, kind, _, _, _, request_id = _HEADER.unpack_from(data)
        if kind in (Kind.ERROR, Kind.CANCELLED):
            self._asked.pop((connection.number, request_id), None)
            return
        if kind not in ANSWERS:
            return
        asked = self._asked.pop((connection.number, request_id), None)
        if asked is None:
            raise Violation(
                f"{self._shard.name} answers request {request_id} with {Kind(kind).name}, which nobody asked"
            )
        keys, scope = asked.keys, asked.scope
        self.answers += 1
        if not asked.held:
            raise Violation(
                f"{self._shard.name} answers {Kind(kind).name} to what was asked after its lease had ended"
            )
        if kind == Kind.PUT_DONE:
            self._stored(connection, asked, _body(data, PutDone))
        elif kind == Kind.DELETED:
            _body(data, Deleted)
            space = self._spaces.of(scope)
            for key in keys:
                self._placement.deleted(self._shard.id, space, key)
            self._acknowledged(connection, space, keys, "delete")

    # -- ends and starts of lives

    def forget_requests(self) -> None:
        """The life has ended: nobody answers any more."""
        self._asked.clear()

    def follows(self, share: Share) -> None:
        """The shard follows another map: of what it is second for it may take the owner's copies for its own."""
        if share.epoch == self._epoch:
            return
        self._epoch = share.epoch
        for scope, key in list(self.kept):
            if share.answers[self._placement.slot(self._spaces.of(scope), key)] & SECOND == SECOND:
                del self.kept[scope, key]

    def power_fails(self, life: Life | None) -> None:
        """What the coming power cut may take is not binding any more."""
        self._placement.lost(self._shard.id)
        self._lost_power = True
        if self._shard.options.durability is Durability.POWER:
            return
        if life is None:
            self.kept.clear()  # which segments were sealed is not known any more
            return
        context = life.store._context
        for scope, key in list(self.kept):
            place = context.find(context.index.peek(scope), key)
            if place is None:
                continue
            segment = place[0]
            if (
                segment.state not in (State.SEALED, State.RECLAIMING)
                and segment.purpose is not Purpose.SURVIVORS
            ):
                del self.kept[scope, key]

    def device_lies(self) -> None:
        """From now on nothing that it has is binding."""
        self.lies = True
        self.kept.clear()
        self._placement.lost(self._shard.id, lies=True)

    def binds(self, life: Life, scope: Scope, key: bytes) -> bool:
        """Whether the shard is bound to have a chunk now: it may have had to evict some. Raises Violation."""
        self.check(life)
        return (scope, key) in self.kept

    def check(self, life: Life) -> None:
        """Whether all is there that was acknowledged. Raises Violation."""
        counters = life.store._context.counters
        if counters["chunks_evicted"] or counters["chunks_trimmed"]:
            self.kept.clear()
        if self.lies:
            return
        for name in ("mismatches_seen", "chunks_corrupt", "chunks_lost"):
            if counters[name] and not self._lost_power:
                raise Violation(
                    f"{self._shard.name}: {name} is {counters[name]}, and its device does not lie"
                )
        for (scope, key), sequence in list(self.kept.items()):
            if life.service.directory.scope_of(scope.tenant, scope.namespace) != scope:
                del self.kept[scope, key]  # it was erased
                continue
            info = life.store.info(scope, key)
            if info is None or info.sequence != sequence:
                found = "nothing" if info is None else f"sequence {info.sequence}"
                raise Violation(
                    f"{self._shard.name} has lost {key!r}, which it acknowledged: sequence {sequence}, now {found}"
                )

    # -- within

    def _holds_lease(self) -> bool:
        return self._metadata.holds(member_key(self._shard.id))

    def _stored(self, connection: Connection, asked: Asked, done: PutDone) -> None:
        keys, scope = asked.keys, asked.scope
        stored = unpack(done.stored, len(keys))
        exists = unpack(done.exists, len(keys))
        there = [key for key, new, old in zip(keys, stored, exists, strict=True) if new or old]
        self._acknowledged(connection, self._spaces.of(scope), there, "put")
        life = self._shard.life
        if self.lies or life is None or connection.session.scope != scope:
            return
        for key in there:
            if self._deleting(scope, key):
                continue
            info = life.store.info(scope, key)
            if info is not None:
                self.kept[scope, key] = info.sequence
            elif self._deleted_at.get((scope, key), -1.0) < asked.came:
                raise Violation(f"{self._shard.name} acknowledges {key!r} and does not have it")

    def _deleting(self, scope: Scope, key: bytes) -> bool:
        return any(
            one.kind is Kind.DELETE and one.scope == scope and key in one.keys for one in self._asked.values()
        )

    def _acknowledged(self, connection: Connection, space: Space, keys: Sequence[bytes], what: str) -> None:
        if not keys:
            return
        shard, placement = self._shard, self._placement
        shard.say(
            f"to {connection.end.other.process.name}: {what} of {space.tenant}'s "
            f"{' '.join(key.decode() for key in keys)}"
        )
        if not self._holds_lease():
            raise Violation(f"{shard.name} acknowledges a {what} although its lease has ended")
        standing = connection.session.service.standing
        epoch = 0 if standing is None else standing.epoch
        if epoch < placement.epoch - 1:
            raise Violation(
                f"{shard.name} acknowledges a {what} by the map of epoch {epoch}, while {placement.epoch} is in force"
            )
        for key in keys:
            slot = placement.slot(space, key)
            may = placement.concerns if what == "delete" else placement.owns
            if may(shard.id, epoch, slot):
                continue
            raise Violation(
                f"{shard.name} acknowledges a {what} of {key!r}, whose slot {slot} is not its own in epoch {epoch}"
            )


def _body(data: bytes, kind: type[B]) -> B:
    reader = FrameReader(FROM_SERVER, body_bytes_max=len(data), payload_bytes_max=0)
    buffer = reader.buffer()
    buffer[: len(data)] = data
    reader.received(len(data))
    event = reader.next_event()
    if not isinstance(event, Frame) or not isinstance(event.body, kind):
        raise Violation(f"a frame of {kind.__name__} cannot be read")
    return event.body
