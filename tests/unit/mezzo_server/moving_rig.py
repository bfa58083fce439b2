"""Two shards of a pod in one thread and in injected time, the second of which moves chunks from the first."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mezzo.errors import MezzoError, Unavailable, from_code
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo.protocol.messages import (
    EPOCH_VERSION,
    Delete,
    Deleted,
    ErrorReply,
    GetData,
    Kind,
    LookedUp,
    Lookup,
    Pulled,
)
from mezzo_server.access.peers import GOOD_S, PeerCredential, PeerDoor, PeerKey
from mezzo_server.access.principal import ALL_SCOPES, Principal
from mezzo_server.blockstore.api import Scope
from mezzo_server.config import Limits
from mezzo_server.pod.moving import Moves
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import Share, Situation, Standing
from mezzo_server.shard.admission import NEEDS, PEERS, Guest, OpenAdmission, mask_of
from mezzo_server.shard.peer_admission import Known, PeerAdmission
from mezzo_server.shard.peer_operations import PullChunks
from mezzo_server.shard.puller import Puller
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Namespace, Tenant
from tests.unit.mezzo_server.shard_harness import MIB, Clock, FakeClient, Shard, data_of, put_tcp

POD = bytes(range(16))
TENANT, OTHER_TENANT = b"t" * 16, b"o" * 16
NAMESPACE, OTHER_NAMESPACE = b"n" * 16, b"m" * 16
SCOPE = Scope(TENANT, NAMESPACE)
LOG2 = 4
UNIX_S = 1_700_000_000
RATE = 4 << 20


def catalog(tenant: Tenant | None = None, namespace: Namespace | None = None) -> Catalog:
    tenants = {
        TENANT: tenant or Tenant(id=TENANT, name="t"),
        OTHER_TENANT: Tenant(id=OTHER_TENANT, name="o"),
    }
    namespaces = {
        NAMESPACE: namespace or Namespace(id=NAMESPACE, tenant_id=TENANT, name="default"),
        OTHER_NAMESPACE: Namespace(id=OTHER_NAMESPACE, tenant_id=OTHER_TENANT, name="default"),
    }
    return Catalog(
        revision=1,
        tenants=tenants,
        namespaces=namespaces,
        tenant_ids={each.name: each.id for each in tenants.values()},
        namespace_ids={(each.tenant_id, each.name): each.id for each in namespaces.values()},
    )


class Everybody(OpenAdmission):
    """A ticket is a tenant's id."""

    def admit(self, ticket: bytes) -> Guest:
        return Guest(Principal(ticket, "", ALL_SCOPES, ""), math.inf, mask_of(NEEDS.keys() - PEERS))


class Registered:
    """Member records, told at once or when the test says so."""

    def __init__(self) -> None:
        self.records: dict[bytes, MemberRecord | MezzoError | None] = {}
        self.looks: list[bytes] = []

    def look(self, shard: bytes, fresh_s: float, told: Known, *, unproven: bool = False) -> None:
        self.looks.append(shard)
        told(self.records.get(shard))


class Loop(asyncio.SelectorEventLoop):
    """An event loop that goes by the shards' clock."""

    def __init__(self, clock: Clock) -> None:
        self._shards_clock = clock
        super().__init__()

    def time(self) -> float:
        return self._shards_clock()


class Member:
    """A shard of the pod: what it says of itself, where it stands, what moves to it."""

    def __init__(self, number: int, registered: Registered, clock: Clock, loop: Loop) -> None:
        self.shard = Shard(
            device_bytes=72 * MIB,
            limits=Limits(
                staging_bytes=16 * MIB, staging_connection_bytes_max=8 * MIB, chunk_bytes_max=4 * MIB
            ),
            incarnation=bytes([number]) * 16,
            clock=clock,
        )
        self.id = self.shard.store.store_id
        self.key = PeerKey(bytes([number]) * 32)
        self.registered = registered
        service = self.shard.service
        self.standing = service.standing = Standing(clock, clock)
        service.admission = Everybody()
        service.catalog_is(catalog())
        self.door = PeerDoor(self.id, service.incarnation)
        service.door = PeerAdmission(service, self.door, registered, self.standing, lambda: UNIX_S)
        self.moves = Moves(RATE, lambda: 0.5, clock())
        self.peers = Peers(self)
        self.puller = service.puller = Puller(service, self.standing, self.moves, self.peers, RATE, loop)
        self.registers()

    def registers(self) -> None:
        incarnation = self.shard.service.incarnation
        self.registered.records[self.id] = MemberRecord(
            "n", "", (), 1 << 30, incarnation, public=self.key.public
        )

    def client(self, tenant: bytes = TENANT) -> FakeClient:
        return self.shard.client(ticket=tenant, version=EPOCH_VERSION)

    def credential(self, to: Member, **changed: object) -> bytes:
        said = {
            "pod": POD,
            "target": to.id,
            "target_incarnation": to.shard.service.incarnation,
            "nonce": self.peers.nonce(),
            "issued_s": UNIX_S,
            "expires_s": UNIX_S + GOOD_S,
            **changed,
        }
        return self.key.sign(self.id, PeerCredential(**said))  # type: ignore[arg-type]

    def numbers(self) -> dict[str, float]:
        return {name: value for name, value in self.puller.numbers().items() if value}


