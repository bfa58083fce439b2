"""Start and stop of one shard: what is built in which order, and taken down in the reverse.

A shard owns its devices before it recovers them, recovers them before it listens, and listens before
it says that it is ready.  A stop closes the listeners, ends what was begun (`stopping`), closes
the connections, then seals and flushes.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.admission.admission import AdmissionOptions, Mode
from mezzo_server.blockstore.devices.opening import probe
from mezzo_server.blockstore.io import Device
from mezzo_server.blockstore.options import Durability, StoreOptions
from mezzo_server.blockstore.recovery import Progress
from mezzo_server.blockstore.store import BlockStore
from mezzo_server.config import MetricsConfig, NodeConfig, ShardConfig, TlsConfig
from mezzo_server.config.access import unix_mode, unix_users
from mezzo_server.config.memory import check_hot, store_staging_bytes
from mezzo_server.hot.arena import Arena
from mezzo_server.hot.tier import HotTier
from mezzo_server.machine.clock import machine_clock
from mezzo_server.machine.host import Host
from mezzo_server.machine.memory import memory_seen
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.metrics.gathering import LoopGatherer
from mezzo_server.metrics.version import version
from mezzo_server.quota.accounts import Accounts
from mezzo_server.quota.defaults import default_quota
from mezzo_server.quota.part import NEWCOMER, equal_part
from mezzo_server.quota.telling import tables
from mezzo_server.shard.device_changes import DeviceChanges
from mezzo_server.shard.device_opening import open_configured
from mezzo_server.shard.following import MetadataFollower
from mezzo_server.shard.listener import UnixRules, open_listeners
from mezzo_server.shard.runtime import Runtime
from mezzo_server.shard.service import Service
from mezzo_server.shard.stopping import Stopping
from mezzo_server.shard.tls_server import TlsServer
from mezzo_server.staging import StagingPool
from mezzo_server.tenancy.keys import read_master_keys
from mezzo_server.tenancy.standing import standing_of
from mezzo_server.workers import ThreadWorkers, open_workers

if TYPE_CHECKING:
    from mezzo_server.shard.pod import PodMember

DESCRIPTORS_MAX = 65536

log = structlog.get_logger("mezzo.shard")


class DeviceState(Struct, frozen=True):
    """One device, as told when the shard is ready."""

    name: str
    kind: str
    bytes: int
    block_bytes: int
    direct: bool


class Readiness(Struct, frozen=True):
    """What a shard says once it serves."""

    listen: list[str]
    pid: int
    devices: list[DeviceState]
    io: str
    """how devices are reached, and why not through io_uring if so"""
    loop: str
    durability: str
    policy: str
    chunks: int
    """recovered"""
    recovery_s: float
    bytes_live: int
    bytes_total: int
    start_s: float
    """from the call to readiness"""
    metrics: str
    """host:port of its metrics; empty: they are not served"""
    id: str = ""
    """of its store, in hexadecimal: what a pod's map calls it"""


