"""Two shards of a pod of which one has second copies of the other's chunks, in one thread and in injected time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mezzo.errors import MezzoError
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import Get, Got, Kind, Offer, Offered
from mezzo_server.pod.heat import WINDOW_S, Heat
from mezzo_server.pod.standing import Share, Situation
from mezzo_server.shard.copies import SecondCopies
from mezzo_server.shard.peer_operations import OfferChunks
from mezzo_server.tenancy.model import Tenant
from tests.unit.mezzo_server.moving_rig import LOG2, POD, TENANT, Member, Pair, a_pair, catalog
from tests.unit.mezzo_server.shard_harness import FakeClient, data_of, put_tcp

KEYS = [b"chunk-%d" % number for number in range(6)]
RATE = 2.0


class OfferPeers:
    """Offers over the connections of a rig's peers."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.error: MezzoError | None = None
        self.told: list[list[bytes]] = []

    async def offer(self, shard: bytes, operation: OfferChunks) -> None:
        if self.error is not None:
            raise self.error
        other = self._member.peers.others[shard]
        body = operation.body(0)
        assert isinstance(body, Offer)
        if body.keys:
            self.told.append(list(body.keys))
        answer = self._member.peers.link(other).ask(Kind.OFFER, body, Offered)
        operation.answer(answer)


class Copies:
    """``old`` owns all slots, and ``new`` is their second."""

    def __init__(
        self, pair: Pair, *, copies: int = 2, gets_per_s: float = RATE, popular_bytes: int = 0
    ) -> None:
        self.pair = pair
        self.owner, self.second = pair.old, pair.new
        self.peers = OfferPeers(self.owner)
        self._popular = gets_per_s, popular_bytes
        for member in (pair.old, pair.new):
            self.begin(member)
        self.catalog(copies)
        self.follow(4)
        self.settle()

    def begin(self, member: Member) -> None:
        """Nothing is known of what another life of the shard told."""
        service, (gets_per_s, popular_bytes) = member.shard.service, self._popular
        heat = Heat(gets_per_s, lambda: 0.5, self.pair.clock()) if gets_per_s else None
        peers = self.peers if member is self.owner else OfferPeers(member)
        service.copies = SecondCopies(
            service, member.standing, member.puller, peers, heat, popular_bytes, lambda: 0.5, self.pair.loop
        )

    def catalog(self, copies: int) -> None:
        for member in (self.owner, self.second):
            member.shard.service.catalog_is(catalog(Tenant(id=TENANT, name="t", copies=copies), None))

    def follow(
        self,
        epoch: int,
        owner: int = 0,
        second: int = 1,
        before: int | None = None,
        *,
        one_node: bool = False,
    ) -> None:
        """A map: 0 is the old shard, 1 the new, and 2 one that nobody reaches."""
        both = (self.pair.old, self.pair.new)
        places = [ShardPlace(each.id, "n" if one_node else f"n{n}", "", (), 1) for n, each in enumerate(both)]
        places.append(ShardPlace(bytes(16), "elsewhere", "", (), 1))
        slots = 1 << LOG2
        previous = {} if before is None else dict.fromkeys(range(slots), before)
        pod_map = PodMap(POD, epoch, LOG2, places, [owner] * slots, previous, [second] * slots)
        for each in both:
            share = Share.of(pod_map, each.id, each.standing.share)
            each.standing.take(Situation(share, self.pair.clock.now + 10_000))
            each.puller.standing_changed()
            assert each.shard.service.copies is not None
            each.shard.service.copies.standing_changed()

    def put(self, *keys: bytes, client: FakeClient | None = None, length: int = 5000, **more: object) -> None:
        own = client or self.owner.client()
        put_tcp(own, {key: data_of(key, length) for key in keys}, **more)
        if client is None:
            own.close()

    def settle(self) -> None:
        self.pair.step(5)
        self.pair.settle()
        self.pair.step(5)

    def read(self, client: FakeClient, key: bytes, times: int) -> None:
        """A window's worth of gets, and the tick at its end."""
        for _ in range(times):
            client.ask(Kind.GET, Get([key]), Got)
        self.pair.clock.now += WINDOW_S
        self.tick()

    def tick(self) -> None:
        for member in (self.owner, self.second):  # a shard's credential is good for a minute
            for link in member.peers.links.values():
                link.close()
            member.peers.links.clear()
        for member in (self.owner, self.second):
            member.shard.service.tick()
        self.settle()

    def hint(self, client: FakeClient, key: bytes) -> bool:
        popular = client.ask(Kind.GET, Get([key]), Got).popular
        return bool(popular) and unpack(popular, 1)[0]

    def numbers(self, member: Member) -> dict[str, float]:
        copies = member.shard.service.copies
        assert copies is not None
        return {name: value for name, value in copies.numbers().items() if value}

    def has(self, *keys: bytes) -> int:
        return self.pair.has(self.second, *keys)


@contextmanager
def two(**more: object) -> Iterator[Copies]:
    with a_pair() as pair:
        both = Copies(pair, **more)  # type: ignore[arg-type]
        yield both
        for member in (pair.old, pair.new):
            copies = member.shard.service.copies
            assert copies is not None
            pair.loop.run_until_complete(copies.stop())
