"""PULL: another shard of the pod takes over chunks that it is to have. No I/O.

What is asked for is checked against the map that this shard follows, not against what the other says; which tenant's
chunks they are is the other's word, so they are given only to who is to have that slot, whatever the tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo.protocol.messages import Get, Kind, Pull, Pulled, PulledChunk
from mezzo_server.blockstore.api import ChunkInfo, Scope
from mezzo_server.shard.tcp_get import TcpGet

if TYPE_CHECKING:
    from mezzo_server.blockstore.streams import Stream
    from mezzo_server.shard.service import Service
    from mezzo_server.shard.session import Session


def pull(session: Session, request_id: int, body: Pull) -> None:
    """What there is of some chunks, and their bytes if they are wanted.

    Raises:
        Unavailable: the shard serves nothing, or moves nothing.
        WrongEpoch: by its map they are not the other's.
        Busy: so much was moved from here lately that nothing more is for a while.
    """
    service, guest = session.service, session.guest
    standing, puller = service.standing, service.puller
    if standing is None or puller is None or guest is None:
        raise Unavailable("no chunks are moved from this shard")
    scope = Scope(body.tenant, body.namespace, body.tenant_generation, body.namespace_generation)
    standing.check_pull(guest.peer, scope, body.keys)
    if body.capacities and len(body.capacities) != len(body.keys):
        raise InvalidArgument(f"{len(body.keys)} keys and {len(body.capacities)} capacities")
    known = service.directory.scope_of(body.tenant, body.namespace) == scope
    infos = [service.store.info(scope, key) if known else None for key in body.keys]
    if not body.capacities or not any(infos):
        session.send(Kind.PULLED, request_id, Pulled(_told(service, infos, compared=True)))
        return
    room = zip(infos, body.capacities, strict=True)
    nbytes = sum([info.length for info, capacity in room if info is not None and info.length <= capacity])
    wait_s = puller.give_out(nbytes)
    if wait_s > 0:
        raise Busy("chunks are moved from here as fast as pod.move_bytes_per_s allows", wait_s)
    PullRequest(session, request_id, body, scope).start()


class PullRequest(TcpGet):
    """A pull whose bytes go out."""

    __slots__ = ("_infos",)

    def __init__(self, session: Session, request_id: int, body: Pull, scope: Scope) -> None:
        get = Get(body.keys, capacities=body.capacities)
        super().__init__(session, request_id, get, Kind.PULL, scope)
        self._infos: dict[int, ChunkInfo | None] = {}

    def start(self) -> None:
        """See `TcpGet.start`. It is no load of a tenant's: nobody waits for it, and no estimate learns from it."""
        self._queue()

    def open(self, index: int) -> Stream | None:
        """See `TcpGet.open`."""
        # In one turn with the stream: both are of one chunk.
        service, scope = self.session.service, self._scope
        if scope is not None:
            self._infos[index] = service.store.info(scope, self._body.keys[index])
        return super().open(index)

    def answer(self) -> None:
        """See `TcpGet.answer`."""
        service, lengths = self.session.service, self._lengths
        infos = [self._infos.get(index) if length >= 0 else None for index, length in enumerate(lengths)]
        if service.puller is not None:
            sent = [length for length in lengths if length >= 0]
            service.puller.sent(len(sent), sum(sent))
        self.finish(Kind.PULLED, Pulled(_told(service, infos)))


def _told(
    service: Service, infos: Sequence[ChunkInfo | None], *, compared: bool = False
) -> list[PulledChunk | None]:
    now_ms = service.store.now_ms
    told: list[PulledChunk | None] = []
    for info in infos:
        left_ms = -1 if info is None or not info.expiry_ms else info.expiry_ms - now_ms
        if info is None or (info.expiry_ms and left_ms <= 0):
            told.append(None)
        else:
            sums = list(info.checksums) if compared else []
            told.append(PulledChunk(list(info.parts), left_ms, info.position, info.priority, sums))
    return told
