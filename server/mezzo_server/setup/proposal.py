"""Decides what a node on this machine should be, and says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size, format_size
from mezzo_server.config.addresses import parse_address
from mezzo_server.machine import Host
from mezzo_server.machine.memory import MemorySeen, memory_seen
from mezzo_server.setup.capacity import choose_capacity
from mezzo_server.setup.places import Place, metadata_file, named, nice_floor, state_file, unused_disks

HOT_SHARE = 0.25
HOT_BYTES_MAX = 64 * 1024**3
ARENA_BYTES = 64 * 1024**2
CORES_PER_WORKER = 4
WORKERS_MAX = 8
DEFAULT_SOCKET = "/tmp/mezzo.sock"  # noqa: S108  where the SDK and the commands look first
INDEX_BYTES = 200
"""of memory for each chunk (ARCHITECTURE.md)"""


class Wishes(Struct, frozen=True):
    """What was asked for; the rest is decided."""

    devices: tuple[str, ...] = ()
    capacity_bytes: int | None = None
    hot_bytes: int | None = None
    listen: tuple[str, ...] = ()
    metadata: bool = False
    """a place for tenants, namespaces and credentials"""


class Choice(Struct, frozen=True):
    """One key of the configuration."""

    table: str
    key: str
    value: str | int | bool | list[str]
    why: str
    """for whoever reads the file"""


class DeviceSeen(Struct, frozen=True):
    """One device of the proposal."""

    path: str
    kind: str
    bytes: int


class MachineSeen(Struct, frozen=True):
    """What was looked at."""

    cores: int
    memory_bytes: int
    """that a node can count on"""
    kernel: str
    architecture: str
    user: int


class Proposal(Struct, frozen=True):
    """What ``mezzo setup --json`` prints, with the file itself."""

    machine: MachineSeen
    devices: list[DeviceSeen]
    choices: list[Choice]
    notes: list[str]
    """what was seen and is no key"""


def propose(host: Host, wishes: Wishes) -> Proposal:
    """A node for this machine. The same machine gets the same answer, before and after it runs.

    Raises:
        InvalidArgument: a wish cannot be fulfilled, or nowhere is room for a device.
    """
    notes: list[str] = []
    memory = memory_seen(host)
    choices = _listen(host, wishes.listen)
    places = _places(host, wishes.devices, notes)
    device_choices, devices = _devices(places, wishes.capacity_bytes)
    choices += device_choices
    cores = host.cores()
    if cores >= 2 * CORES_PER_WORKER:
        workers = min(WORKERS_MAX, cores // CORES_PER_WORKER)
        choices.append(
            Choice("shard", "workers", workers, f"Threads that checksum and copy: there are {cores} cores.")
        )
    choices += _hot(memory, wishes.hot_bytes, notes)
    choices += _frontend(host)
    if wishes.metadata:
        choices.append(_metadata(host, places))
    _remark(host, devices, memory, notes)
    machine = MachineSeen(cores, memory.usable_bytes, host.kernel(), host.architecture(), host.user())
    return Proposal(machine, devices, choices, notes)


def _listen(host: Host, asked: Sequence[str]) -> list[Choice]:
    if asked:
        parsed = [parse_address(text) for text in asked]
        if any(address.tls for address in parsed):
            raise InvalidArgument(
                "--listen: a tcps:// address needs a certificate, which this cannot make up: let it propose the rest, then "
                "add the address and a table [tls] with certificate and key (docs/tls.md)"
            )
        choices = [Choice("shard", "listen", list(asked), "Where clients find the shard, as asked for.")]
        if not all(address.is_local for address in parsed):
            why = "Other hosts can reach it, and nothing is encrypted: only on a network that you trust."
            choices.append(Choice("shard", "insecure", True, why))
        return choices
    path = DEFAULT_SOCKET
    owner = host.owner(path)
    runtime = host.environ.get("XDG_RUNTIME_DIR")
    why = "Where clients on this host find the shard; it is where they look by themselves."
    if owner not in (None, host.user()) and host.user() and runtime and host.may_write(runtime):
        path = f"{runtime}/mezzo.sock"
        why = f"Where clients on this host find the shard ({DEFAULT_SOCKET} belongs to another user)."
    why += ' For other hosts add "tcp://ADDRESS:7700", and insecure = true if you trust the network, or "tcps://" (docs/tls.md).'
    return [Choice("shard", "listen", [f"unix://{path}"], why)]


def _places(host: Host, asked: Sequence[str], notes: list[str]) -> list[Place]:
    if asked:
        places = [named(host, path) for path in asked]
        twice = [path for path, count in Counter(place.path for place in places).items() if count > 1]
        if twice:
            raise InvalidArgument(f"--device {twice[0]} is given twice")
        return places
    return unused_disks(host, notes) or [state_file(host, notes)]


def _devices(places: list[Place], asked_bytes: int | None) -> tuple[list[Choice], list[DeviceSeen]]:
    files = [place for place in places if place.kind == "file"]
    paths = [place.path for place in places]
    if not files:
        if asked_bytes is not None:
            smallest = min(place.size_bytes for place in places)
            if asked_bytes > smallest:
                raise InvalidArgument(
                    f"--capacity {format_size(asked_bytes)}: the smallest device has {format_size(smallest)}"
                )
        seen = [DeviceSeen(place.path, place.kind, asked_bytes or place.size_bytes) for place in places]
        why = "Block devices that nobody uses; the store takes all of each. What is on them will be overwritten."
        choices = [Choice("shard", "devices", paths, why)]
        if asked_bytes is not None:
            choices.append(
                Choice("shard", "capacity_bytes", format_size(asked_bytes), "Of each, as asked for.")
            )
        return choices, seen
    capacity_bytes, why = choose_capacity(places, asked_bytes)
    seen = [DeviceSeen(place.path, place.kind, capacity_bytes) for place in places]
    where = " and ".join(dict.fromkeys(place.filesystem for place in files))
    return [
        Choice(
            "shard", "devices", paths, f"Where the chunks are: preallocated at the first start, on {where}."
        ),
        Choice("shard", "capacity_bytes", format_size(capacity_bytes), why),
    ], seen


def _hot(memory: MemorySeen, asked_bytes: int | None, notes: list[str]) -> list[Choice]:
    if asked_bytes is not None:
        if asked_bytes > memory.usable_bytes:
            raise InvalidArgument(
                f"--hot {format_size(asked_bytes)}: there are {about_size(memory.usable_bytes)} of memory"
            )
        if 0 < asked_bytes < ARENA_BYTES:
            raise InvalidArgument(
                f"--hot {format_size(asked_bytes)}: less than one arena ({format_size(ARENA_BYTES)})"
            )
        return (
            [Choice("shard.hot", "bytes", format_size(asked_bytes), "As asked for.")] if asked_bytes else []
        )
    hot_bytes = nice_floor(min(memory.usable_bytes * HOT_SHARE, HOT_BYTES_MAX))
    if hot_bytes > memory.available_bytes / 2:
        hot_bytes = nice_floor(memory.available_bytes / 4)
        notes.append(
            f"the hot tier is small, for only {about_size(memory.available_bytes)} of memory are available"
        )
    if hot_bytes < ARENA_BYTES:
        notes.append("no hot tier: there is too little memory for one")
        return []
    why = f"Memory for chunks that are asked for again: a quarter of {about_size(memory.usable_bytes)}."
    if hot_bytes == HOT_BYTES_MAX:
        why = f"Memory for chunks that are asked for again; there are {about_size(memory.usable_bytes)}."
    return [Choice("shard.hot", "bytes", format_size(hot_bytes), why)]


def _frontend(host: Host) -> list[Choice]:
    missing = [name for name in ("grpc", "google.protobuf") if host.module(name) is not None]
    if not missing:
        return []
    why = "gRPC is not installed: pip install 'mezzo[server]' and remove this line."
    return [Choice("frontend", "enabled", False, why)]


def _metadata(host: Host, places: list[Place]) -> Choice:
    beside = next((place.path for place in places if place.kind == "file"), None)
    why = (
        "Where tenants, namespaces and credentials are kept: a small file, as asked for. Back it up. Callers without "
        'a credential are of the tenant "default"; [access] anonymous = "" refuses them (docs/access.md).'
    )
    return Choice("metadata", "engine", f"sqlite://{metadata_file(host, beside)}", why)


def _remark(host: Host, devices: list[DeviceSeen], memory: MemorySeen, notes: list[str]) -> None:
    """What is no key, but good to know."""
    total_bytes = sum(device.bytes for device in devices)
    index_bytes = total_bytes // (256 * 1024) * INDEX_BYTES
    if index_bytes > memory.usable_bytes // 4:
        notes.append(
            f"full of chunks of 256 KiB the index takes {about_size(index_bytes)} of memory: larger chunks, or a "
            "smaller --capacity"
        )
    if host.cores() >= 2 * CORES_PER_WORKER:
        notes.append(
            "one shard keeps one core busy, and its workers: mezzo serve --shards N runs more (docs/shards.md)"
        )
    if host.uring().error or host.hash_variant() is None:
        notes.append("I/O will not go through io_uring as it is now: mezzo doctor says what to do")
