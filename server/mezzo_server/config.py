"""The one schema of a shard's settings: TOML file, environment and flags.

Later wins: built-in defaults, the file, ``MEZZO_SHARD_...`` variables, flags.  A key that is not
here is refused, with the nearest one that is.  Sizes may be numbers of bytes or text such as
``"4GiB"``; docs/operating.md lists every key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import InvalidArgument
from mezzo.protocol.messages import KEYS_MAX, U32_MAX

ENV_PREFIX = "MEZZO_SHARD_"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the shard grants to one connection, and to all of them together."""

    connections_max: Count = 1024
    """connections at a time; one more is refused"""
    requests_max: Annotated[int, Meta(ge=1, le=65536)] = 256
    """requests in flight on one connection; one more is answered ``Busy``"""
    keys_max: Annotated[int, Meta(ge=1, le=KEYS_MAX)] = KEYS_MAX
    """keys in one request"""
    chunk_bytes_max: Annotated[int, Meta(ge=1, le=U32_MAX)] = 64 * MIB
    """bytes of one chunk"""
    body_bytes_max: Annotated[int, Meta(ge=4 * KIB, le=64 * MIB)] = 512 * KIB
    """bytes of a frame's body (payload is counted apart)"""
    in_flight_bytes_max: Bytes = 256 * MIB
    """bytes that one connection has on their way at a time over shm; what is over it waits its turn"""
    staging_bytes: Bytes = 256 * MIB
    """memory that payloads of all connections pass through: puts over tcp, regions that cannot be mapped"""
    staging_connection_bytes_max: Bytes = 128 * MIB
    """the most that one connection holds of it; what is over it waits its turn"""
    output_bytes_max: Bytes = 1 * MIB
    """answers waiting for one client to read them; over it no more of its requests are read"""
    regions_max: Annotated[int, Meta(ge=0, le=4096)] = 64
    """regions of one connection"""
    region_bytes_max: Bytes = 64 * GIB
    """bytes in all regions of one connection"""
    region_bytes_total_max: Bytes = 512 * GIB
    """bytes in the regions of all connections"""
    leases_max: Count = 65536
    """leases at a time, over all connections"""
    leased_fraction: Fraction = 0.25
    """share of the devices' bytes that leases may hold at a time"""
    lease_ms_max: Count = 600_000
    """the longest lease, milliseconds; a longer wish gets this"""
    handshake_timeout_s: Seconds = 5.0
    """a connection that has not said HELLO by then is closed"""
    stall_timeout_s: Seconds = 20.0
    """a client that neither sends payload that it was granted nor reads what it asked for, for so
    long, is disconnected"""


class ShardConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one shard."""

    listen: list[str] = msgspec.field(default_factory=lambda: ["unix:///tmp/mezzo.sock"])
    """addresses: ``unix:///path`` or ``tcp://host:port`` (port 0: any free one)"""
    insecure: bool = False
    """allow TCP addresses that other hosts can reach, although nothing is encrypted"""
    devices: list[str] = []
    """each a file, a block device, ``memory:SIZE`` or ``null:SIZE``"""
    capacity_bytes: Natural = 0
    """size of each device that is a file; 0: as large as the file is already"""
    format: bool = False
    """initialise devices that hold anything but a store of ours; what was there is lost"""
    io: Literal["auto", "uring", "threads"] = "auto"
    """how files and block devices are reached; ``auto``: io_uring where it works"""
    depth: Annotated[int, Meta(ge=1, le=4096)] = 128
    """transfers in flight on one device"""
    durability: Literal["process", "power"] = "process"
    """what an acknowledged put survives: the end of the process, or of the power too"""
    policy: Literal["fifo", "lru"] = "fifo"
    """which chunks go when space is needed"""
    segment_bytes: Natural = 0
    """unit of space on a device, chosen when it is formatted; 0: by the device's size"""
    scrub_bytes_per_s: Natural = 16 * MIB
    """rate at which stored bytes are verified in the background; 0: not at all"""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """threads that checksum and copy off the event loop"""
    store_staging_bytes: Bytes = 64 * MIB
    """memory of the block store for unaligned ends, rewriting and verification"""
    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    """event loop; ``auto``: uvloop where it is installed"""
    limits: Limits = Limits()


