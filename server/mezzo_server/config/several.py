"""What each shard of a node gets of the node's settings, where there are several. No I/O.

Addresses are numbered: a Unix socket gets ``.0``, ``.1``, ... behind its path, a TCP port counts up.  Memory,
threads and rates are the node's and are divided; what is a limit for one connection, or a share of the devices,
stays.  Devices are dealt out elsewhere (`mezzo_server.supervisor.devices`): that needs a look at what they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from msgspec.structs import replace

from mezzo.errors import InvalidArgument
from mezzo_server.config.addresses import (
    PORT_MAX,
    Address,
    host_and_port,
    parse_address,
    parse_host_port,
)
from mezzo_server.config.schema import (
    AdmissionConfig,
    HotConfig,
    Limits,
    MetricsConfig,
    NodeConfig,
    ShardConfig,
    TlsConfig,
)

HUGE_PAGE_BYTES = 2 << 20
"""of x86-64, and of Arm with pages of 4 KiB"""


def shard_name(number: int, count: int) -> str:
    """What a shard is called in logs and metrics."""
    return "shard" if count == 1 else f"shard-{number}"


def numbered(text: str, number: int) -> str:
    """The address of one of several shards, of the address that stands for all of them.

    Raises:
        InvalidArgument: it is no address, or there is no such port.
    """
    address = parse_address(text)
    if address.path is not None:
        return f"unix://{address.path}.{number}"
    if not address.port:
        return text  # any free one
    if address.port + number > PORT_MAX:
        raise InvalidArgument(f"{text}: there is no port {address.port + number}, for shard {number}")
    return str(Address(host=address.host, port=address.port + number, tls=address.tls))


def shard_settings(config: NodeConfig, number: int) -> NodeConfig:
    """The settings of shard ``number``, but for its devices.  Of a node of one shard: as they are.

    Raises:
        InvalidArgument: an address cannot be numbered.
    """
    count = config.supervisor.shards
    if count == 1:
        return config
    return replace(
        config,
        shard=_shard(config.shard, number, count),
        tls=_tls(config.tls, count),
        metrics=_metrics(config, number),
        pod=replace(config.pod, advertise=[numbered(text, number) for text in config.pod.advertise]),
    )


def part(total: int, count: int, least: int = 1) -> int:
    """An equal part of something of which there is ``total``; 0 stays 0."""
    return max(total // count, least) if total else 0


def part_of_memory(total_bytes: int, count: int, least_bytes: int = 1) -> int:
    """As `part`, in whole huge pages where it is larger than one: what is left of one is made of small pages."""
    each = part(total_bytes, count, least_bytes)
    return max(each // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, least_bytes) if each > HUGE_PAGE_BYTES else each


def _shard(shard: ShardConfig, number: int, count: int) -> ShardConfig:
    return replace(
        shard,
        listen=[numbered(text, number) for text in shard.listen],
        workers=part(shard.workers, count),
        store_staging_bytes=part_of_memory(shard.store_staging_bytes, count),
        scrub_bytes_per_s=part(shard.scrub_bytes_per_s, count),
        drain_bytes_per_s=part(shard.drain_bytes_per_s, count),
        limits=_limits(shard.limits, count),
        hot=_hot(shard.hot, count),
        admission=_admission(shard.admission, count),
    )


def _limits(limits: Limits, count: int) -> Limits:
    # A chunk of the largest size must fit, or it could never be put.
    staging_bytes = part_of_memory(limits.staging_bytes, count, limits.chunk_bytes_max)
    return replace(
        limits,
        staging_bytes=staging_bytes,
        staging_connection_bytes_max=min(limits.staging_connection_bytes_max, staging_bytes),
        leased_chunks_max=part(limits.leased_chunks_max, count),
        events_bytes_max=part(limits.events_bytes_max, count),
    )


def _hot(hot: HotConfig, count: int) -> HotConfig:
    return replace(hot, bytes=hot.bytes // count)


def _admission(admission: AdmissionConfig, count: int) -> AdmissionConfig:
    return replace(admission, endurance_bytes=part(admission.endurance_bytes, count))


def _tls(tls: TlsConfig, count: int) -> TlsConfig:
    return replace(tls, threads=part(tls.threads, count))


def _metrics(config: NodeConfig, number: int) -> MetricsConfig:
    """Ports count up, and pass over those that the node's settings name for something else."""
    first = _host_port(config.metrics.shard)
    if first is None or not first.port:
        return config.metrics
    taken = set(_ports(config))
    free = (port for port in range(first.port, PORT_MAX + 1) if port not in taken or port == first.port)
    port = next(islice(free, number, None), None)
    if port is None:
        raise InvalidArgument(f"metrics.shard: {config.metrics.shard} leaves no port for shard {number}")
    return replace(config.metrics, shard=host_and_port(first.host, port))


def _ports(config: NodeConfig) -> Iterator[int]:
    """Ports of everything but the shards' metrics."""
    for text in config.shard.listen:
        port = parse_address(text).port
        yield from range(port, port + config.supervisor.shards) if port else ()
    frontend = config.frontend
    listen = _host_port(frontend.listen)
    if listen is not None:
        yield from (listen.port, listen.port + 1)
    for text in (frontend.admin_listen, config.metrics.frontend, config.metrics.supervisor):
        address = _host_port(text)
        if address is not None:
            yield address.port


def _host_port(text: str) -> Address | None:
    """None: it is none, or no right one, which is told elsewhere."""
    try:
        return parse_host_port(text) if text else None
    except InvalidArgument:
        return None
