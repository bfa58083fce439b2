"""Second copies, at both ends: an owner tells the second of what it is to have, and a second pulls it.

    put, or got often -> Offers -> OFFER -> Puller.want -> PULL

Nobody waits for any of it.  What a second is asked for and does not have it pulls by itself (`missed`), so what was
not told of in time comes when it is read there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from mezzo.errors import InvalidArgument, MezzoError, WrongEpoch
from mezzo.protocol.bitmap import pack, unpack
from mezzo.protocol.messages import Body, Got, Kind, Offer, Offered, PutDone
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod import offers
from mezzo_server.pod.heat import WINDOW_S, Heat, Name
from mezzo_server.pod.moving import Why
from mezzo_server.pod.offers import Offers
from mezzo_server.shard.peer_operations import OfferChunks

if TYPE_CHECKING:
    from mezzo_server.pod.standing import Standing
    from mezzo_server.shard.puller import Puller
    from mezzo_server.shard.request import Request
    from mezzo_server.shard.service import Service
    from mezzo_server.shard.session import Session

log = structlog.get_logger("mezzo.shard")

POPULAR_LIVES_S = 600.0
"""A second copy of what is popular lives so long; it is pulled anew if that is popular still."""
AGAIN_S = 2.0
"""After what was popular was told of, to hear whether it has come."""
POPULAR_PART = 50
"""One part in so many of what the devices hold is for such copies, if nothing else was said."""
LOOKED_KEYS_MAX = 512
"""Keys of one read that are looked at for those that are missing."""


class Peers(Protocol):
    """The ways to other shards."""

    async def offer(self, shard: bytes, operation: OfferChunks) -> None:
        """Tell a shard. Raises MezzoError."""


class SecondCopies:
    """Owner of what is offered, of what is popular here, and of the account of popular copies that are kept for others.

    Used in the loop.
    """

    def __init__(
        self,
        service: Service,
        standing: Standing,
        puller: Puller,
        peers: Peers,
        heat: Heat | None,
        popular_bytes: int,
        random: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``heat``: counts gets; None: nothing is popular. ``popular_bytes``: of popular copies; 0: see `POPULAR_PART`."""
        self._service = service
        self._standing = standing
        self._puller = puller
        self._peers = peers
        self._heat = heat
        self._popular_bytes = popular_bytes
        self._loop = loop
        self._offers = Offers(standing.second_of, random)
        self._shared: dict[Name, float] = {}
        """popular chunks that their seconds have, until when that is told"""
        self._again: list[tuple[float, Scope, list[bytes]]] = []
        """popular chunks that seconds are asked about once more, and when"""
        self._asked_again: set[Name] = set()
        """in this window"""
        self._kept: dict[Name, tuple[int, float]] = {}
        """popular copies that were taken in here: bytes, and when they end"""
        self._kept_bytes = 0
        self._refused = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._begins = False
        self._stopped = False

    @property
    def counts_gets(self) -> bool:
        """Whether chunks may be popular."""
        return self._heat is not None

    # At the owner.

    def answered(self, session: Session, request: Request, body: Body) -> Body:
        """A request is about to be answered with this; what it is to be answered with."""
        if type(body) is Got:
            popular = self.popular(session.scope, request.got) if self._shared else b""
            return msgspec.structs.replace(body, popular=popular) if popular else body
        if type(body) is PutDone and session.copies > 1:
            # Of those that were there the second copy may be missing.
            count = len(request.written)
            here = zip(request.written, unpack(body.stored, count), unpack(body.exists, count), strict=True)
            self._offer(session.scope, [key for key, stored, exists in here if stored or exists])
        return body

    def asked(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """A get of these began."""
        if self._heat is not None:
            self._heat.asked(scope, keys)

    def popular(self, scope: Scope, keys: Sequence[bytes]) -> bytes:
        """Which of these the seconds have too since they are popular, as a bitmap; empty: none."""
        shared = self._shared
        now, tenant, namespace = self._service.now(), scope.tenant, scope.namespace
        found = [shared.get((tenant, namespace, key), 0.0) > now for key in keys]
        return pack(found) if True in found else b""

    def forget(self, scope: Scope, keys: Iterable[bytes]) -> None:
        """These are deleted here from now on."""
        self._offers.forget(scope, keys)
        if self._shared or self._kept:
            for key in keys:
                name = scope.tenant, scope.namespace, key
                self._shared.pop(name, None)
                self._drop(name)

    def tick(self) -> None:
        """Called often: what has become popular is told of, and what has ended is let go."""
        now = self._service.now()
        found = None if self._heat is None else self._heat.turn(now)
        if found is not None:
            self._asked_again.clear()
            self._again.clear()  # who is popular still is told of anyway
            self._shared = {name: until for name, until in self._shared.items() if until > now}
            for name in [name for name, (_, ends) in self._kept.items() if ends <= now]:
                self._drop(name)
            by_scope: dict[Scope, list[bytes]] = {}
            for tenant, namespace, key in found:
                scope = self._service.directory.scope_of(tenant, namespace)
                if scope is not None:
                    by_scope.setdefault(scope, []).append(key)
            for scope, keys in by_scope.items():
                self._offer_popular(scope, keys)
        while self._again and self._again[0][0] <= now:
            _, scope, keys = self._again.pop(0)
            self._offer_popular(scope, keys)

    def standing_changed(self) -> None:
        """Another map is followed, or none."""
        pod_map = self._standing.pod_map
        self._offers.follow([] if pod_map is None else [place.id for place in pod_map.shards])
        self._shared.clear()  # seconds may be others now

    # At the second.

    def missed(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """These are read here, of which two copies are kept: those that are missing are to come from their owners."""
        present = self._service.store.prefix
        looked = keys[:LOOKED_KEYS_MAX]
        by_owner: dict[bytes, list[bytes]] = {}
        for key, owner in zip(looked, self._standing.owner_of(scope, looked), strict=True):
            if owner is not None and not present(scope, (key,))[0]:
                by_owner.setdefault(owner, []).append(key)
        for owner, missing in by_owner.items():
            self._puller.want(scope.tenant, scope.namespace, missing, owner, Why.COPY)

    def offered(self, peer: bytes, body: Offer) -> Offered:
        """Another shard tells of chunks of its own.

        Raises:
            WrongEpoch: by the map that is followed here they are not its own, or this shard is not their second.
            InvalidArgument: their lengths are missing.
        """
        service, standing = self._service, self._standing
        if body.lives_ms and len(body.lengths) != len(body.keys):
            raise InvalidArgument(f"{len(body.keys)} keys and {len(body.lengths)} lengths")
        scope = service.directory.scope_of(body.tenant, body.namespace)
        if scope is None:
            return Offered(0, pack([False] * len(body.keys)))  # erased, or of a namespace that is new
        standing.check(scope, body.keys)
        if any(owner != peer for owner in standing.owner_of(scope, body.keys)):
            raise WrongEpoch(
                f"by the map of epoch {standing.epoch} this shard has no second copies of these",
                standing.epoch,
            )
        there = [bool(service.store.prefix(scope, (key,))[0]) for key in body.keys]
        wanted = [index for index, has in enumerate(there) if not has]
        why = Why.COPY
        if body.lives_ms:
            why = Why.POPULAR
            wanted = [index for index in wanted if self._keep(scope, body, index)]
        keys = [body.keys[index] for index in wanted]
        if keys:
            self._puller.want(body.tenant, body.namespace, keys, peer, why, told=True, lives_ms=body.lives_ms)
        return Offered(sum(there), pack(there))

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {
            **self._offers.numbers(),
            "pod_popular_chunks": len(self._shared),
            "pod_popular_bytes": self._kept_bytes,
            "pod_popular_refused": self._refused,
        }

    async def stop(self) -> None:
        """Tell nobody of anything any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    # Within.

    def _offer(self, scope: Scope, keys: Sequence[bytes]) -> None:
        second_of = self._standing.second_of
        own = [key for key in keys if second_of(scope, key) is not None]
        if own:
            self._offers.add(scope, own, self._service.now())
            self._begin_soon()

    def _offer_popular(self, scope: Scope, keys: Sequence[bytes]) -> None:
        """What has its second on the same node gains nothing that memory is worth there, and stays alone."""
        second_of, info = self._standing.second_of, self._service.store.info
        own = [
            key
            for key in keys
            if second_of(scope, key, on_other_node=True) is not None and info(scope, key) is not None
        ]
        if own:
            self._offers.add(scope, own, self._service.now(), popular=True)
            self._begin_soon()

    def _begin_soon(self) -> None:
        if not self._begins and not self._stopped:
            self._begins = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._begins = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._stopped and (offer := self._offers.next(self._service.now())) is not None:
            task = self._loop.create_task(self._tell(offer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        wait_s = self._offers.wait_s(self._service.now())
        if wait_s is not None and not self._stopped:
            self._timer = self._loop.call_later(max(0.001, wait_s), self._begin)

    async def _tell(self, offer: offers.Offer) -> None:
        service, failed = self._service, True
        try:
            keys, lengths = offer.keys, [0] * len(offer.keys)
            if offer.popular:
                infos = [service.store.info(offer.scope, key) for key in keys]
                lengths = [0 if info is None else info.length for info in infos]
            lives_ms = int(POPULAR_LIVES_S * 1000) if offer.popular else 0
            told = OfferChunks(offer.scope, keys, lives_ms, lengths if offer.popular else ())
            try:
                await self._peers.offer(offer.second, told)
            finally:
                told.error = None  # it holds our frame by its traceback: no cycle
            failed = False
            if offer.popular:
                self._heard(offer, told.there)
        except MezzoError as error:
            log.debug("a second could not be told", second=offer.second.hex(), reason=str(error))
        except Exception:  # a fault of ours must be seen, and must not end what tells others
            log.exception("a fault while a second was told of chunks")
        finally:
            self._offers.ended(offer, service.now(), failed=failed)
            self._begin_soon()

    def _heard(self, offer: offers.Offer, there: Sequence[bool]) -> None:
        scope, now = offer.scope, self._service.now()
        for key, has in zip(offer.keys, there, strict=True):
            if has and self._standing.second_of(scope, key) == offer.second:
                self._shared[scope.tenant, scope.namespace, key] = now + 2 * WINDOW_S
        names = {key: (scope.tenant, scope.namespace, key) for key in offer.keys}
        missing = [key for key, has in zip(offer.keys, there, strict=True) if not has]
        again = [key for key in missing if names[key] not in self._asked_again]
        if again:
            self._asked_again.update([names[key] for key in again])
            self._again.append((now + AGAIN_S, scope, again))

    def _keep(self, scope: Scope, body: Offer, index: int) -> bool:
        """Take a popular copy into account; whether there is room for it."""
        name = scope.tenant, scope.namespace, body.keys[index]
        self._drop(name)
        room = self._popular_bytes or self._service.store.capacity_bytes // POPULAR_PART
        length = body.lengths[index]
        if not length or self._kept_bytes + length > room:
            self._refused += 1
            return False
        self._kept[name] = length, self._service.now() + body.lives_ms / 1000
        self._kept_bytes += length
        return True

    def _drop(self, name: Name) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self._kept_bytes -= kept[0]


def offer(session: Session, request_id: int, body: Offer) -> None:
    """OFFER: another shard of the pod tells of chunks that this one is to have a second copy of. Raises MezzoError."""
    copies, guest = session.service.copies, session.guest
    if copies is None or guest is None:
        raise InvalidArgument("no second copies are kept here")
    session.send(Kind.OFFERED, request_id, copies.offered(guest.peer, body))