def parse_size(text: str) -> int:
    """Bytes of ``"512MiB"``, ``"4 GiB"``, ``"1e6"`` or ``"4096"``; decimal units (kB, MB, ...) too.

    Raises:
        InvalidArgument: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no size; write for example 512MiB, 4GiB or a number of bytes")
    number, unit, binary = match.groups()
    power = " kMGT".index(unit.replace("K", "k") or " ")
    # K, M, G alone mean powers of 1024, as in dd, fio and qemu; MB and GB are decimal.
    decimal = unit and not binary and text.strip()[-1] in "bB"
    return int(float(number.replace("_", "")) * (1000 if decimal else 1024) ** power)


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> ShardConfig:
    """Settings from a TOML file, the environment and flags (``None`` values are not set).

    Raises:
        InvalidArgument: unreadable file, unknown key, wrong type or value; the message names it.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path} is not valid TOML: {error}") from None
    _check_keys(merged, ShardConfig, str(path))
    _merge(merged, _from_environ(environ or {}))
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _check_keys(given, ShardConfig, "flags")
    _merge(merged, given)
    _parse_sizes(merged, ShardConfig, "")
    try:
        config = msgspec.convert(merged, ShardConfig, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"configuration: {error}") from None
    _check_together(config)
    return config


def env_names() -> dict[str, tuple[str, ...]]:
    """Each environment variable and the path of the key that it sets."""
    return {ENV_PREFIX + "_".join(path).upper(): path for path in _paths(ShardConfig)}


def _paths(schema: type[Struct], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(schema):
        path = (*prefix, field.name)
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _paths(field.type, path)
        else:
            yield path


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    names = env_names()
    result: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        if name not in names:
            raise InvalidArgument(f"environment: {_unknown(name, names)}")
        path = names[name]
        table = result
        for part in path[:-1]:
            table = table.setdefault(part, {})
        is_list = path in (("listen",), ("devices",))
        table[path[-1]] = [item for item in text.split(",") if item] if is_list else text
    return result


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, Mapping) else value


def _check_keys(table: Mapping[str, Any], schema: type[Struct], where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(schema)}
    for name, value in table.items():
        if name not in fields:
            raise InvalidArgument(f"{where}: {_unknown(name, fields)}")
        inner = fields[name]
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, Struct):
            _check_keys(value, inner, f"{where}, [{name}]")


def _unknown(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _parse_sizes(table: dict[str, Any], schema: type[Struct], prefix: str) -> None:
    """Turn texts of keys with ``bytes`` in their name into numbers."""
    for name, value in table.items():
        if isinstance(value, dict):
            _parse_sizes(value, schema, f"{prefix}{name}.")
        elif "bytes" in name and isinstance(value, str):
            try:
                table[name] = parse_size(value)
            except InvalidArgument as error:
                raise InvalidArgument(f"{prefix}{name}: {error}") from None


def _check_together(config: ShardConfig) -> None:
    """Rules between keys."""
    if not config.listen:
        raise InvalidArgument("listen: at least one address is needed")
    limits = config.limits
    if limits.staging_connection_bytes_max > limits.staging_bytes:
        raise InvalidArgument(
            f"limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}) is over "
            f"limits.staging_bytes ({limits.staging_bytes})"
        )
    if limits.chunk_bytes_max > limits.staging_connection_bytes_max:
        raise InvalidArgument(
            f"limits.chunk_bytes_max ({limits.chunk_bytes_max}) is over "
            f"limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}): "
            "such a chunk could never be put over tcp"
        )
