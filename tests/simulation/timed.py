"""A shard in virtual time, whose device and worker threads have a bandwidth, under the load of several tenants.

The real block store, service and sessions; frames go in and out of them without sockets.  A request takes no
time but what the device, the workers, the scheduling and the quotas make of it, so that what is measured is fairness.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import Body, ErrorReply, Get, Kind, Put
from mezzo_server.blockstore.api import Scope
from mezzo_server.blockstore.io import Job
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.schedule import Schedule
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.config import Limits
from mezzo_server.hot.arena import AnonymousArena
from mezzo_server.hot.tier import HotTier
from mezzo_server.quota.accounts import Accounts
from mezzo_server.shard.charging import Meter
from mezzo_server.shard.service import Service
from mezzo_server.staging import StagingPool
from mezzo_server.tenancy.model import Quota, Tenant
from mezzo_server.workers import InlineWorkers
from tests.simulation.timed_device import TimedDevice
from tests.unit.mezzo_server.shard_harness import FakeClient

MIB = 1 << 20
TICK_S = 0.02


class TimedWorkers(InlineWorkers):
    """Threads that do one job after the other at a rate, and in the order in which they were given them."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self.bytes_per_s = float("inf")
        self._free_at = 0.0
        self._queue: deque[tuple[float, Job]] = deque()

    @property
    def next_at(self) -> float:
        """When the next job ends."""
        return self._queue[0][0] if self._queue else float("inf")

    def submit(self, jobs: Sequence[Job]) -> None:
        now = self._now()
        for job in jobs:
            size = sum(span.length for span in job.target or job.source)
            self._free_at = max(self._free_at, now) + size / self.bytes_per_s
            self._queue.append((self._free_at, job))

    def reap(self) -> list[Job]:
        now, due = self._now(), []
        while self._queue and self._queue[0][0] <= now:
            due.append(self._queue.popleft()[1])
        super().submit(due)
        return super().reap()

    @property
    def in_flight(self) -> int:
        return len(self._queue)


class Load:
    """What one tenant's clients asked for, and what became of it. Times are virtual seconds."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        """of what was answered"""
        self.asked = 0
        self.ended: Counter[str] = Counter()
        """answers by kind: ``ok`` or the error's name"""
        self.bytes = 0
        self.retry_after_s: list[float] = []

    def p99(self) -> float:
        """The 99th percentile of the latency."""
        ordered = sorted(self.latencies)
        return ordered[int(0.99 * len(ordered))]