class Peers:
    """Pulls over a connection to the other shard that is a list of frames."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.others: dict[bytes, Member] = {}
        self.links: dict[bytes, FakeClient] = {}
        self.hold: Callable[[bool], bool] = lambda with_bytes: False
        """whether a pull that wants bytes, or only what there is, does not come to its end yet"""
        self.error: MezzoError | None = None
        self.spoil = False
        self.asked: list[tuple[bool, list[bytes]]] = []
        self._nonces = 0

    def nonce(self) -> bytes:
        self._nonces += 1
        return self._nonces.to_bytes(16, "big")

    def link(self, other: Member) -> FakeClient:
        link = self.links.get(other.id)
        if link is None:
            link = FakeClient(other.shard, shm=False)
            other.shard.clients.append(link)
            link.hello("default", self._member.credential(other))
            self.links[other.id] = link
        return link

    async def pull(self, shard: bytes, operation: PullChunks) -> None:
        other = self.others.get(shard)
        self.asked.append((bool(operation.places), list(operation.keys)))
        if other is None:
            raise Unavailable("there is no such shard")
        if self.error is not None:
            raise self.error
        link = self.link(other)
        request = link.start(Kind.PULL, operation.body(0))
        other.shard.settle()
        for _ in range(100_000):
            if not self.hold(bool(operation.places)):
                break
            await asyncio.sleep(0.01)
        try:
            for frame in [frame for frame in link.frames if frame.request_id == request]:
                self._receive(link, request, operation, frame.body)
        except MezzoError as error:
            operation.error = error
        operation.end()
        if operation.error is not None:
            raise operation.error

    def _receive(self, link: FakeClient, request: int, operation: PullChunks, body: object) -> None:
        if isinstance(body, GetData):
            data = bytearray(link.payloads[request, body.index])
            if self.spoil:
                data[-1] ^= 1
            sink = operation.receive_data(body, len(data))
            sink.views[0][:] = data
            sink.finish()
        elif isinstance(body, ErrorReply):
            raise from_code(body.code, body.message, body.retry_after_ms / 1000, body.epoch)
        elif isinstance(body, Pulled):
            operation.answer(body)

    async def close(self) -> None:
        for link in self.links.values():
            link.close()


class Pair:
    """``old`` had the slots that ``new`` owns."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.registered = Registered()
        self.old = Member(1, self.registered, self.clock, self.loop)
        self.new = Member(2, self.registered, self.clock, self.loop)
        for one, other in ((self.old, self.new), (self.new, self.old)):
            one.peers.others[other.id] = other
        self.follow(3, owner=0)

    def pod_map(self, epoch: int, owner: int, before: int | None = None) -> PodMap:
        places = [ShardPlace(each.id, f"n{n}", "", (), 1) for n, each in enumerate((self.old, self.new))]
        previous = {} if before is None else dict.fromkeys(range(1 << LOG2), before)
        return PodMap(POD, epoch, LOG2, places, [owner] * (1 << LOG2), previous)

    def follow(self, epoch: int, owner: int, before: int | None = None, *who: Member) -> None:
        """The map of this epoch says that all slots are of 0 (the old) or 1 (the new) shard."""
        for each in who or (self.old, self.new):
            share = Share.of(self.pod_map(epoch, owner, before), each.id)
            each.standing.take(Situation(share, self.clock.now + 10_000))
            each.puller.standing_changed()

    def moves(self) -> None:
        """The slots are the new shard's from now on, and the old is asked still."""
        self.follow(4, 1, 0)

    def put(self, *keys: bytes, length: int = 5000, **more: object) -> None:
        """At the old shard, before anything moved."""
        client = self.old.client()
        chunks = {key: data_of(key, length) for key in keys}
        assert put_tcp(client, chunks, **more).stored_count == len(keys)
        client.close()

    def step(self, count: int = 1, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.clock.now += seconds
            self.loop.run_until_complete(asyncio.sleep(0))
            self.old.shard.settle()
            self.new.shard.settle()

    def settle(self, seconds: float = 0.05) -> None:
        """Until nothing is wanted any more; so much time passes with each step."""
        for _ in range(4000):
            self.step(1, seconds)
            numbers = self.new.numbers()
            if not numbers.get("pod_moves_queued") and not numbers.get("pod_moves_in_flight"):
                self.step(3)
                return
        raise AssertionError(f"it never settles: {self.new.numbers()}")

    def has(self, member: Member, *keys: bytes) -> int:
        return sum(member.shard.store.prefix(SCOPE, (key,))[0] for key in keys)

    def look(self, client: FakeClient, *keys: bytes) -> int:
        return client.ask(Kind.LOOKUP, Lookup(list(keys)), LookedUp).prefix

    def delete(self, client: FakeClient, *keys: bytes) -> int:
        return client.ask(Kind.DELETE, Delete(list(keys)), Deleted).count


@contextmanager
def a_pair() -> Iterator[Pair]:
    """Nobody holds anything when it has ended."""
    pair = Pair()
    try:
        yield pair
        stopping = pair.loop.create_task(pair.new.puller.stop())
        for _ in range(1000):
            pair.step(1, 0.05)
            if stopping.done():
                break
        pair.loop.run_until_complete(asyncio.wait_for(pair.old.puller.stop(), 5))
        for member in (pair.old, pair.new):
            for client in member.shard.clients:
                client.close()
            member.shard.settle()
        assert stopping.done()
        assert pair.new.shard.idle()
        assert pair.old.shard.idle()
        for member in (pair.old, pair.new):
            member.shard.close()
    finally:
        pair.loop.close()


def refusal_of(shard: Member, credential: bytes) -> MezzoError | None:
    """What another shard is told that shows this; None: it is let in."""
    link = FakeClient(shard.shard, shm=False)
    shard.shard.clients.append(link)
    try:
        link.hello("default", credential)
    except MezzoError as error:
        return error
    except AssertionError:  # there is no answer but a refusal
        return link.refused
    return None
