"""Moves chunks here from other shards of the pod: does what `pod.moving` decides, in the background of the loop.

    want -> ask the source what it has -> room, quota, bandwidth -> its bytes, checked -> a put of our own

Invariant: nothing is committed that is not still wanted, ours and of the scope in force at that moment, looked at in
the same turn of the loop in which the store takes it over; from there on it is a put like any other, and a delete that
comes later waits for it and deletes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from mezzo.errors import Busy, MezzoError, OverQuota, TooLarge, WrongEpoch
from mezzo.places import Place
from mezzo.protocol.messages import PulledChunk
from mezzo_server.blockstore.api import PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.memory import Span
from mezzo_server.pod.moving import BURST_S, Drop, Moves, Pull, Wanted, Why
from mezzo_server.pod.provenance import Provenance, Tenure
from mezzo_server.pod.standing import Standing
from mezzo_server.quota.bucket import Bucket
from mezzo_server.shard.background import STOP_S, Background, Work
from mezzo_server.shard.landing import chunk_of, is_same, room, stage, to_its_end
from mezzo_server.shard.peer_operations import PullChunks
from mezzo_server.shard.share import StagingShare

if TYPE_CHECKING:
    from mezzo_server.shard.service import Service

log = structlog.get_logger("mezzo.shard")

GROUP_BYTES = 4 << 20
"""Bytes that are asked for together; a longer chunk alone."""
LOOKED_KEYS_MAX = 256
"""Keys of one read that are looked at in one turn for those that are missing: some hundred microseconds."""
FREE_PART_MIN = 0.5
"""Of the staging memory: with less of it free the requests of clients come first."""
YIELD_S = 0.05
"""Between two looks whether there is room besides them,"""
YIELD_S_MAX = 10.0
"""and for how long that is waited for, within one pull."""


PULL_S_MAX = 60.0
"""Within which a pull comes to its end, one way or another; well below `moving.FORGET_S`. What has not been asked for
after half of it, for want of bandwidth or memory, is dropped: it is no fault of the source."""
TRIES = 5
AGAIN_S, AGAIN_S_MAX = 0.2, 2.0
"""Between two, where the source is busy or a map behind."""


class Peers(Protocol):
    """The ways to other shards."""

    async def pull(self, shard: bytes, operation: PullChunks) -> None:
        """Have a shard asked. Raises MezzoError."""

    async def close(self) -> None:
        """End all of them."""


class Puller:
    """Owner of the tasks that move chunks here. Used in the loop, from when it runs until `stop`."""

    def __init__(
        self,
        service: Service,
        standing: Standing,
        moves: Moves,
        peers: Peers,
        bytes_per_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._service = service
        self._standing = standing
        self._moves = moves
        self._peers = peers
        self._loop = loop
        self._out = Bucket(bytes_per_s, max(1.0, bytes_per_s * BURST_S), service.now())
        self._group_bytes = min(GROUP_BYTES, int(bytes_per_s * BURST_S), service.staging.piece_bytes_max)
        self._share = StagingShare(service.staging, service.limits.staging_connection_bytes_max)
        self._background = Background(self._next, lambda: moves.wait_s(service.now()), loop)
        self.provenance = Provenance(service.store.next_sequence)
        """of the second copies that are here"""

    # -- what is wanted, and what not any more

    def want(
        self,
        tenant: bytes,
        namespace: bytes,
        keys: Iterable[bytes],
        source: bytes,
        why: Why,
        *,
        told: bool = False,
        lives_ms: int = 0,
    ) -> int:
        """Pull chunks of a tenant's namespace (ids) from the shard ``source`` in the background; returns at once.

        The source gives only what this shard is to have by the map that the source follows (`Share.may_pull`), and
        only what this shard may hold is committed (`Standing.holds`).  Returns how many keys are wanted from now
        on: those that were already, were deleted here lately, or for which there is no room in the queue, are not.
        ``told`` and ``lives_ms``: as of `Moves.want`.
        """
        scope = self._service.directory.scope_of(tenant, namespace)
        if scope is None or self._background.stopped or not self._standing.serving:
            return 0
        taken = self._moves.want(scope, keys, source, why, self._service.now(), told=told, lives_ms=lives_ms)
        if taken:
            self._background.soon()
        return taken

    def missed(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """These are being read here: those that are not there, and that another had before, are wanted."""
        if not self._standing.share.gains or self._background.stopped:
            return
        if len(keys) > LOOKED_KEYS_MAX:
            self._loop.call_soon(self.missed, scope, keys[LOOKED_KEYS_MAX:])
            keys = keys[:LOOKED_KEYS_MAX]
        present = self._service.store.prefix
        gained = self._standing.gained(scope, keys)
        by_source: dict[bytes, list[bytes]] = {}
        for key, source in gained:
            if not present(scope, (key,))[0]:
                by_source.setdefault(source, []).append(key)
        for source, missing in by_source.items():
            self.want(scope.tenant, scope.namespace, missing, source, Why.READ)

    def forget(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """These are deleted here from now on, and must not come back."""
        self._moves.forget(scope, keys, self._service.now())

    def catalog_changed(self) -> None:
        """What was erased is not wanted any more."""
        scope_of = self._service.directory.scope_of
        self._moves.cancel(
            Drop.ERASED, lambda wanted: scope_of(wanted.scope.tenant, wanted.scope.namespace) != wanted.scope
        )

    def standing_changed(self) -> None:
        """Another map is followed, or none: what this shard is not to have is not wanted any more."""
        self.provenance.follow(self._standing.share, self._service.store.next_sequence)
        self._moves.cancel(Drop.LOST, self._is_lost)

    def begins(self, owner: bytes | None) -> None:
        """What an owner of which we are second told, or gave, until now does not count; None: what any of them did."""
        self.provenance.begin(owner, self._service.store.next_sequence)
        self._moves.cancel(Drop.LOST, self._is_lost)

    def withdraw(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """Their owner has these no more: what is under way of them is not committed."""
        self._moves.withdraw(scope, keys)

    def _is_lost(self, wanted: Wanted) -> bool:
        scope, key = wanted.scope, wanted.key
        other = wanted.tenure is not None and wanted.tenure != self.provenance.tenure(scope, key)
        return other or not self._standing.holds(scope, key)

    # -- what others pull from here

    def give_out(self, nbytes: int) -> float:
        """Another shard is to be sent so many bytes: 0, and they are counted; or seconds after which to ask again."""
        now = self._service.now()
        wait_s = self._out.wait_s(nbytes, now)
        if not wait_s:
            self._out.take(nbytes, now)
        return wait_s

    def sent(self, chunks: int, nbytes: int) -> None:
        """It was sent."""
        self._moves.sent(chunks, nbytes)

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares."""
        return self._moves.numbers()

    async def stop(self) -> None:
        """Pull nothing any more; what is being stored is waited for, `STOP_S` at most."""
        if not await self._background.stop(STOP_S):
            # A device has the memory of these, and gives it back or not: what follows waits for devices by itself.
            log.warning("chunks that were moved here are being stored still, and are not waited for")
        await self._peers.close()
        self._share.close()

    # -- pulling

    def _next(self) -> Work | None:
        pull = self._moves.next(self._service.now())
        return None if pull is None else self._pull(pull)

    async def _pull(self, pull: Pull) -> None:
        left = {wanted.id: wanted for wanted in pull.wanted}

        def settle(wanted: Wanted, outcome: Drop | int) -> None:
            if left.pop(wanted.id, None) is not None:
                self._moves.settled(wanted, outcome, self._service.now())

        failed, reason = True, ""
        try:
            async with asyncio.timeout(PULL_S_MAX):
                await self._have(pull, settle)
            failed = False
        except MezzoError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"it did not come within {PULL_S_MAX:g} s"
        except Exception:  # a fault of ours must be seen, and must not end what moves chunks
            log.exception("a fault while chunks were moved here")
        finally:
            for wanted in tuple(left.values()):
                settle(wanted, Drop.FAILED)
            if (
                self._moves.ended(pull, self._service.now(), failed=failed)
                and reason
                and not self._background.stopped
            ):
                log.warning("chunks cannot be moved here", source=pull.source.hex(), reason=reason)
            self._background.soon()

    async def _have(self, pull: Pull, settle: Callable[[Wanted, Drop | int], None]) -> None:
        late_at = self._service.now() + PULL_S_MAX / 2
        for each in pull.wanted:
            each.tenure = self.provenance.tenure(each.scope, each.key)
        wanted = [each for each in pull.wanted if not self._refused(each, settle)]
        # Of what waited while the map changed the source may have nothing any more; it would refuse all for one of these.
        for each in [one for one in wanted if not self._standing.comes_from(one.scope, one.key, one.source)]:
            wanted.remove(each)
            settle(each, Drop.LOST)
        if not wanted:
            return
        what, asked_ms = await self._ask(pull, [each.key for each in wanted])
        group: list[tuple[Wanted, PulledChunk]] = []
        nbytes = 0
        for each, chunk in self._compare(zip(wanted, what.chunks, strict=True), asked_ms, settle):
            if self._refused(each, settle) or self._unfit(each, chunk, asked_ms, settle):
                continue
            length = room(chunk)
            if group and nbytes + length > self._group_bytes:
                await self._fetch(pull, group, settle, late_at)
                group, nbytes = [], 0
            group.append((each, chunk))
            nbytes += length
        if group:
            await self._fetch(pull, group, settle, late_at)

    async def _ask(
        self, pull: Pull, keys: Sequence[bytes], places: Sequence[Place] = ()
    ) -> tuple[PullChunks, int]:
        """What a source says of chunks, and when it was asked (of `BlockStore.now_ms`). Raises MezzoError."""
        for left in reversed(range(TRIES)):
            what, asked_ms = PullChunks(pull.scope, keys, places), self._service.store.now_ms
            try:
                await self._peers.pull(pull.source, what)
            except (Busy, WrongEpoch) as error:
                # It has others to serve, or does not follow our map yet.
                if not left:
                    raise
                wait_s = error.retry_after_s if isinstance(error, Busy) else 0.0
                await asyncio.sleep(min(max(wait_s, AGAIN_S), AGAIN_S_MAX))
            else:
                break
            finally:
                what.error = None  # it holds our frame by its traceback, and so the memory: no cycle
        return what, asked_ms

    def _compare(
        self,
        told: Iterable[tuple[Wanted, PulledChunk | None]],
        asked_ms: int,
        settle: Callable[[Wanted, Drop | int], None],
    ) -> list[tuple[Wanted, PulledChunk]]:
        """Settle what the source does not have, and what is here and the same; the others."""
        others: list[tuple[Wanted, PulledChunk]] = []
        for each, chunk in told:
            if chunk is None:
                settle(each, Drop.ABSENT)
            elif not self._refused(each, settle):
                here = self._service.store.info(each.scope, each.key)
                if here is not None and each.tenure is not None and is_same(here, chunk, asked_ms):
                    self.provenance.compared(each.scope, each.key, here.sequence, each.tenure)
                    settle(each, Drop.SAME)
                else:
                    others.append((each, chunk))
        return others

    def _refused(self, wanted: Wanted, settle: Callable[[Wanted, Drop | int], None]) -> bool:
        """Whether it is not to be had any more; then it is settled. Asked again right before it is committed."""
        service, scope = self._service, wanted.scope
        why = self._moves.objection(wanted, service.now())
        if why is None and service.directory.scope_of(scope.tenant, scope.namespace) != scope:
            why = Drop.ERASED
        tenure = self.provenance.tenure(scope, wanted.key)
        # It may have been wanted from who owned the slot then.
        other = tenure != wanted.tenure or (tenure is not None and tenure.owner != wanted.source)
        if why is None and (other or not self._standing.holds(scope, wanted.key)):
            why = Drop.LOST
        if why is None and self.is_given(scope, wanted.key, tenure):
            why = Drop.THERE
        if why is not None:
            settle(wanted, why)
        return why is not None

    def is_given(self, scope: Scope, key: bytes, tenure: Tenure | None) -> bool:
        """Whether a chunk is here and may be given; ``tenure``: as second, in which it is to be the owner's."""
        sequence = self._service.store.sequence(scope, key)
        if sequence is None or tenure is None:
            return sequence is not None
        return self.provenance.is_proven(scope, key, sequence, tenure)

    def _unfit(
        self,
        wanted: Wanted,
        chunk: PulledChunk,
        asked_ms: int,
        settle: Callable[[Wanted, Drop | int], None],
    ) -> bool:
        """Whether a put of it would not be taken; then it is settled."""
        service, scope = self._service, wanted.scope
        why: Drop | None = None
        length = sum(chunk.parts)
        try:
            if not 0 < length <= service.chunk_bytes_max or min(chunk.parts) < 1:
                raise TooLarge("it does not fit here")
            service.store.check_put(scope, (wanted.key,), (length,))
            if not service.store.takes(scope, chunk_of(wanted, chunk, (), None, asked_ms)):
                why = Drop.DECLINED
        except (OverQuota, Busy):
            why = Drop.QUOTA
        except MezzoError:
            why = Drop.FAILED
        if why is not None:
            settle(wanted, why)
        return why is not None

    async def _fetch(
        self,
        pull: Pull,
        group: Sequence[tuple[Wanted, PulledChunk]],
        settle: Callable[[Wanted, Drop | int], None],
        late_at: float,
    ) -> None:
        """Have the bytes of some chunks, and commit them."""
        service, moves = self._service, self._moves
        nbytes = sum([sum(chunk.parts) for _, chunk in group])
        if not await self._pause(nbytes, late_at):
            for each, _ in group:
                settle(each, Drop.LATE)
            return
        kept = [(each, chunk) for each, chunk in group if not self._refused(each, settle)]
        left = sum([sum(chunk.parts) for _, chunk in kept])
        moves.give_back(nbytes - left, service.now())
        if not kept:
            return
        account = service.accounts.of(pull.scope.tenant)
        charged, came = account.limited, 0
        if charged:
            try:
                account.charge(left, service.now())
            except OverQuota:
                moves.give_back(left, service.now())
                for each, _ in kept:
                    settle(each, Drop.QUOTA)
                return
        try:
            piece = await stage(self._share, sum([room(chunk) for _, chunk in kept]))
            if piece is None:
                moves.give_back(left, service.now())
                for each, _ in kept:
                    settle(each, Drop.LATE)
                return
            spans, at = [], 0
            for _, chunk in kept:
                spans.append(piece.part(at, sum(chunk.parts)))
                at += room(chunk)
            places = [Place(span.length, (), (span.view,)) for span in spans]
            try:
                what, asked_ms = await self._ask(pull, [each.key for each, _ in kept], places)
                came = sum([sum(chunk.parts) for chunk in what.chunks if chunk is not None])
                await self._commit(pull, [each for each, _ in kept], spans, what, asked_ms, settle)
            finally:
                for place in places:
                    place.views[0].release()
                self._share.give(piece)
        finally:
            if charged:
                account.settle(came - left, service.now())  # nobody pays for what did not come

    async def _commit(
        self,
        pull: Pull,
        wanted: Sequence[Wanted],
        spans: Sequence[Span],
        what: PullChunks,
        asked_ms: int,
        settle: Callable[[Wanted, Drop | int], None],
    ) -> None:
        service = self._service
        come = [each for each, chunk in zip(wanted, what.chunks, strict=True) if chunk is not None]
        # In whose place they come: other bytes than the source's.
        others = [
            each.key
            for each in come
            if not self._refused(each, settle) and service.store.sequence(pull.scope, each.key) is not None
        ]
        if others:
            gone: asyncio.Future[None] = self._loop.create_future()
            service.store.dismiss(pull.scope, others, lambda: None if gone.done() else gone.set_result(None))
            await gone
        taken: list[tuple[Wanted, PutChunk]] = []
        for index, (each, chunk) in enumerate(zip(wanted, what.chunks, strict=True)):
            if chunk is None:
                settle(each, Drop.ABSENT)
            elif not self._refused(each, settle):
                # It may be another, shorter one by now.
                source = (spans[index].part(0, sum(chunk.parts)),)
                taken.append((each, chunk_of(each, chunk, source, what.checksums[index], asked_ms)))
        if not taken:
            return
        ended: asyncio.Future[PutOutcome] = self._loop.create_future()

        def done(outcome: PutOutcome) -> None:
            if not ended.done():
                ended.set_result(outcome)

        # From here on it is the store's: in the same turn in which it was looked whether it is wanted still.
        for each, _ in taken:
            self.provenance.arrives(pull.scope, each.key)
        try:
            service.put(pull.scope, [chunk for _, chunk in taken], done, deadline=None)
        except MezzoError as error:
            for each, _ in taken:
                self.provenance.arrived(pull.scope, each.key)
                settle(each, Drop.QUOTA if isinstance(error, Busy) else Drop.FAILED)
            return
        try:
            outcome = await to_its_end(ended)
        except asyncio.CancelledError:
            for each, _ in taken:
                self._stays(each)
            raise
        account = service.accounts.of(pull.scope.tenant)
        for (each, put), status in zip(taken, outcome.statuses, strict=True):
            if not self._stays(each):
                settle(each, Drop.LOST)
            elif status is PutStatus.STORED:
                settle(each, sum(put.parts))
                account.bytes_total += sum(put.parts)
            else:
                settle(each, _DROPS.get(status, Drop.FAILED))

    def _stays(self, arrived: Wanted) -> bool:
        """Whether what the store has taken still counts; else it goes again.

        Of a slot that is ours by now it stays, like all that a second has when it becomes the owner: who has put it
        meanwhile was told that it is there.
        """
        scope, key, provenance = arrived.scope, arrived.key, self.provenance
        done = partial(provenance.arrived, scope, key)
        if provenance.tenure(scope, key) == arrived.tenure or provenance.owns(scope, key):
            done()
            return True
        self._service.store.dismiss(scope, (key,), done)
        return False

    async def _pause(self, nbytes: int, late_at: float) -> bool:
        """Wait until so many bytes may be moved, and take them; False: that would be too late for anybody."""
        moves, now = self._moves, self._service.now
        wait_s = moves.take(nbytes, now())
        if wait_s is None:
            return False
        passed = False
        try:
            if now() + wait_s < late_at:
                await asyncio.sleep(wait_s)
                passed = await self._let_others_pass(late_at)
        finally:
            if not passed:
                moves.give_back(nbytes, now())
        return passed

    async def _let_others_pass(self, late_at: float) -> bool:
        """Wait while clients need the memory; False: they did for too long."""
        staging = self._service.staging
        until = min(late_at, self._service.now() + YIELD_S_MAX)
        while staging.requests_waiting or staging.free_bytes < FREE_PART_MIN * staging.total_bytes:
            if self._service.now() >= until:
                return False
            await asyncio.sleep(YIELD_S)
        return True


_DROPS = {PutStatus.EXISTS: Drop.THERE, PutStatus.DECLINED: Drop.DECLINED}