class TimedShard:
    """A shard, its clock, and the clients of its tenants. One seed, one trace."""

    def __init__(
        self,
        *,
        seed: int,
        tenants: dict[str, Tenant],
        bytes_per_s: float,
        latency_s: float = 200e-6,
        device_queue_s: float = 0.01,
        device_bytes: int = 96 * MIB,
        chunk_bytes: int = 64 << 10,
        limits: Limits | None = None,
        default: Quota | None = None,
        options: dict[str, object] | None = None,
        workers_bytes_per_s: float = float("inf"),
        hot_bytes: int = 0,
        devices: int = 1,
    ) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.chunk_bytes = chunk_bytes
        self._device_queue_s = device_queue_s
        self.loads: defaultdict[str, Load] = defaultdict(Load)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._open: dict[tuple[int, int], tuple[str, float, Body]] = {}
        self.stored: deque[bytes] = deque(maxlen=32)
        """keys that were put last"""
        self.clients: list[FakeClient] = []
        self.limits = limits or Limits(
            staging_bytes=16 * MIB, staging_connection_bytes_max=8 * MIB, chunk_bytes_max=4 * MIB
        )
        # Formatted on a device that takes no time.
        self.devices = [
            TimedDevice(device_bytes, self.clock, bytes_per_s=float("inf"), latency_s=0.0)
            for _ in range(devices)
        ]
        self.device = self.devices[0]
        self.workers = TimedWorkers(self.clock)
        self.hot: HotTier | None = None
        if hot_bytes:
            self.hot = HotTier(
                bytes_max=hot_bytes,
                arena_bytes=hot_bytes // 8,
                new_arena=AnonymousArena,
                fill_puts=True,
            )
        self.store_staging = StagingPool(16 * MIB, now=self.clock)
        self.staging = StagingPool(self.limits.staging_bytes, now=self.clock)
        chosen: dict[str, object] = {
            "chunk_bytes_max": 4 * MIB,
            "segment_bytes": 2 * MIB,
            "scrub_bytes_per_s": 0,
            "device_queue_s": device_queue_s,
            **(options or {}),
        }
        self.store = BlockStore.open(
            self.devices,
            self.workers,
            self.store_staging,
            StoreOptions(**chosen),  # type: ignore[arg-type]
            now=self.clock,
            entropy=self.random.randbytes,
            hot=self.hot,
        )
        self.accounts = Accounts(self.clock, default)
        self.service = Service(
            self.store,
            self.staging,
            self.limits,
            block_bytes=4096,
            incarnation=bytes(16),
            now=self.clock,
            poke=lambda: None,
            accounts=self.accounts,
        )
        self.tenants = tenants
        self.accounts.tenants_are({tenant.id: tenant for tenant in tenants.values()})
        self._are(bytes_per_s, latency_s)
        self.workers.bytes_per_s = workers_bytes_per_s
        self._tick()

    def clock(self) -> float:
        """Virtual time."""
        return self.now

    def scope(self, tenant: str) -> Scope:
        """The only namespace of a tenant."""
        return Scope(self.tenants[tenant].id, b"n" * 16)

    # -- clients

    def client(self, tenant: str, slots: int = 16) -> FakeClient:
        """A client with a region of so many chunks."""
        client = FakeClient(self, shm=True)  # type: ignore[arg-type]
        client.hello("default")
        session = client.session
        session.scope = self.scope(tenant)
        session.meter = Meter(session, self.accounts.of(session.scope.tenant))
        self.clients.append(client)
        client.region(1, slots * self.chunk_bytes + 4096)
        return client

    def get(self, tenant: str, client: FakeClient, keys: Sequence[bytes], *, shift: int = 0) -> None:
        """Ask for chunks, into the first slots of the region, so many bytes off."""
        size = self.chunk_bytes
        targets = [[number * size + shift, size] for number in range(len(keys))]
        self._ask(tenant, client, Kind.GET, Get(keys=list(keys), region=1, targets=targets))

    def put(self, tenant: str, client: FakeClient, keys: Sequence[bytes]) -> None:
        """Put chunks, out of the first slots of the region."""
        places = [[number * self.chunk_bytes, self.chunk_bytes] for number in range(len(keys))]
        lengths = [self.chunk_bytes] * len(keys)
        self._ask(tenant, client, Kind.PUT, Put(keys=list(keys), lengths=lengths, region=1, sources=places))

    def _ask(self, tenant: str, client: FakeClient, kind: Kind, body: Body) -> None:
        load = self.loads[tenant]
        load.asked += 1
        request_id = client._next_id
        self._open[id(client), request_id] = tenant, self.now, body
        client.start(kind, body)

    def _answered(self, client: FakeClient) -> None:
        frames, client.frames = client.frames, []
        for frame in frames:
            asked = self._open.pop((id(client), frame.request_id), None)
            if asked is None:
                client.frames.append(frame)  # somebody waits for it
                continue
            tenant, began, request = asked
            load = self.loads[tenant]
            body = frame.body
            if isinstance(body, ErrorReply):
                load.ended[ErrorCode(body.code).name] += 1
                load.retry_after_s.append(body.retry_after_ms / 1000)
                continue
            load.ended["ok"] += 1
            load.latencies.append(self.now - began)
            count = getattr(body, "count", 0) + getattr(body, "stored_count", 0)
            load.bytes += count * self.chunk_bytes
            if isinstance(request, Put):
                self.stored.extend(request.keys)

    # -- time

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do something at a time."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what))

    def arrivals(self, rate: float, until: float, what: Callable[[], None]) -> None:
        """Do something at random times, so many a second on average."""

        def next_one() -> None:
            what()
            schedule()

        def schedule() -> None:
            when = self.now + self.random.expovariate(rate)
            if when < until:
                self.at(when, next_one)

        schedule()

    def _tick(self) -> None:
        self.store.tick()
        self.service.tick()
        self.at(self.now + TICK_S, self._tick)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while True:
            self.settle()
            ends = [device.next_at for device in self.devices]
            when = min(self._events[0][0], self.workers.next_at, *ends)
            if when > until:
                self.now = until
                return
            self.now = max(self.now, when)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def settle(self) -> None:
        """All that needs no time."""
        while True:
            moved = self.store.pump()
            for client in self.clients:
                if client.steps or client.output:
                    moved += client.turn()
                if client.frames:
                    self._answered(client)
            if not moved and not self.store.eager:
                return

    def stock(self, tenant: str, keys: Sequence[bytes]) -> None:
        """Put chunks in no time."""
        with self.no_time():
            client = self.client(tenant)
            for start in range(0, len(keys), 16):
                self.put(tenant, client, keys[start : start + 16])
                self.settle()
        assert self.loads[tenant].ended["ok"] == -(-len(keys) // 16), self.loads[tenant].ended
        self.loads.pop(tenant)

    @contextmanager
    def no_time(self) -> Iterator[None]:
        """Device and workers take no time, and nobody has a quota."""
        jobs_rate, self.workers.bytes_per_s = self.workers.bytes_per_s, float("inf")
        rate, latency = self.device.bytes_per_s, self.device.latency_s
        self.accounts.tenants_are({})
        self._are(float("inf"), 0.0)
        yield
        self.accounts.tenants_are({one.id: one for one in self.tenants.values()})
        self._are(rate, latency)
        self.workers.bytes_per_s = jobs_rate
        for log in self.store._context.logs:
            # what was learnt of it was of another device
            log.schedule = Schedule(self._device_queue_s, 0.2, self.now)

    def _are(self, bytes_per_s: float, latency_s: float) -> None:
        """All devices are like this, and free."""
        for device in self.devices:
            device.bytes_per_s, device.latency_s = bytes_per_s, latency_s
            device._free_at = self.now

    def close(self) -> None:
        """Everything is given back."""
        for client in self.clients:
            client.close()
        self.run(30.0)
        assert not self.store.busy
        self._are(float("inf"), 0.0)
        self.store.close()
        if self.hot is not None:
            self.hot.close()
        self.staging.close()
        self.store_staging.close()
