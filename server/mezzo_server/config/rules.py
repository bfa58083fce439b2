"""Rules between settings: what is right one by one may still not work together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from mezzo.address import parse as parse_client_address
from mezzo.errors import InvalidArgument
from mezzo.placement.pod_map import NAME_CHARACTERS_MAX
from mezzo_server.config.access import check_access
from mezzo_server.config.addresses import PORT_MAX, Address, parse_address, parse_host_port
from mezzo_server.config.reach import (
    authenticates,
    check_reach,
    frontend_guard,
    metrics_guard,
    service_guard,
    shard_guard,
)
from mezzo_server.config.schema import NodeConfig
from mezzo_server.config.service import check_service
from mezzo_server.config.several import shard_name, shard_settings
from mezzo_server.config.shards import parse_shard
from mezzo_server.metadata.urls import MEMORY, check_url

PROCESSES = ("supervisor", "metadata", "shard", "frontend")


def check_together(config: NodeConfig, process: str = "supervisor") -> None:
    """Every rule between keys, as far as they matter to what a process runs.

    ``process`` is one of `PROCESSES`.  The supervisor runs all parts, but for those that are switched
    off; a shard of its own does not mind what its settings say of a front-end elsewhere.

    Raises:
        InvalidArgument: names the keys, their values and what would be right.
    """
    _check_memory(config)
    _check_quota(config)
    _check_frontend(config)
    check_access(config)
    _check_metadata(config)
    if process == "supervisor":
        enabled = {"frontend": config.frontend.enabled, "metadata": config.metadata_service.enabled}
        parts = {part for part in PROCESSES if enabled.get(part, True)}
    else:
        parts = {process}
    if "metadata" in parts:
        check_service(config)
    if parts != {"metadata"}:
        _check_pod(config)
    # A shard that is started by itself is one, whatever else the node has.
    shards = _shards(config) if process == "supervisor" else [config]
    addresses = dict(_addresses(config, parts, shards))
    _check_tls(config, parts)
    _check_reach(config, addresses, process)
    _check_collisions(addresses)
    if config.supervisor.backoff_s_min > config.supervisor.backoff_s_max:
        raise InvalidArgument(
            f"supervisor.backoff_s_min ({config.supervisor.backoff_s_min:g}) is over "
            f"supervisor.backoff_s_max ({config.supervisor.backoff_s_max:g})"
        )


def _check_metadata(config: NodeConfig) -> None:
    url = config.metadata.engine
    if not url:
        return
    _named("metadata.engine", url, check_url)
    if url == MEMORY:
        raise InvalidArgument(
            f"metadata.engine: {MEMORY} is known to one process only, and a node has several"
        )


def _check_pod(config: NodeConfig) -> None:
    pod = config.pod
    if not pod.enabled:
        return
    if not config.metadata.engine:
        raise InvalidArgument(
            "pod.enabled needs metadata.engine: it is how the shards of a pod know of each other; etcd:// for several "
            "nodes"
        )
    for name, text in (("node", pod.node), ("rack", pod.rack)):
        if len(text) > NAME_CHARACTERS_MAX or not (text.isprintable() and text == text.strip()):
            raise InvalidArgument(f"pod.{name}: {text!r} is no name")
    for text in pod.advertise:
        told = _named("pod.advertise", text, parse_address)
        if told.is_wildcard or (told.path is None and not told.port):
            raise InvalidArgument(f"pod.advertise: {text} is no address that others could be told")
    wildcards = [text for text in config.shard.listen if parse_address(text).is_wildcard]
    if wildcards and not pod.host and not pod.advertise:
        raise InvalidArgument(
            f"shard.listen: {wildcards[0]} is no address that others could be told: set pod.host to the name or "
            "address by which they reach this node"
        )


def _check_memory(config: NodeConfig) -> None:
    shard, limits, hot = config.shard, config.shard.limits, config.shard.hot
    if not shard.listen:
        raise InvalidArgument("shard.listen: at least one address is needed")
    for device in shard.devices:
        if shard.devices.count(device) > 1 and not device.startswith(("memory:", "null:")):
            raise InvalidArgument(f"shard.devices: {device} is named twice")
    if limits.staging_connection_bytes_max > limits.staging_bytes:
        raise InvalidArgument(
            f"shard.limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}) is over "
            f"shard.limits.staging_bytes ({limits.staging_bytes})"
        )
    if limits.chunk_bytes_max > limits.staging_connection_bytes_max:
        raise InvalidArgument(
            f"shard.limits.chunk_bytes_max ({limits.chunk_bytes_max}) is over "
            f"shard.limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}): "
            "such a chunk could never be put over tcp"
        )
    if hot.bytes and hot.arena_bytes > hot.bytes:
        raise InvalidArgument(
            f"shard.hot.arena_bytes ({hot.arena_bytes}) is over shard.hot.bytes ({hot.bytes}): "
            "not one arena would fit; 0 for shard.hot.bytes means no hot tier"
        )


def _check_quota(config: NodeConfig) -> None:
    quota = config.shard.quota
    for name in ("capacity_bytes", "hot_bytes", "leased_bytes", "bytes_per_s", "requests_per_s"):
        soft, hard = getattr(quota, f"{name}_soft"), getattr(quota, f"{name}_hard")
        if hard and soft > hard:
            raise InvalidArgument(
                f"shard.quota.{name}_soft ({soft}) is over shard.quota.{name}_hard ({hard}): it could never be met"
            )


def _check_frontend(config: NodeConfig) -> None:
    frontend = config.frontend
    if frontend.shard:
        _named("frontend.shard", frontend.shard, parse_client_address)
    for text in frontend.shards:
        _named("frontend.shards", text, parse_shard)
    if frontend.piece_bytes > frontend.message_bytes_max:
        raise InvalidArgument(
            f"frontend.piece_bytes ({frontend.piece_bytes}) is over "
            f"frontend.message_bytes_max ({frontend.message_bytes_max}): no piece would fit into a message"
        )
    if frontend.piece_bytes > frontend.staging_bytes:
        raise InvalidArgument(
            f"frontend.piece_bytes ({frontend.piece_bytes}) is over "
            f"frontend.staging_bytes ({frontend.staging_bytes}): no piece would fit into that memory"
        )
    if frontend.put_bytes_max > frontend.staging_bytes:
        raise InvalidArgument(
            f"frontend.put_bytes_max ({frontend.put_bytes_max}) is over "
            f"frontend.staging_bytes ({frontend.staging_bytes}): such a put could never be taken"
        )
    if frontend.enabled and frontend.drain_s >= config.supervisor.stop_s:
        raise InvalidArgument(
            f"frontend.drain_s ({frontend.drain_s:g}) must be under supervisor.stop_s "
            f"({config.supervisor.stop_s:g}): calls would be cut off while they are waited for"
        )


def _shards(config: NodeConfig) -> list[NodeConfig]:
    """The settings of each shard of the node."""
    count, hot = config.supervisor.shards, config.shard.hot
    for text in config.shard.listen:
        _named("shard.listen", text, parse_address)
    if hot.bytes and hot.bytes // count < hot.arena_bytes:
        raise InvalidArgument(
            f"shard.hot.bytes ({hot.bytes}) for {count} shards (supervisor.shards) is less than "
            f"shard.hot.arena_bytes ({hot.arena_bytes}) for each of them"
        )
    if count > 1 and config.frontend.advertise and config.frontend.shard:
        raise InvalidArgument(
            "frontend.advertise is for the node's own shards, and frontend.shard names another"
        )
    return [shard_settings(config, number) for number in range(count)]


def _addresses(
    config: NodeConfig, parts: Collection[str], shards: Sequence[NodeConfig]
) -> Iterator[tuple[str, Address]]:
    """Every address that these parts would listen on, by the key that names it."""
    named = [
        (f" of {shard_name(number, len(shards))}" if len(shards) > 1 else "", shard)
        for number, shard in enumerate(shards)
    ]
    for of, shard in named if "shard" in parts else ():
        for place, text in enumerate(shard.shard.listen):
            name = "shard.listen" if len(shard.shard.listen) == 1 else f"shard.listen[{place}]"
            yield name + of, _named("shard.listen", text, parse_address)
    if "metadata" in parts:
        name = "metadata_service.listen"
        yield name, _named(name, config.metadata_service.listen, parse_host_port)
    if "frontend" in parts:
        listen = _named("frontend.listen", config.frontend.listen, parse_host_port)
        yield "frontend.listen", listen
        if config.frontend.admin_listen:
            admin = _named("frontend.admin_listen", config.frontend.admin_listen, parse_host_port)
            yield "frontend.admin_listen", admin
        elif listen.port:
            if listen.port == PORT_MAX:
                raise InvalidArgument(
                    f"frontend.listen: port {PORT_MAX} leaves none for the admin port, which is the next "
                    "one: take a lower port, or set frontend.admin_listen"
                )
            yield "the admin port of frontend.listen", Address(host=listen.host, port=listen.port + 1)
    for process in PROCESSES:
        for of, each in named if process == "shard" else [("", config)]:
            text = getattr(each.metrics, process)
            if text and process in parts:
                yield f"metrics.{process}{of}", _named(f"metrics.{process}", text, parse_host_port)


def _check_reach(config: NodeConfig, addresses: dict[str, Address], process: str) -> None:
    # `mezzo serve` has a flag for each part.
    flags = {"shard": "--insecure", "frontend": "--insecure" if process == "frontend" else "--insecure-grpc"}
    authenticated = authenticates(config)
    for name, address in addresses.items():
        if "shard." in name and "metrics." not in name:
            guard = shard_guard(config.shard, address, authenticated=authenticated)
        elif name == "metadata_service.listen":
            guard = service_guard(config)
        elif "frontend." in name and "metrics." not in name:
            guard = replace(frontend_guard(config), flag=flags["frontend"])
        else:
            guard = metrics_guard(config.metrics)
        check_reach(name, address, guard)


def _check_tls(config: NodeConfig, parts: Collection[str]) -> None:
    tls = config.tls
    if bool(tls.certificate) != bool(tls.key):
        one, other = ("certificate", "key") if tls.certificate else ("key", "certificate")
        raise InvalidArgument(f"tls.{one} is set and tls.{other} is not: a certificate needs its key")
    if tls.client_certificates == "required" and not tls.client_ca:
        raise InvalidArgument(
            "tls.client_certificates is required: set tls.client_ca to the authorities that sign them"
        )
    if "shard" in parts and not tls.certificate:
        for text in config.shard.listen:
            if text.startswith("tcps://"):
                raise InvalidArgument(
                    f"shard.listen: {text} needs a certificate: set tls.certificate and tls.key"
                )


def _check_collisions(addresses: dict[str, Address]) -> None:
    seen: list[tuple[str, Address]] = []
    for name, address in addresses.items():
        for other, taken in seen:
            if address.collides(taken):
                raise InvalidArgument(f"{name} and {other} are both {address}: each needs its own")
        seen.append((name, address))


def _named(name: str, text: str, parse: Callable[[str], object]) -> Address:
    try:
        parsed = parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{name}: {error}") from None
    return parsed if isinstance(parsed, Address) else Address()
