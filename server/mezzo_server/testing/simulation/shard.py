"""A simulated shard: the real service, store and membership, in lives that begin, crash, lose power and end well.

Two processes, as the threads of a real one: the loop, which serves, and the one that follows the pod.  What outlives
them is the device.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

from mezzo.tls import TLS
from mezzo_server.access.peers import PeerDoor, PeerKey
from mezzo_server.access.tickets import SEED_BYTES
from mezzo_server.blockstore.devices.faults import Fault
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.blockstore.options import Durability, StoreOptions
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.pod.handover import Handover
from mezzo_server.pod.heat import Heat
from mezzo_server.pod.membership import Membership
from mezzo_server.pod.moving import Moves, Why
from mezzo_server.pod.records import MemberRecord
from mezzo_server.pod.standing import NEVER, Situation, Standing
from mezzo_server.quota.accounts import Accounts
from mezzo_server.quota.part import NEWCOMER
from mezzo_server.shard.admission import TicketAdmission
from mezzo_server.shard.copies import SecondCopies
from mezzo_server.shard.peer_admission import PeerAdmission
from mezzo_server.shard.peers import PeerWays
from mezzo_server.shard.puller import Puller
from mezzo_server.shard.service import Service
from mezzo_server.staging import StagingPool
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.following import Following
from mezzo_server.tenancy.standing import standing_of
from mezzo_server.testing.simulation.caps import Caps
from mezzo_server.testing.simulation.catalog import POD, Follower, first_catalog
from mezzo_server.testing.simulation.client import surroundings
from mezzo_server.testing.simulation.clockwork import Clockwork, Process
from mezzo_server.testing.simulation.connection import Connection, Watcher
from mezzo_server.testing.simulation.device import TimedDevice
from mezzo_server.testing.simulation.limits import (
    CHUNK_BYTES_MAX,
    LIMITS,
    PUTS_WAITING_BYTES_MAX,
    STORE_STAGING_BYTES,
)
from mezzo_server.testing.simulation.metadata import Driver, FarEngine, Metadata
from mezzo_server.testing.simulation.network import End, Host, Network
from mezzo_server.testing.simulation.peering import Members
from mezzo_server.testing.simulation.virtual_loop import VirtualLoop
from mezzo_server.workers import InlineWorkers

SEGMENT_BYTES = 256 << 10
TICK_S, TICK_IDLE_S = 0.05, 0.5
START_S = 0.3
WAIT_S = 0.5
"""between two attempts to read the metadata, for the first time"""
HANDED_OVER_S = 0.05
MOVE_BYTES_PER_S = 4 << 20
POPULAR_BYTES = 256 << 10


class Life:
    """One run of a shard's processes. Owner of all that is in its memory."""

    def __init__(self, shard: Shard, number: int, following: Following, catalog: Catalog) -> None:
        """``following`` has loaded ``catalog``."""
        clockwork = shard.clockwork
        self._shard = shard
        self._random = random.Random(f"{shard.seed}/{shard.name}/{number}")
        rate = 1.0 + shard.random.uniform(-0.0005, 0.0005)
        clocks = {"rate": rate, "offset": 1000.0 + shard.random.random() * 1e4, "wall": shard.wall_off_s}
        self.loop = Process(clockwork, f"{shard.name}.{number}", **clocks)
        self.thread = Process(clockwork, f"{shard.name}.{number}p", **clocks)
        self.loop.now = self.thread.now = shard.boot_s  # type: ignore[method-assign]
        self._pumping = False
        # True time: by a clock of ours that is slow the store would look a little too early, and not again.
        self.device = TimedDevice(shard.device, lambda: clockwork.now, self._pump_in, self._random)
        self.device.slowness = shard.slowness
        self.staging = StagingPool(LIMITS.staging_bytes, wait_s=LIMITS.staging_wait_s, now=self.loop.now)
        self.store_staging = StagingPool(shard.options.staging_bytes, now=self.loop.now)
        self.store = BlockStore.open(
            [self.device],
            InlineWorkers(),
            self.store_staging,
            shard.options,
            now=self.loop.now,
            entropy=self._random.randbytes,
            standing=standing_of(catalog),
        )
        self.device.timed = True
        incarnation = hashlib.blake2b(f"{shard.seed}{shard.name}{number}".encode(), digest_size=16).digest()
        self.service = Service(
            self.store,
            self.staging,
            LIMITS,
            block_bytes=4096,
            incarnation=incarnation,
            now=self.loop.now,
            poke=self.poke,
            accounts=Accounts(self.loop.now, part=NEWCOMER),
            one_of_several=True,
        )
        self.service.admission = TicketAdmission(
            lambda: self.service.catalog,
            pod=POD,
            anonymous=None,
            now=self.loop.now,
            now_s=self.loop.wall_s,
        )
        self.service.catalog_is(catalog)
        self.watcher: Watcher = shard.watcher
        self.standing = Standing(self.loop.now, self.loop.now)
        self.service.standing = self.standing
        self.id = self.store.store_id
        key = PeerKey(self._random.randbytes(SEED_BYTES))
        record = MemberRecord(
            shard.host.name,
            "",
            (shard.address,),
            self.store.capacity_bytes,
            incarnation,
            public=key.public,
        )
        self.membership = Membership(self.id, record, shard.lease_s, self._random.random)
        self.connections: dict[int, Connection] = {}
        self._accepted = 0
        self._handed = Situation()
        self._renewed_at = NEVER
        self._said = (0, False)
        self.stopping = self._gone = self._closed = False
        self._handover: Handover | None = None
        engine = FarEngine(shard.metadata, self.thread, shard.host)
        self.driver = Driver(self.thread, self.membership, engine, self._moved)
        follower = Follower(
            self.thread, FarEngine(shard.metadata, self.thread, shard.host), following, self._heard
        )
        self.service.directory.look = lambda done: follower.look(partial(self.loop.soon, done))
        self.virtual_loop = VirtualLoop(self.loop)  # type: ignore[abstract]
        self._move(key, incarnation)
        shard.network.listen(shard.address, self.loop, shard.host, self._accept)
        self._tick()

    def _move(self, key: PeerKey, incarnation: bytes) -> None:
        """Let chunks move from and to other shards."""
        shard, service, standing = self._shard, self.service, self.standing
        members = Members(self.loop, FarEngine(shard.metadata, self.loop, shard.host))
        door = PeerDoor(self.id, incarnation)
        service.door = PeerAdmission(service, door, members, standing, self.loop.wall_s)
        around = surroundings(self.loop, self.virtual_loop, shard.host, shard.network, self._random.random)
        ways = PeerWays(
            self.id,
            key,
            members,
            standing,
            TLS(),
            self.loop.now,
            shard.host.name,
            surroundings=around,
            wall_s=self.loop.wall_s,
            entropy=self._random.randbytes,
        )
        forgotten_max = shard.forgotten_keys_max
        moves = Moves(
            MOVE_BYTES_PER_S,
            self._random.random,
            service.now(),
            queue_keys_max=shard.moves_queued_max,
            forgotten_keys_max=forgotten_max,
        )
        service.puller = Puller(service, standing, moves, ways, MOVE_BYTES_PER_S, self.virtual_loop)
        heat = None
        if shard.popular_gets_per_s:
            heat = Heat(shard.popular_gets_per_s, self._random.random, service.now())
        service.copies = SecondCopies(
            service,
            standing,
            service.puller,
            ways,
            heat,
            POPULAR_BYTES,
            self._random.random,
            self.virtual_loop,
        )
        self.loop.look = Caps(shard.name, service, moves, shard.moves_queued_max, forgotten_max).check

    # -- what its parts ask

    def poke(self) -> None:
        """Work was queued in the store."""
        if not self._pumping:
            self._pumping = True
            self.loop.soon(self._pump)

    def later(self, step: Callable[[], None]) -> None:
        """See `connection.Turns`."""
        self.loop.soon(step)

    def forget(self, connection: Connection) -> None:
        """See `connection.Turns`."""
        self.connections.pop(connection.number, None)

    @property
    def moved(self) -> dict[Why, int]:
        """Chunks that came from other shards, by what they were wanted for."""
        puller = self.service.puller
        return (
            {} if puller is None else {why: int(puller.numbers()[f"pod_moved_chunks_{why}"]) for why in Why}
        )

    # -- ends

    def end(self) -> None:
        """The processes are gone, with all they had."""
        self._shard.moved_before.update(self.moved)
        self.loop.end()
        self.thread.end()
        self._shard.network.ended(self.loop)

    def stop(self) -> None:
        """A clean stop: hand the slots over, then serve nothing, give the membership up, close the store."""
        self.stopping = True
        self._handover = Handover(self.standing.share, self.loop.now())
        self.driver.call(self.membership.retire)
        self._go_when_handed_over()

    def _go_when_handed_over(self) -> None:
        standing, handover = self.standing, self._handover
        if handover is not None and not handover.is_over(standing.share, standing.serving, self.loop.now()):
            self.loop.after(HANDED_OVER_S, self._go_when_handed_over)
            return
        self._gone = True
        self.standing.end()
        self.driver.call(self.membership.leave)
        for connection in list(self.connections.values()):
            connection.shut_down()
        self.loop.after(0.2, self._close)

    def _close(self) -> None:
        # The tick goes on meanwhile: what a pull has begun may wait for space, and is waited for here.
        stopping = self.virtual_loop.create_task(self._stop_moving())
        stopping.add_done_callback(lambda _: self._close_store())

    async def _stop_moving(self) -> None:
        if self.service.copies is not None:
            await self.service.copies.stop()
        if self.service.puller is not None:
            await self.service.puller.stop()

    def _close_store(self) -> None:
        for connection in list(self.connections.values()):
            connection.close()
        self._closed = True
        self.device.timed = False
        self.store.close()
        self.device.timed = True
        self._wait_for_end(30)

    def _wait_for_end(self, tries: int) -> None:
        if self.driver.ended or not tries:
            self._shard.ended_well(self)
        else:
            self.loop.after(0.1, self._wait_for_end, tries - 1)

    # -- in the loop

    def _accept(self, end: End) -> None:
        if self._gone:
            end.close()
            return
        self._accepted += 1
        self.connections[self._accepted] = Connection(self, end, self._accepted)

    def _pump_in(self, seconds: float) -> None:
        self.loop.after(seconds, self._pump_now)

    def _pump(self) -> None:
        self._pumping = False
        self._pump_now()

    def _pump_now(self) -> None:
        self.store.pump()
        if self.store.eager:
            self.poke()

    def _tick(self) -> None:
        if self._closed:
            return
        store = self.store
        store.tick()
        self.poke()
        self.service.tick()
        now = self.loop.now()
        for connection in list(self.connections.values()):
            connection.check_time(now)
        self.loop.after(TICK_S if store.busy else TICK_IDLE_S, self._tick)

    def _take(self, situation: Situation) -> None:
        self.standing.take(situation)
        epoch = situation.share.epoch
        if self.service.puller is not None and (epoch != self._said[0] or not self.standing.serving):
            self.service.puller.standing_changed()
            if self.service.copies is not None:
                self.service.copies.standing_changed()
        said = epoch, self.standing.serving
        if said != self._said:
            self._said = said
            self._shard.say(f"follows epoch {epoch}" if said[1] else f"serves nothing: {situation.reason}")
        self.driver.call(lambda: self.membership.followed(epoch))
        part, accounts = situation.part, self.service.accounts
        if situation.until != NEVER and part is not accounts.part:
            accounts.part_is(part, lambda: self.driver.call(lambda: self.membership.enforces(part.mark)))
        self._shard.on_follow()

    def _catalog(self, catalog: Catalog) -> None:
        if not self._closed:
            self.service.catalog_is(catalog)
            self._shard.on_follow()

    def _alive(self) -> None:
        now = self.loop.now()
        self.driver.call(lambda: self.membership.heard(now))

    # -- in the thread that follows the pod

    def _heard(self, catalog: Catalog) -> None:
        self.loop.soon(self._catalog, catalog)

    def _moved(self) -> None:
        membership = self.membership
        if membership.renewed_at != self._renewed_at:
            self._renewed_at = membership.renewed_at
            self.loop.soon(self._alive)
        situation = membership.situation
        if situation != self._handed:
            self._handed = situation
            self.loop.soon(partial(self._take, situation))