class Shard:
    """One shard from `__init__` (devices recovered, listening) through `run` to `close`."""

    def __init__(
        self,
        config: ShardConfig,
        progress: Progress | None = None,
        metrics: MetricsConfig | None = None,
        *,
        tls: TlsConfig | None = None,
        authenticated: bool = False,
        node: NodeConfig | None = None,
    ) -> None:
        """Open everything, or nothing. Without ``metrics`` there is no endpoint for them.

        ``tls`` is for ``tcps://`` addresses; ``authenticated``: callers without a credential are refused;
        ``node``: what the node's settings say of metadata and access; None: as they are by default.

        Raises:
            InvalidArgument: the configuration does not fit what is there.
            Unavailable: a device is held by another process, an address is in use, the metadata are away.
            FormatError, Unsupported: the metadata cannot be used.
        """
        node = node or NodeConfig()
        began = time.monotonic()
        _raise_descriptor_limit()
        if not config.devices:
            raise InvalidArgument("no device: give --device FILE --capacity SIZE, or --device memory:SIZE")
        self._config = config
        self.devices_told: Callable[[list[str]], None] = lambda names: None
        """told of the names of all devices whenever something about them has changed"""
        with ExitStack() as stack:
            # Before the devices: who waits for it holds nothing that another process could want.
            follower, standing = None, None
            master_keys = read_master_keys(node.encryption.master_key, node.encryption.former_master_keys)
            if node.metadata.engine:
                follower = MetadataFollower(node.metadata, node.access)
                stack.callback(follower.close)
                standing = standing_of(follower.wait_first())
            self._loop = _new_loop(config.loop)
            stack.callback(self._loop.close)
            devices: list[Device] = []
            stack.callback(lambda: [device.close() for device in devices])
            for spec in config.devices:
                devices.append(open_configured(spec, config))
            # After the devices: their locks are waited for, so a predecessor that was killed a moment ago
            # has let go of its addresses too.
            self._tls = TlsServer(tls or TlsConfig(), now=time.monotonic, clock_s=time.time)
            stack.callback(self._tls.close)
            unix = UnixRules(unix_mode(node.access), unix_users(node.access))
            self._listeners = open_listeners(config, authenticated=authenticated, unix=unix)
            stack.callback(self._stop_listening)
            self._workers = open_workers(threads=config.workers)
            stack.callback(self._workers.close)
            self._ciphers = ThreadWorkers(config.workers)
            stack.callback(self._ciphers.close)
            # Two pools: what waits in one for the store must never hold what the store needs.
            wait_s = config.limits.staging_wait_s
            self._store_staging = StagingPool(store_staging_bytes(config), wait_s=wait_s)
            stack.callback(self._store_staging.close)
            self._staging = StagingPool(config.limits.staging_bytes, wait_s=wait_s)
            stack.callback(self._staging.close)
            self._hot = _hot_tier(config)
            if self._hot is not None:
                stack.callback(self._hot.close)
            self._store = BlockStore.open(
                devices,
                self._workers,
                self._store_staging,
                _options(config),
                now=time.monotonic,
                created_s=int(time.time()),
                clock=machine_clock(),
                format_foreign=config.format,
                progress=progress,
                hot=self._hot,
                ciphers=self._ciphers,
                standing=standing,
            )
            _tell_unknown(self._store)
            # Devices that were added are open beside those of the configuration, which may have left.
            stack.callback(lambda: [device.close() for device in self._store.devices])
            stack.callback(self._store.close)
            self._store.register(self._staging.memory)
            self._runtime = Runtime(self._loop, self._store)
            self.service = Service(
                self._store,
                self._staging,
                config.limits,
                block_bytes=max(device.block_bytes for device in devices),
                incarnation=os.urandom(16),
                now=time.monotonic,
                poke=self._runtime.poke,
                offload=self._runtime.offload,
                discard=self._runtime.discard,
                numbers=lambda: {**self._runtime.numbers(), **self._tls.numbers()},
                accounts=Accounts(
                    time.monotonic,
                    default_quota(config.quota),
                    config.quota.burst_s,
                    # In a pod it is told.
                    NEWCOMER if node.pod.enabled else equal_part(node.supervisor.shards),
                ),
                one_of_several=node.supervisor.shards > 1,
            )
            self._runtime.service = self.service
            self.service.master_keys = master_keys
            if follower is not None:
                follower.follow(self.service, self._runtime.from_thread)
            self._pod: PodMember | None = None
            if node.pod.enabled:
                # Late: its links to other shards are clients, which a shard by itself need not wait for.
                from mezzo_server.shard.pod import PodMember

                listening = [str(listener.address) for listener in self._listeners]
                self._pod = PodMember(node, self.service, listening, self._runtime.from_thread, self._loop)
                stack.callback(self._pod.close)
            self._stopping = Stopping(self._runtime, self._loop, self._pod, self._stop_listening)
            self.service.device_changes = DeviceChanges(
                self._store, config, self._runtime.apart, self._runtime.poke
            )
            membership = self._store.membership
            membership.attached = self._runtime.device_attached
            membership.detached = self._runtime.device_detached
            membership.changed = self._devices_changed
            if self._hot is not None:
                # The first arena now, so that the first chunk that is put is hot; the others off the loop.
                # Arenas are a tenant's own: with metadata nobody knows who will come first.
                if follower is None:
                    self._hot.prepare(self.service.directory.tenant)
                self._hot.memory.offload = self._runtime.offload
            self._endpoint = self._open_endpoint(metrics)
            if self._endpoint is not None:
                stack.callback(self._endpoint.close)
            self._closing = stack.pop_all()
        report = self._store.report()
        self.readiness = Readiness(
            listen=[str(listener.address) for listener in self._listeners],
            pid=os.getpid(),
            devices=[_device_state(device) for device in devices],
            io=_io_state(config),
            loop=type(self._loop).__module__.split(".")[0],
            durability=config.durability,
            policy=config.policy,
            chunks=report.chunks,
            recovery_s=round(self._store.recovered.seconds, 3),
            bytes_live=report.bytes_live,
            bytes_total=sum(device.bytes_total for device in report.devices),
            start_s=round(time.monotonic() - began, 3),
            metrics="" if self._endpoint is None else self._endpoint.address,
            id=self._store.store_id.hex(),
        )

    def run(self, announce: Callable[[Readiness], None] | None = None, *, signals: bool = True) -> None:
        """Serve until `stop`, or SIGTERM or SIGINT if ``signals``; ``announce`` once it serves."""
        loop, runtime = self._loop, self._runtime
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stopping.ask)
        runtime.start()
        self._tls.start(runtime)
        for listener in self._listeners:
            listener.start(runtime, self._config.limits.connections_max, self._tls)
        if self._pod is not None:
            self._pod.start()
        if announce is not None:
            loop.call_soon(announce, self.readiness)
        try:
            loop.run_forever()
        finally:
            if signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)
            self._stop_listening()
            if self._pod is not None:
                self._pod.leave()
                loop.run_until_complete(self._pod.stop_moving())
            self._tls.stop()
            runtime.stop()

    def stop(self) -> None:
        """Let `run` return; may be called from another thread."""
        self._loop.call_soon_threadsafe(self._stopping.ask)

    def close(self) -> None:
        """End what is under way, seal, flush, and let go of everything."""
        self._closing.close()

    def _devices_changed(self) -> None:
        self.service.devices_changed()
        if self._pod is not None:
            self._pod.described_anew()
        self.devices_told([device.name for device in self._store.devices])

    def _open_endpoint(self, metrics: MetricsConfig | None) -> Endpoint | None:
        if metrics is None or not metrics.shard:
            return None
        gatherer = LoopGatherer(self._runtime.from_thread, self._sample)
        return Endpoint(metrics.shard, "shard", gatherer, gatherer.healthy, insecure=metrics.insecure)

    def _sample(self) -> Sample:
        """What the metrics are made of; called in the loop."""
        words = {
            "version": version(),
            "incarnation": self.service.incarnation.hex(),
            "durability": self.readiness.durability,
            "policy": self.readiness.policy,
            "io": self.readiness.io,
            "loop": self.readiness.loop,
        }
        return Sample(
            numbers=self.service.numbers(),
            histograms={**self.service.measures.histograms(), "loop_hold": {"": self._runtime.holds_told()}},
            tables=tables(self.service.accounts, self._store.space.device_work()),
            words=words,
            devices=[device.name for device in self._store.devices],
        )

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.stop()


