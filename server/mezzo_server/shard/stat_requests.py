"""STAT and SHARD_STAT: what is known of chunks, and of the shard. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mezzo.protocol.messages import ChunkStat, Kind, ShardStat, ShardStated, Stat, Stated
from mezzo_server.blockstore.api import ChunkInfo
from mezzo_server.shard import tenant_numbers
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

STAT_KEYS = 128
"""Keys looked up before others get their turn."""


def stat(session: Session, request_id: int, body: Stat) -> None:
    """What is known of chunks of the session's namespace."""
    _Stating(session, request_id, session.check_read(body.keys)).step()


def shard_stat(session: Session, request_id: int, body: ShardStat) -> None:
    """The numbers of the shard for operators; for a tenant its own, and none of others."""
    guest = session.guest
    everything = guest is not None and guest.sees_all
    numbers = session.service.numbers() if everything else tenant_numbers.numbers(session)
    session.send(Kind.SHARD_STATED, request_id, ShardStated(numbers))


class _Stating(Request):
    """What is known of many chunks, told step by step."""

    __slots__ = ("_chunks", "_keys")

    def __init__(self, session: Session, request_id: int, keys: Sequence[bytes]) -> None:
        super().__init__(session, request_id, Kind.STAT)
        self._keys = keys
        self._chunks: list[ChunkStat | None] = []

    def step(self) -> None:
        """Look some keys up, and the rest in later turns."""
        session, chunks = self.session, self._chunks
        for key in self._keys[len(chunks) : len(chunks) + STAT_KEYS]:
            info = session.service.store.info(session.scope, key)
            chunks.append(None if info is None else _stat_of(info, session.service.store.now_ms))
        if len(chunks) == len(self._keys) or self.cancelled:
            self.finish(Kind.STATED, Stated(chunks))
        else:
            session.link.later(self.step)


def _stat_of(info: ChunkInfo, now_ms: int) -> ChunkStat:
    left_ms = max(0, info.expiry_ms - now_ms) if info.expiry_ms else -1
    return ChunkStat(info.length, len(info.parts), info.sequence, info.leased, left_ms, info.priority)
