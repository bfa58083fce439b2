"""Second copies, at both ends: an owner tells the second of what it is to have, and a second pulls it.

    put, or got often -> Offers -> OFFER -> Puller.want -> PULL
    evicted           -> Leavings -> OFFER (gone)

Nobody waits for any of it.  What a second is asked for and does not have, or cannot say the provenance of, it pulls by
itself (`given`), so what was not told of in time comes when it is read there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from mezzo.errors import InvalidArgument, MezzoError, Unsupported, WrongEpoch
from mezzo.protocol.bitmap import pack, unpack
from mezzo.protocol.messages import Body, EventKind, Got, Kind, Offer, Offered, PutDone
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod import offers
from mezzo_server.pod.heat import WINDOW_S, Heat, Name
from mezzo_server.pod.leaving import Farewell, Leavings
from mezzo_server.pod.moving import Why
from mezzo_server.pod.offers import NOTHING_LEFT, Offers
from mezzo_server.pod.standing import SECOND, Standing
from mezzo_server.shard.background import STOP_S, Background, Work
from mezzo_server.shard.directory import NOWHERE
from mezzo_server.shard.peer_operations import OfferChunks
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import copies_of

if TYPE_CHECKING:
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
"""Keys of one read that are wanted from their owners."""
NO_KEY = b""
"""Stands for a chunk that is not to be given. None has it."""


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
        self.counts_gets = heat is not None
        """whether chunks may be popular"""
        self._popular_bytes = popular_bytes
        self._offers = Offers(standing.second_of, random)
        self._leavings = Leavings(self._second_of, random)
        self._share = standing.share
        """by the map that was followed last, though perhaps none is now"""
        self._untold: set[Name] = set()
        """chunks that are being deleted here, and perhaps not at their seconds"""
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
        self._background = Background(self._next, self._wait_s, loop)
        self._keeps_two = self.counts_gets
        """whether any chunk may have two copies"""
        if service.catalog is not None:
            self.catalog_changed(None, service.catalog)

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

    def untold(self, scope: Scope, keys: Sequence[bytes]) -> Callable[[], None]:
        """Who deletes these here may go by another map than we, and have told another second; what to call at the end."""
        if not self._keeps_two:
            return _nothing
        names = {(scope.tenant, scope.namespace, key) for key in keys} - self._untold
        self._untold |= names
        return lambda: self._untold.difference_update(names)

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
        if pod_map is not None:
            self._share = self._standing.share
            self._leavings.follow(self._share.seconds)
            self._background.soon()

    # At the second.

    def given(self, scope: Scope, keys: Sequence[bytes], *, wanted: bool) -> Sequence[bytes]:
        """These are read here; the same, with `NO_KEY` for those that are here and must not be given.

        Of what this shard is second for that is what is not proven to be the owner's.  If second copies are ``wanted`` of all, it is
        to come from there, and so is what is missing.
        """
        held = self._puller.provenance.held(scope, keys)
        if held is None:
            return keys
        sequence, is_given = self._service.store.sequence, self._puller.is_given
        given = list(keys)
        by_owner: dict[bytes, list[bytes]] = {}
        looked = 0
        for index, (key, known) in enumerate(zip(keys, held, strict=True)):
            if known is None or is_given(scope, key, known[0]):
                continue
            tenure, doubted = known
            if doubted and sequence(scope, key) is not None:
                given[index] = NO_KEY
            looked += wanted
            if 0 < looked <= LOOKED_KEYS_MAX:
                by_owner.setdefault(tenure.owner, []).append(key)
        for owner, missing in by_owner.items():
            self._puller.want(scope.tenant, scope.namespace, missing, owner, Why.COPY)
        return keys if NO_KEY not in given else given

    def offered(self, peer: bytes, body: Offer) -> Offered:
        """Another shard tells of chunks of its own.

        Raises:
            WrongEpoch: by the map that is followed here they are not its own, or this shard is not their second.
            InvalidArgument: their lengths are missing.
        """
        service = self._service
        if body.lives_ms and len(body.lengths) != len(body.keys):
            raise InvalidArgument(f"{len(body.keys)} keys and {len(body.lengths)} lengths")
        scope = service.directory.scope_of(body.tenant, body.namespace)
        if scope is None:
            return Offered(0, pack([False] * len(body.keys)))  # erased, or of a namespace that is new
        self._check_owner(peer, scope, body.keys)
        tenure, is_given = self._puller.provenance.tenure, self._puller.is_given
        there = [is_given(scope, key, tenure(scope, key)) for key in body.keys]
        wanted = [index for index, has in enumerate(there) if not has]
        why = Why.COPY
        if body.lives_ms:
            why = Why.POPULAR
            # Where nothing may be popular, clients may not tell seconds of deletes; nor does what was kept end there.
            wanted = [index for index in wanted if self.counts_gets and self._keep(scope, body, index)]
        keys = [body.keys[index] for index in wanted]
        if keys:
            self._puller.want(body.tenant, body.namespace, keys, peer, why, told=True, lives_ms=body.lives_ms)
        return Offered(sum(there), pack(there))

    def begins(self, peer: bytes) -> None:
        """Another shard does not know any more what it told."""
        self._puller.begins(peer)

    def let_go(self, peer: bytes, body: Offer, done: Callable[[], None]) -> None:
        """Another shard has chunks no more; ``done``: none of them is given any more.

        Raises:
            WrongEpoch: as of `offered`.
        """
        scope = self._service.directory.scope_of(body.tenant, body.namespace)
        if scope is None or not body.gone:
            done()
            return
        self._check_owner(peer, scope, body.gone)
        self._puller.withdraw(scope, body.gone)
        for key in body.gone if self._kept else ():
            self._drop((scope.tenant, scope.namespace, key))
        self._service.store.dismiss(scope, body.gone, done)

    def _check_owner(self, peer: bytes, scope: Scope, keys: Sequence[bytes]) -> None:
        standing = self._standing
        standing.check(scope, keys)
        if any(owner != peer for owner in standing.owner_of(scope, keys)):
            raise WrongEpoch(
                f"by the map of epoch {standing.epoch} this shard has no second copies of these",
                standing.epoch,
            )

    # What the store asks.

    def left(self, scope: Scope, key: bytes, why: int) -> None:
        """See `Guard.left`. Who deletes a chunk tells the second himself, if he goes by the map that we go by."""
        told = why == EventKind.DELETED and (scope.tenant, scope.namespace, key) not in self._untold
        if self._keeps_two_of(scope) and self._leavings.left(scope, key, bars=not told):
            self._background.soon()

    def bars(self, scope: Scope, key: bytes) -> bool:
        """See `Guard.bars`."""
        return self._keeps_two_of(scope) and self._leavings.bars(scope, key)

    def catalog_changed(self, before: Catalog | None, catalog: Catalog) -> None:
        """Another catalog is in force. Where there are more copies than there were, none of before counts."""
        self._keeps_two = self.counts_gets or _has_two(catalog)
        self._service.store.guarded_by(self if self._keeps_two else None)
        if before is not None and self._keeps_two and _has_more(before, catalog):
            self._puller.begins(None)
            self._leavings.begin_anew()
        self._background.soon()

    def _second_of(self, scope: Scope, key: bytes) -> bytes | None:
        return self._share.second_of(scope, key)

    def _keeps_two_of(self, scope: Scope) -> bool:
        """Whether chunks of a scope may have two copies."""
        catalog = self._service.catalog
        if catalog is None or self.counts_gets:
            return self.counts_gets
        tenant, namespace = catalog.tenant(scope.tenant), catalog.namespaces.get(scope.namespace)
        return tenant is not None and namespace is not None and copies_of(tenant, namespace) > 1

    def numbers(self) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        return {
            **self._offers.numbers(),
            **(self._leavings.numbers() if self._keeps_two else NOTHING_LEFT),
            "pod_popular_chunks": len(self._shared),
            "pod_popular_bytes": self._kept_bytes,
            "pod_popular_refused": self._refused,
        }

    async def stop(self) -> None:
        """Tell nobody of anything any more."""
        await self._background.stop(STOP_S)

    # Within.

    def _offer(self, scope: Scope, keys: Sequence[bytes]) -> None:
        second_of = self._standing.second_of
        own = [key for key in keys if second_of(scope, key) is not None]
        if own:
            self._offers.add(scope, own, self._service.now())
            self._background.soon()

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
            self._background.soon()

    def _next(self) -> Work | None:
        now = self._service.now()
        offer = self._offers.next(now)
        if offer is not None:
            return self._tell(offer)
        farewell = self._leavings.next(now) if self._keeps_two else None
        return None if farewell is None else self._tell_left(farewell)

    def _wait_s(self) -> float | None:
        now = self._service.now()
        waits = [self._offers.wait_s(now), self._leavings.wait_s(now) if self._keeps_two else None]
        return min([wait_s for wait_s in waits if wait_s is not None], default=None)

    async def _tell(self, offer: offers.Offer) -> None:
        service = self._service
        keys, lengths = offer.keys, [0] * len(offer.keys)
        if offer.popular:
            infos = [service.store.info(offer.scope, key) for key in keys]
            lengths = [0 if info is None else info.length for info in infos]
        lives_ms = int(POPULAR_LIVES_S * 1000) if offer.popular else 0
        told = OfferChunks(offer.scope, keys, lives_ms, lengths if offer.popular else ())
        heard = await self._ask(offer.second, told)
        if heard and offer.popular:
            self._heard(offer, told.there)
        self._offers.ended(offer, service.now(), failed=not heard)
        self._background.soon()

    async def _tell_left(self, farewell: Farewell) -> None:
        told = OfferChunks(farewell.scope or NOWHERE, (), gone=farewell.keys, anew=farewell.anew)
        heard = await self._ask(farewell.second, told)
        self._leavings.ended(farewell, self._service.now(), failed=not heard)
        self._background.soon()

    async def _ask(self, second: bytes, told: OfferChunks) -> bool:
        """Whether the other has heard, or has no second copies at all."""
        heard = False
        try:
            await self._peers.offer(second, told)
            heard = True
        except Unsupported:
            heard = not told.keys  # it gives none of what it has
        except MezzoError as error:
            log.debug("a second could not be told", second=second.hex(), reason=str(error))
        except Exception:  # a fault of ours must be seen, and must not end what tells others
            log.exception("a fault while a second was told of chunks")
        finally:
            told.error = None  # it holds our frame by its traceback: no cycle
        return heard

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


def _has_two(catalog: Catalog) -> bool:
    two = any(each.copies > 1 for each in catalog.tenants.values())
    return two or any(each.copies > 1 for each in catalog.namespaces.values())


def _has_more(before: Catalog, catalog: Catalog) -> bool:
    """Whether more copies are kept of somebody's chunks than before."""
    tenants = before.tenants
    if any(each.id in tenants and tenants[each.id].copies < each.copies for each in catalog.tenants.values()):
        return True
    for each in catalog.namespaces.values():
        was, tenant = before.namespaces.get(each.id), catalog.tenants.get(each.tenant_id)
        if was is None or was is each or tenant is None:
            continue
        if copies_of(tenant, was) < copies_of(tenant, each):
            return True
    return False


def _nothing() -> None:
    pass


def none_given(keys: Sequence[bytes], kinds: Sequence[int]) -> Sequence[bytes]:
    """As `SecondCopies.given`, of chunks that have no second copies: what there is of others' slots is from another time.

    ``kinds``: as `Standing.check` tells them. Who asks for such a one goes by an older map, by which this shard was the owner, and
    the owner may have other bytes by now.
    """
    if SECOND not in kinds:
        return keys
    return [NO_KEY if kind == SECOND else key for key, kind in zip(keys, kinds, strict=True)]


def offer(session: Session, request_id: int, body: Offer) -> None:
    """OFFER: another shard of the pod tells of chunks that this one is to have a second copy of. Raises MezzoError."""
    copies, guest = session.service.copies, session.guest
    if copies is None or guest is None:
        raise InvalidArgument("no second copies are kept here")
    if body.anew:
        copies.begins(guest.peer)
    told = copies.offered(guest.peer, body)
    copies.let_go(guest.peer, body, lambda: session.send(Kind.OFFERED, request_id, told))
