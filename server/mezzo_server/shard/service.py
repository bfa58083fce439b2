"""What all sessions of a shard share: the store, the limits, leases, regions and counts. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import Gone
from mezzo_server.blockstore.api import GetChunk, GetDone, PutChunk, PutDone, Scope
from mezzo_server.blockstore.io import Device, DeviceTime, Job
from mezzo_server.config import Limits
from mezzo_server.events.hub import EventHub
from mezzo_server.metrics.measures import Measures
from mezzo_server.pod.standing import OF_NO_POD, Standing
from mezzo_server.quota.accounts import Accounts
from mezzo_server.shard.admission import Admission, OpenAdmission
from mezzo_server.shard.directory import SEVERAL_SHARDS, Directory
from mezzo_server.shard.hello import settle_again
from mezzo_server.shard.leases import LeaseTable, Overdue
from mezzo_server.shard.regions import Offload, RegionRegistry, close_here, run_here
from mezzo_server.staging import StagingPool
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.following import NOTHING_FOLLOWED
from mezzo_server.tenancy.keys import MasterKeys, keys_of
from mezzo_server.tenancy.standing import standing_of

if TYPE_CHECKING:
    from mezzo_server.blockstore.put import PutTicket
    from mezzo_server.blockstore.store import BlockStore
    from mezzo_server.hot.tier import HotTier
    from mezzo_server.shard.copies import SecondCopies
    from mezzo_server.shard.device_changes import DeviceChanges
    from mezzo_server.shard.peer_admission import PeerAdmission
    from mezzo_server.shard.puller import Puller
    from mezzo_server.shard.session import Session


DEVICE_NUMBERS = (
    "segments_total",
    "segments_free",
    "segments_open",
    "segments_sealing",
    "segments_sealed",
    "segments_reclaiming",
    "segments_retired",
    "transfers_in_flight",
    "transfers_waiting",
    "transfers_scheduled",
    "bytes_scheduled",
    "bytes_written",
)
"""Told as sums over the devices."""
DEVICE_NUMBERS_EACH = (
    "bytes_total",
    "bytes_live",
    "segments_total",
    "segments_free",
    "segments_retired",
    "transfers_in_flight",
    "transfers_waiting",
    "io_errors",
    "bytes_written",
)
"""Told of each device, as ``device_0_bytes_total``."""
DEVICES_TOLD = 32
LEASES_FIRST_MAX = 1 << 62
"""The first lease's number is below it, and drawn anew in each life of the shard: that one of another life
names a lease of this one is as likely as guessing it."""
LENT_PATIENCE_S = 1.0
"""How long an arena that another tenant has a right to may stay mapped by clients that do not use it."""
WEIGH_S = 0.25
"""How often is looked at which tenants have chunks, among whom the devices are shared."""


class Waiter(Protocol):
    """A request that waits for something to happen, or for its time to be over."""

    def tick(self, now: float) -> None:
        """Look whether it is over."""


class Service:
    """What all sessions of a shard share. Built by `main`, owned by the runtime."""

    def __init__(
        self,
        store: BlockStore,
        staging: StagingPool,
        limits: Limits,
        *,
        block_bytes: int,
        incarnation: bytes,
        now: Callable[[], float],
        poke: Callable[[], None],
        offload: Offload = run_here,
        discard: Callable[[int], None] = close_here,
        numbers: Callable[[], Mapping[str, int | float]] = dict,
        accounts: Accounts | None = None,
        one_of_several: bool = False,
    ) -> None:
        """``poke`` is called after work was queued in the store, ``offload`` runs what would hold the
        loop; ``discard`` closes a descriptor that a client gave; ``numbers`` adds to `numbers`.  Without ``accounts`` no tenant has a quota;
        ``one_of_several``: the node has more shards, which a namespace is spread over.
        """
        self.store = store
        self.staging = staging
        self.discard = discard
        self.limits = limits
        self.now = now
        self.poke = poke
        self.block_bytes = block_bytes
        self.chunk_bytes_max = min(limits.chunk_bytes_max, store.chunk_bytes_max, staging.piece_bytes_max)
        self.incarnation = incarnation
        self._numbers = numbers
        self.accounts = accounts or Accounts(now)
        """what each tenant uses, and may use"""
        self.accounts.used_bytes = store.space.live_bytes
        self.accounts.stored = store.space.tenants
        self.accounts.capacity_bytes = store.capacity_bytes
        self.accounts.count_weights()
        store.shares = self.accounts
        if store.hot is not None:
            store.hot.memory.shares = self.accounts
            self.accounts.hot_bytes = store.hot.memory.bytes_of
        self.directory = Directory(SEVERAL_SHARDS if one_of_several else store.store_id)
        """whose namespace a name means; has the catalog"""
        self.leases = LeaseTable(
            store.pins,
            bytes_max=int(store.capacity_bytes * limits.leased_fraction),
            leases_max=limits.leases_max,
            chunks_max=limits.leased_chunks_max,
            lease_s_max=limits.lease_ms_max / 1000,
            now=now,
            tenant_bytes_max=self._leased_bytes_max,
            tenant_bytes_whole=self._leased_bytes_whole,
            tenant_part=self._part_of_leases,
            first=int.from_bytes(hashlib.blake2b(incarnation, digest_size=8).digest(), "big")
            % LEASES_FIRST_MAX,
        )
        self.leased_quota: Callable[[bytes], int] = self.accounts.leased_bytes_max
        """bytes that the leases of a tenant may hold by its quota; 0: there is none"""
        self.accounts.leased_bytes = lambda tenant: self.leases.bytes_by_tenant.get(tenant, 0)
        self.events = EventHub(
            store.watch,
            incarnation=incarnation,
            events_max=limits.events_max,
            bytes_max=limits.events_bytes_max,
            logs_max=limits.events_namespaces_max,
            readers_max=limits.events_readers_max,
            idle_s=limits.events_idle_s,
            now=now,
        )
        self.waiting: dict[Waiter, None] = {}
        """requests that wait for an event, in the order in which they came"""
        self.device_changes: DeviceChanges | None = None
        self.master_keys = MasterKeys()
        """what tenants' keys are wrapped with; set before the first catalog"""
        self.tenants_without_key = 0
        """tenants whose chunks are to be encrypted, and whose key cannot be had"""
        self.admission: Admission = OpenAdmission()
        self.standing: Standing | None = None
        """in the shard's pod; None: it is of none, and has all chunks"""
        self.door: PeerAdmission | None = None
        """lets other shards of the pod in; None: nothing moves"""
        self.puller: Puller | None = None
        """moves chunks here from other shards of the pod; None: nothing moves"""
        self.copies: SecondCopies | None = None
        """second copies, here and elsewhere; None: there are none"""
        self.pod_numbers: Callable[[], Mapping[str, int | float]] = lambda: OF_NO_POD
        self.pod_tick: Callable[[], None] = _nothing
        """what its membership of a pod has to do now and then"""
        self.followed: Callable[[], Mapping[str, int | float]] = lambda: NOTHING_FOLLOWED
        """how the metadata are followed, in numbers"""
        self.regions = RegionRegistry(
            store.register if self._pins else None,
            store.unregister,
            bytes_max=limits.region_bytes_total_max,
            offload=offload,
            discard=discard,
        )
        self.sessions: dict[Session, None] = {}
        self.measures = Measures()
        store.loads.observe = self.measures.load_took
        self._began = now()
        self._weighed_at = 0.0
        self._lent_wanted = 0, 0.0, 0.0
        """an arena that is lent and wanted, since when (it is not wanted in every tick), and when last"""
        self.counters: dict[str, int] = dict.fromkeys(
            (
                "errors",
                "busy",
                "cancelled",
                "refused_connections",
                "connections_ended_overdue",
                "connections_ended_lent",
                "checksum_mismatches_received",
            ),
            0,
        )

    def _part_of_leases(self, tenant: bytes) -> float:
        """What a tenant may have of all leases. The only tenant of a store without metadata shares with none."""
        return 1.0 if tenant == self.directory.tenant else self.limits.leased_fraction_tenant

    def _leased_bytes_max(self, tenant: bytes) -> int:
        limit = self.leases.bytes_max
        if tenant != self.directory.tenant:  # `_part_of_leases`, written out
            limit = int(limit * self.limits.leased_fraction_tenant)
        quota = self.leased_quota(tenant)
        return min(limit, quota) if quota else limit

    def _leased_bytes_whole(self, tenant: bytes) -> int:
        """What `_leased_bytes_max` would be if this shard's part of the tenant's quota were all of it."""
        limit = int(self.leases.bytes_max * self._part_of_leases(tenant))
        quota = max(self.leased_quota(tenant), self.accounts.leased_bytes_whole(tenant))
        return min(limit, quota) if quota else limit

    @property
    def _pins(self) -> bool:
        """Whether a device gains by knowing memory beforehand."""
        return any(type(device).register is not Device.register for device in self.store.devices)

    def devices_changed(self) -> None:
        """What follows from the devices: alignment, the longest chunk, how much may be leased."""
        store, limits = self.store, self.limits
        self.block_bytes = max(device.block_bytes for device in store.devices)
        self.chunk_bytes_max = min(
            limits.chunk_bytes_max, store.chunk_bytes_max, self.staging.piece_bytes_max
        )
        self.leases.bytes_max = int(store.capacity_bytes * limits.leased_fraction)
        self.accounts.capacity_bytes = store.capacity_bytes
        self.regions.registers_with(store.register if self._pins else None)

    @property
    def catalog(self) -> Catalog | None:
        """Of tenants and namespaces, in force now; None: no metadata are kept."""
        return self.directory.catalog

    def catalog_is(self, catalog: Catalog) -> None:
        """Another catalog is in force: what was deleted or purged is out of reach when this returns."""
        before, self.directory.catalog = self.directory.catalog, catalog
        if before is None or _places_differ(before, catalog):
            self.store.heed(standing_of(catalog))
        if before is None or before.tenant_keys != catalog.tenant_keys or before.tenants != catalog.tenants:
            keys, without = keys_of(catalog, self.master_keys)
            self.tenants_without_key = len(without)
            self.store.set_tenant_keys(keys, without)
        self.accounts.tenants_are(catalog.tenants)
        # Who is of a deleted tenant is told that he is nobody, and not that his namespace is gone.
        self.admission.sweep(self.sessions)
        for session in tuple(self.sessions):
            if not session.closed:
                settle_again(session)
        if self.puller is not None:
            self.puller.catalog_changed()
        if self.copies is not None:
            self.copies.catalog_changed(before, catalog)
        self.poke()

    def get(
        self,
        scope: Scope,
        chunks: Sequence[GetChunk],
        done: GetDone,
        *,
        first_part: int,
        part_count: int,
        time: DeviceTime | None = None,
    ) -> None:
        """`BlockStore.get`, and let the runtime submit what it queued."""
        self.store.get(scope, chunks, done, first_part=first_part, part_count=part_count, time=time)
        self.poke()

    def put(
        self,
        scope: Scope,
        chunks: Sequence[PutChunk],
        done: PutDone,
        *,
        deadline: float | None,
        time: DeviceTime | None = None,
    ) -> PutTicket:
        """`BlockStore.put`, and let the runtime submit what it queued."""
        ticket = self.store.put(scope, chunks, done, deadline=deadline, time=time)
        self.poke()
        return ticket

    def run_jobs(self, jobs: Sequence[Job], tenant: bytes) -> None:
        """Work of a tenant for the store's workers; it comes back with the store's own."""
        self.store.run_jobs(jobs, tenant)
        self.poke()

    def tick(self) -> None:
        """Timers: who is not welcome any more, leases, readers of events, who waits or keeps what he holds for too long."""
        self.admission.sweep(self.sessions)
        now = self.now()
        for waiter in tuple(self.waiting):
            waiter.tick(now)
        self.events.tick()
        self.staging.tick()
        if self.copies is not None:
            self.copies.tick()
        leases, hot = self.leases, self.store.hot
        self.accounts.tick()
        self.pod_tick()
        if now - self._weighed_at >= WEIGH_S:
            self._weighed_at = now
            self.accounts.count_weights()
        leases.expire()
        if hot is not None:
            self._end_lending(hot, now)
            hot.tick()
        if leases.crowded or (hot is not None and hot.pressed):
            leases.crowded = False
            if hot is not None:
                hot.pressed = False
            overdue = leases.longest_overdue
            if overdue is not None:
                self._end_overdue(overdue)

    def _end_lending(self, hot: HotTier, now: float) -> None:
        """An arena that another tenant has a right to is mapped by clients still: end their connections."""
        wanted = hot.lent_wanted
        if not wanted:
            return
        number, since, last = self._lent_wanted
        if wanted != number or now - last > LENT_PATIENCE_S:
            since = now
        self._lent_wanted = wanted, since, now
        if now - since >= LENT_PATIENCE_S:
            self._lent_wanted = 0, now, now
            borrowers = set(hot.memory.borrowers(wanted))
            for session in tuple(self.sessions):
                if session in borrowers:
                    self.counters["connections_ended_lent"] += 1
                    session.link.refuse(
                        Gone("the tenant has more of the hot tier than its share, and another wants it")
                    )

    def _end_overdue(self, overdue: Overdue) -> None:
        """Others want the room: end the connection of who would not give it back."""
        for session in self.sessions:
            if session is overdue.owner:
                self.counters["connections_ended_overdue"] += 1
                session.link.refuse(
                    Gone(
                        f"a lease expired {self.now() - overdue.since:.1f} s ago, and the room of its "
                        f"{overdue.chunks} chunks in place ({overdue.bytes} bytes) was wanted; release leases in "
                        "time, or ask for longer ones"
                    )
                )
                return

    def numbers(self) -> dict[str, int | float]:
        """The shard's state in numbers; docs/metrics.md lists them."""
        report = self.store.report()
        numbers: dict[str, int | float] = {
            "chunks": report.chunks,
            "bytes_live": report.bytes_live,
            "bytes_total": sum(device.bytes_total for device in report.devices),
            "devices": len(report.devices),
            "devices_fenced": sum(device.state.startswith("fenced") for device in report.devices),
            "connections": len(self.sessions),
            "requests_in_flight": sum(len(session.requests) for session in self.sessions),
            "regions": self.regions.count,
            "region_bytes": self.regions.bytes_total,
            "regions_lingering": self.regions.lingering,
            "leases": len(self.leases),
            "tenants_without_key": self.tenants_without_key,
            "leased_bytes": self.leases.bytes_leased,
            "leased_chunks": self.leases.chunks_leased,
            "leases_overdue": self.leases.overdue,
            "hot_bytes_overdue": self.leases.hot_bytes_overdue,
            "staging_bytes": self.staging.total_bytes,
            "staging_free_bytes": self.staging.free_bytes,
            "staging_waiting": self.staging.requests_waiting,
            "staging_refused": self.staging.requests_refused,
            "store_staging_bytes": self.store.staging.total_bytes,
            "store_staging_free_bytes": self.store.staging.free_bytes,
            "store_staging_waiting": self.store.staging.requests_waiting,
            "store_staging_refused": self.store.staging.requests_refused,
            "workers_in_flight": sum(workers.in_flight for workers in self.store.all_workers),
            "jobs_scheduled": self.store.jobs_scheduled,
            "leased_bytes_max": self.leases.bytes_max,
            "events_namespaces": len(self.events),
            "events_readers": self.events.readers,
            "events_bytes": self.events.bytes_kept,
            "events_gaps": self.events.gaps,
            "regions_bytes_max": self.limits.region_bytes_total_max,
            "uptime_s": round(self.now() - self._began, 3),
        }
        for name in DEVICE_NUMBERS:
            numbers[name] = sum(getattr(device, name) for device in report.devices)
        for place, device in enumerate(report.devices[:DEVICES_TOLD]):
            numbers[f"device_{place}_fenced"] = int(device.state.startswith("fenced"))
            for name in DEVICE_NUMBERS_EACH:
                numbers[f"device_{place}_{name}"] = getattr(device, name)
        numbers.update(report.counters)
        numbers.update(self.counters)
        numbers.update(self.admission.numbers())
        numbers.update(self.followed())
        numbers.update(self.pod_numbers())
        numbers.update(self.measures.numbers())
        numbers["requests"] = self.measures.count + numbers["requests_in_flight"]
        numbers.update(self._numbers())
        return numbers


def _nothing() -> None:
    """It is of no pod."""


def _places_differ(before: Catalog, now: Catalog) -> bool:
    """Whether something was made, purged or deleted."""
    return before.tenants is not now.tenants or before.namespaces is not now.namespaces