class Shard:
    """What stays of a shard from life to life. Owner of its device."""

    def __init__(
        self,
        name: str,
        clockwork: Clockwork,
        network: Network,
        metadata: Metadata,
        *,
        seed: str,
        lease_s: float,
        segments: int,
        durability: Durability,
        popular_gets_per_s: float,
    ) -> None:
        self.name = name
        self.seed = seed
        self.clockwork = clockwork
        self.network = network
        self.metadata = metadata
        self.watcher: Watcher
        self.lease_s = lease_s
        self.popular_gets_per_s = popular_gets_per_s
        self.host = Host(name)
        self.address = f"tcp://{name}:7700"
        self.random = random.Random(f"{seed}/{name}")
        self.wall_off_s = self.random.uniform(-0.05, 0.05)
        self.slowness = 1.0
        self.moves_queued_max = self.random.choice((4, 1000))
        self.forgotten_keys_max = self.random.choice((8, 1000))
        self.options = StoreOptions(
            durability=durability,
            chunk_bytes_max=CHUNK_BYTES_MAX,
            segment_bytes=SEGMENT_BYTES,
            staging_bytes=STORE_STAGING_BYTES,
            put_wait_s=2.0,
            scrub_bytes_per_s=0,
            waiting_bytes_max=PUTS_WAITING_BYTES_MAX,
            open_segments_max=2,
        )
        size = DATA_OFFSET + segments * SEGMENT_BYTES
        self.device = FaultyDevice(size, seed=self.random.getrandbits(32), name=name)
        self.life: Life | None = None
        self.lives = 0
        self.id = b""
        self.moved_before: Counter[Why] = Counter()
        """chunks that came from other shards, in former lives"""
        self.wanted = True
        """whether it is to be started again"""
        self.left = False
        self.on_start: Callable[[Shard], None] = lambda shard: None
        self.on_follow: Callable[[], None] = lambda: None
        self._boot_rate = 1.0 + self.random.uniform(-0.0005, 0.0005)
        self._boot_offset = self.random.random() * 1e5

    def boot_s(self) -> float:
        """The machine's clock that never jumps: the same for all of its processes."""
        return self._boot_offset + self.clockwork.now * self._boot_rate

    @property
    def moved(self) -> Counter[Why]:
        """Chunks that came from other shards, in all lives, by what they were wanted for."""
        return self.moved_before + Counter({} if self.life is None else self.life.moved)

    def say(self, what: str) -> None:
        """A line of the trace."""
        self.clockwork.trace.add(self.clockwork.now, self.name, what)

    def start(self) -> None:
        """Begin another life, unless there is one."""
        if self.life is not None or not self.wanted or not self.host.up:
            return
        if not self.metadata.reached_from(self.host):
            self.start_later(WAIT_S)  # without tenants nothing is served
            return
        following = Following(lambda key, why: None, self.random.random)
        catalog = first_catalog(self.metadata, following, self.boot_s())
        if catalog is None:
            raise RuntimeError("no tenants are there")
        self.lives += 1
        self.life = Life(self, self.lives, following, catalog)
        self.id = self.life.id
        self.say(f"life {self.lives}: {self.life.store.report().chunks} chunks")
        self.on_start(self)

    def start_later(self, seconds: float = START_S) -> None:
        """As a supervisor does it."""
        self.clockwork.after(seconds, self.start)

    def kill(self, faults: Iterable[Fault] = ()) -> None:
        """SIGKILL."""
        life, self.life = self.life, None
        if life is not None:
            self.say("killed")
            life.end()
            self.device = life.device.kill(faults)

    def cut_power(self, faults: Iterable[Fault] = ()) -> None:
        """The host loses power, and with it what was not flushed."""
        life, self.life = self.life, None
        self.say("power cut")
        self.host.up = False
        if life is not None:
            life.end()
            self.device = life.device.power_cut(faults)
        else:
            self.device = self.device.power_cut(faults=faults)

    def power_on(self) -> None:
        """The host is there again; its shard starts a moment later."""
        self.host.up = True
        self.network.flow()
        self.start_later()

    def stop(self, *, for_good: bool = False) -> None:
        """A clean stop."""
        if for_good:
            self.wanted, self.left = False, True
        if self.life is not None and not self.life.stopping:
            self.say("stops")
            self.life.stop()

    def lie(self, faults: Iterable[Fault]) -> None:
        """From now on the device does what these say."""
        self.device.strike(faults)

    def be_honest(self) -> None:
        """The device does what it is told, from now on."""
        self.device.strike(())

    def ended_well(self, life: Life) -> None:
        """A life has come to its end by itself."""
        if self.life is life:
            self.life = None
            life.end()
            self.device = life.device.kill()
            self.say("has stopped")
            if self.wanted:
                self.start_later()
