"""The metadata engine on etcd: the same interface, so the same promises, for every process of a pod.

Revisions are etcd's.  Others may write to the same etcd outside of our folder, so of two writes of ours the later
has the higher revision, and there may be revisions between them.

Invariant: what was removed is compacted away before `transact` returns, or owed until a later call does it, unless
the place says ``compact=no``: etcd keeps old values otherwise, and would give them to any watch.  (Its file keeps freed pages until it is
defragmented; docs/metadata.md says so.)
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import grpc
import structlog

from mezzo.errors import Busy, InvalidArgument, MezzoError, Unavailable
from mezzo_server.metadata.engine import (
    LEASES_MAX,
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
from mezzo_server.metadata.etcd import calls
from mezzo_server.metadata.etcd import etcd_pb2 as api
from mezzo_server.metadata.etcd.calls import EtcdCalls
from mezzo_server.metadata.etcd.place import EtcdPlace
from mezzo_server.metadata.places import CALL_S
from mezzo_server.metadata.trust import Refused

log = structlog.get_logger("mezzo.metadata")

PAGE_KEYS = 64
"""of a scan: values of 1 MiB are allowed, so a page has 64 MiB at most"""
SCANS_MAX = 4
"""A scan that was overtaken by a compaction begins anew so often."""
EQUAL, MOD = api.Compare.EQUAL, api.Compare.MOD


class EtcdEngine(Engine):
    """Keys and values below one folder of an etcd. Owner of its connections."""

    def __init__(self, place: EtcdPlace, call_s: float = CALL_S) -> None:
        """``call_s``: after so long without any member a call raises Unavailable."""
        self._calls = EtcdCalls(place, call_s)
        self._base = f"{place.folder}/".encode()
        self._compacts = place.compacts
        self._owed = 0
        """what has to be compacted up to this revision still; 0: nothing"""

    async def get(self, key: str) -> Entry | None:
        check_key(key)
        answer = await self._calls.read(calls.RANGE, api.RangeRequest(key=self._name(key)))
        return self._entry(answer.kvs[0]) if answer.kvs else None

    async def scan(self, prefix: str) -> Scan:
        check_key(prefix or "-")
        for _ in range(SCANS_MAX):
            try:
                return await self._scan(prefix)
            except Compacted:
                continue
        raise Unavailable("etcd is compacted faster than it can be scanned")

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        check_transaction(checks, writes)
        request = api.TxnRequest(
            compare=[
                api.Compare(result=EQUAL, target=MOD, key=self._name(check.key), mod_revision=check.revision)
                for check in checks
            ],
            success=[self._operation(write) for write in writes],
        )
        try:
            if writes:
                answer = await self._calls.once(calls.TXN, request)
            else:
                answer = await self._calls.read(calls.TXN, request)
        except grpc.RpcError as error:
            # The only thing that a transaction of ours names and that need not be there.
            raise InvalidArgument(
                f"a lease that the transaction names is not held: {error.details()}"
            ) from None
        revision = answer.header.revision
        removed = any(response.response_delete_range.deleted for response in answer.responses)
        if removed and self._compacts:
            self._owed = max(self._owed, revision)
        if self._owed:
            await self._compact()
        return Outcome(answer.succeeded, revision)

    async def grant(self, ttl_s: float) -> int:
        check_ttl(ttl_s)
        held = await self._calls.read(calls.LEASES, api.LeaseLeasesRequest())
        if len(held.leases) >= LEASES_MAX:
            raise Busy(f"{LEASES_MAX} leases of etcd are held", 1.0)
        # Tried anew it may leave one that nobody knows; it ends by itself.
        answer = await self._calls.read(calls.GRANT, api.LeaseGrantRequest(TTL=math.ceil(ttl_s)))
        if answer.error:
            raise Unavailable(f"etcd grants no lease: {answer.error}")
        return int(answer.ID)

    async def keep(self, lease: int) -> bool:
        until = time.monotonic() + self._calls.call_s
        while True:
            try:
                answer = await self._calls.once(
                    calls.KEEP, api.LeaseKeepAliveRequest(ID=lease), until, stream=True
                )
                return answer.TTL > 0
            except grpc.RpcError:
                return False
            except Refused:
                raise
            except Unavailable as error:
                await self._calls.another(until, error)

    async def revoke(self, lease: int) -> None:
        try:
            await self._calls.read(calls.REVOKE, api.LeaseRevokeRequest(ID=lease))
        except grpc.RpcError:
            pass  # it has ended

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        check_key(prefix or "-")
        key, end = self._range(prefix)

        async def begin(after: int) -> AsyncGenerator[list[Change], None]:
            await self._check_kept(after)
            # From `after` itself on, which was seen: a compaction up to it takes nothing that was not, and one
            # beyond it is told of.
            create = api.WatchCreateRequest(key=key, range_end=end, start_revision=max(1, after))
            request = api.WatchRequest(create_request=create)
            async with aclosing(self._calls.stream(calls.WATCH, request)) as answers:
                async for answer in answers:
                    yield self._changes(answer, after)

        async with aclosing(self._calls.follow(after, begin)) as told:
            async for changes in told:
                yield changes

    async def close(self) -> None:
        self._calls.close()

    # -- between etcd's names and ours

    def _name(self, key: str) -> bytes:
        return self._base + key.encode()

    def _range(self, prefix: str) -> tuple[bytes, bytes]:
        """The keys that begin with ``prefix``: the first, and the first behind them."""
        first = self._name(prefix)
        # No key has a byte of 0xff: they are text.
        return first, first[:-1] + bytes((first[-1] + 1,))

    def _entry(self, stored: api.KeyValue) -> Entry:
        return Entry(stored.key[len(self._base) :].decode(), stored.value, stored.mod_revision)

    def _change(self, event: api.Event) -> Change:
        stored = event.kv
        value = None if event.type == api.Event.DELETE else stored.value
        return Change(stored.key[len(self._base) :].decode(), value, stored.mod_revision)

    def _changes(self, answer: api.WatchResponse, after: int) -> list[Change]:
        """What an answer tells that is new. Raises Compacted and Unavailable: the watch has ended."""
        if answer.compact_revision:
            raise _compacted(after)
        if answer.canceled:
            raise Unavailable(f"etcd has ended a watch: {answer.cancel_reason}")
        return [self._change(event) for event in answer.events if event.kv.mod_revision > after]

    def _operation(self, write: Write) -> api.RequestOp:
        name = self._name(write.key)
        if write.value is None:
            return api.RequestOp(request_delete_range=api.DeleteRangeRequest(key=name))
        return api.RequestOp(request_put=api.PutRequest(key=name, value=write.value, lease=write.lease))

    # -- revisions

    async def _scan(self, prefix: str) -> Scan:
        key, end = self._range(prefix)
        entries: list[Entry] = []
        revision = 0
        while True:
            request = api.RangeRequest(key=key, range_end=end, limit=PAGE_KEYS, revision=revision)
            try:
                answer = await self._calls.read(calls.RANGE, request)
            except grpc.RpcError as error:
                raise _compacted(revision) from error
            revision = revision or answer.header.revision
            entries += [self._entry(stored) for stored in answer.kvs]
            if not answer.more:
                return Scan(entries, revision)
            key = answer.kvs[-1].key + b"\0"

    async def _check_kept(self, after: int) -> None:
        """Raises Compacted: changes after that revision are not kept, or it never was."""
        request = api.RangeRequest(key=self._base, limit=1, revision=after, keys_only=True)
        try:
            await self._calls.read(calls.RANGE, request)
        except grpc.RpcError as error:
            raise _compacted(after) from error

    async def _compact(self) -> None:
        revision = self._owed
        try:
            await self._calls.read(calls.COMPACT, api.CompactionRequest(revision=revision, physical=True))
        except grpc.RpcError:
            pass  # it was compacted up to there already
        except MezzoError as error:
            log.warning("etcd was not compacted; it is tried again with the next write", error=str(error))
            return
        if self._owed == revision:
            self._owed = 0


def _compacted(after: int) -> Compacted:
    return Compacted(f"changes after revision {after} are not kept any more, or it never was")
