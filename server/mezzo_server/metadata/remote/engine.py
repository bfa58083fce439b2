"""The metadata engine behind the metadata service: the same interface and promises, over any of its replicas.

Revisions and leases are those of the engine under the service, the same at all replicas: so a watch goes on, and a
lease is kept, at another one than it was begun at.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from mezzo.errors import InvalidArgument, Unavailable
from mezzo.v1 import metadata_pb2 as api
from mezzo_server.metadata.calling import PAUSE_S
from mezzo_server.metadata.engine import (
    Change,
    Check,
    Compacted,
    Engine,
    Entry,
    Outcome,
    Scan,
    Write,
    check_key,
    check_transaction,
    check_ttl,
)
from mezzo_server.metadata.places import CALL_S
from mezzo_server.metadata.remote import calls
from mezzo_server.metadata.remote.calls import ServiceCalls
from mezzo_server.metadata.remote.place import ServicePlace
from mezzo_server.metadata.trust import Refused

TRANSACTION_BYTES_MAX = 4 << 20
"""of one transaction's message"""


class ServiceEngine(Engine):
    """What a metadata service looks after. Owner of its connections."""

    def __init__(self, place: ServicePlace, call_s: float = CALL_S, first: int | None = None) -> None:
        """``call_s``: after so long without any replica a call raises Unavailable.

        ``first``: the number of the replica that is asked first; None: any, so that all of them have callers.
        """
        if first is None:
            first = random.randrange(len(place.endpoints))
        self._calls = ServiceCalls(place, call_s, first)

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        answer = await self._calls.read(calls.GET, api.GetEntryRequest(key=key))
        return _entry(answer.entry) if answer.HasField("entry") else None

    async def scan(self, prefix: str) -> Scan:
        check_key(prefix or "-")
        until = time.monotonic() + self._calls.call_s
        while True:
            try:
                return await self._scan(prefix)
            except Refused:
                raise
            except Unavailable:
                if self._calls.closed or time.monotonic() + PAUSE_S >= until:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        check_transaction(checks, writes)
        request = api.TransactRequest(
            checks=[api.Check(key=check.key, revision=check.revision) for check in checks],
            writes=[api.Write(key=write.key, value=write.value, lease=write.lease) for write in writes],
        )
        if request.ByteSize() > TRANSACTION_BYTES_MAX:
            raise InvalidArgument(
                f"a transaction of {request.ByteSize()} bytes; at most {TRANSACTION_BYTES_MAX} go through the metadata "
                "service"
            )
        send = self._calls.once if writes else self._calls.read
        answer = await send(calls.TRANSACT, request)
        return Outcome(answer.done, answer.revision)

    async def grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        # Tried anew it may leave one that nobody knows; it ends by itself.
        return int((await self._calls.read(calls.GRANT, api.GrantLeaseRequest(ttl_s=ttl_s))).lease)

    async def keep(self, lease: int) -> bool:
        return bool((await self._calls.read(calls.KEEP, api.KeepLeaseRequest(lease=lease))).held)

    async def revoke(self, lease: int) -> None:
        await self._calls.read(calls.REVOKE, api.RevokeLeaseRequest(lease=lease))

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        check_key(prefix or "-")

        async def begin(after: int) -> AsyncGenerator[list[Change], None]:
            request = api.WatchEntriesRequest(prefix=prefix, after=after)
            changes: list[Change] = []
            async with aclosing(self._calls.stream(calls.WATCH, request)) as answers:
                async for answer in answers:
                    if answer.compacted:
                        raise Compacted(
                            f"changes after revision {after} are not kept any more, or it never was"
                        )
                    changes += map(_change, answer.changes)
                    if not answer.more:
                        told, changes = changes, []
                        yield told

        async with aclosing(self._calls.follow(after, begin)) as told:
            async for changes in told:
                yield changes

    async def close(self) -> None:
        self._calls.close()

    async def _scan(self, prefix: str) -> Scan:
        entries: list[Entry] = []
        async with aclosing(self._calls.stream(calls.SCAN, api.ScanEntriesRequest(prefix=prefix))) as pages:
            async for page in pages:
                entries += map(_entry, page.entries)
                if not page.more:
                    return Scan(entries, page.revision)
        raise Unavailable("a scan ended before its last page")


def _entry(told: api.Entry) -> Entry:
    return Entry(told.key, told.value, told.revision)


def _change(told: api.Change) -> Change:
    return Change(told.key, told.value if told.HasField("value") else None, told.revision)