def serve(
    config: ShardConfig,
    announce: Callable[[Readiness], None],
    progress: Progress | None = None,
    metrics: MetricsConfig | None = None,
    devices_told: Callable[[list[str]], None] | None = None,
    *,
    tls: TlsConfig | None = None,
    authenticated: bool = False,
    node: NodeConfig | None = None,
) -> None:
    """Run one shard in this process until SIGTERM or SIGINT.

    ``devices_told`` gets the names of all devices whenever something about them has changed; ``node``: see
    `Shard`.

    Raises:
        MezzoError: it could not start; the message says why in one line.
    """
    shard = Shard(config, progress, metrics, tls=tls, authenticated=authenticated, node=node)
    if devices_told is not None:
        shard.devices_told = devices_told
    try:
        shard.run(announce)
    finally:
        shard.close()


def _raise_descriptor_limit() -> None:
    """Connections and regions take descriptors; the usual soft limit (1024) is for programs with select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise InvalidArgument("loop: uvloop is not installed") from None
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def _hot_tier(config: ShardConfig) -> HotTier | None:
    if not config.hot.bytes:
        return None
    check_hot(config.hot.bytes, memory_seen(Host()))
    return HotTier(
        bytes_max=config.hot.bytes,
        arena_bytes=config.hot.arena_bytes,
        held_fraction=config.hot.held_fraction,
        fill_puts=config.hot.fill == "puts",
        new_arena=Arena,
    )


def _options(config: ShardConfig) -> StoreOptions:
    return StoreOptions(
        durability=Durability(config.durability),
        policy=config.policy,
        write_amplification=config.write_amplification,
        admission=AdmissionOptions(
            Mode(config.admission.mode),
            config.admission.chunk_bytes_max,
            config.admission.position_max,
            config.admission.writes_per_day,
            config.admission.endurance_bytes,
        ),
        chunk_bytes_max=config.limits.chunk_bytes_max,
        segment_bytes=config.segment_bytes,
        scrub_bytes_per_s=float(config.scrub_bytes_per_s),
        drain_bytes_per_s=float(config.drain_bytes_per_s),
        device_queue_s=config.device_queue_ms / 1000,
        background_share=config.background_share,
    )


def _tell_unknown(store: BlockStore) -> None:
    """Chunks of tenants that the metadata do not know are not recovered: once, loudly."""
    count = store.recovered.chunks_unknown
    if count:
        log.warning(
            "chunks of unknown tenants or namespaces were found and left out: is metadata.engine the one that they "
            "were put with? Their space is taken by and by",
            chunks=count,
        )


def _device_state(device: Device) -> DeviceState:
    return DeviceState(
        name=device.name,
        kind=type(device).__name__.removesuffix("Device").lower(),
        bytes=device.size_bytes,
        block_bytes=device.block_bytes,
        direct=bool(getattr(device, "direct", False)),
    )


def _io_state(config: ShardConfig) -> str:
    if config.io == "threads":
        return "threads, as configured"
    return probe()
