"""Which part of tenants' quotas each shard of a pod enforces, and what shards say that they use: as stored. No I/O.

- `records.PARTS`: the parts in force, MessagePack.  Changed by check-and-set only, by whoever plans (`sharing`).
- `records.USES` + id: what one shard enforces and uses, MessagePack; under its metadata lease, written by its own
  process only.  It tells of the tenants near their part there, and of those whose parts were weighed.

Parts are points of a quota, of `quota.part.POINTS`, so that another quota needs no other parts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import FormatError, TooLarge
from mezzo.placement.pod_map import Id, little_endian
from mezzo.placement.rendezvous import SHARDS_MAX
from mezzo_server.metadata.engine import VALUE_BYTES_MAX
from mezzo_server.quota.account import LIMITS
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS, Part

VERSION = 1
ROWS_MAX = 1024
"""limits of tenants whose parts are weighed, or that one shard tells of"""
ROWS_BYTES_MAX = VALUE_BYTES_MAX // 2
"""that their points take, as far as they are chosen: so that the record fits when there are more shards, too"""
MARK_BYTES = 8
USED_POINTS_MAX = (1 << 32) - 1

Row = tuple[bytes, int]
"""a tenant, and one of its limits: its place in `quota.account.LIMITS`"""

LimitAt = Annotated[int, Meta(ge=0, lt=len(LIMITS))]
Used = Annotated[int, Meta(ge=0, le=USED_POINTS_MAX)]
Mark = Annotated[bytes, Meta(max_length=MARK_BYTES)]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of all shards. Of each limit they are together no more than the quota and a sixteenth."""

    number: int = 0
    """of the round; 0: nothing was divided yet"""
    shards: tuple[bytes, ...] = ()
    """in the order of their ids"""
    default: tuple[int, ...] = ()
    """points of each shard, of every limit that is in no row"""
    rows: Mapping[Row, tuple[int, ...]] = field(default_factory=dict)
    """points of each shard, of limits whose parts were weighed"""
    settled: bool = False
    """this is what was wanted: no further round is on its way"""


NOTHING_DIVIDED = Parts()


class _Parts(Struct, frozen=True, array_like=True):
    version: Annotated[int, Meta(ge=0, lt=1 << 31)]
    number: Annotated[int, Meta(ge=1, lt=1 << 62)]
    shards: Annotated[tuple[Id, ...], Meta(max_length=SHARDS_MAX)]
    settled: bool
    default: Annotated[bytes, Meta(max_length=4 * SHARDS_MAX)]
    """32 bits for each shard, little-endian; so are those of the rows, one after the other"""
    rows: Annotated[tuple[tuple[Id, LimitAt], ...], Meta(max_length=ROWS_MAX)]
    points: Annotated[bytes, Meta(max_length=VALUE_BYTES_MAX)]


class UsedRow(Struct, frozen=True, array_like=True):
    """How one tenant stands with one limit at one shard, in points of its quota."""

    tenant: Id
    limit: LimitAt
    used: Used
    wanted: Used
    """what it would use if it might; as much as ``used``, if nothing was refused"""


class Use(Struct, frozen=True, array_like=True):
    """What one shard says."""

    mark: Mark = b""
    """of the parts that it enforces, and will not go back behind; empty: of none"""
    rows: Annotated[tuple[UsedRow, ...], Meta(max_length=ROWS_MAX)] = ()
    """all rows of the parts that it enforced when it looked, and then those where its own part is nearly used"""


_DECODER = msgspec.msgpack.Decoder(_Parts)
_USE_DECODER = msgspec.msgpack.Decoder(Use)


def rows_max(shards: int) -> int:
    """Rows that fit the record of a pod of so many shards."""
    return min(ROWS_MAX, ROWS_BYTES_MAX // (4 * max(1, shards)))


def mark_of(data: bytes) -> bytes:
    """What parts are called by who enforces them; other bytes have another."""
    return hashlib.blake2b(data, digest_size=MARK_BYTES).digest()


def encode_parts(parts: Parts) -> bytes:
    """See `decode_parts`.

    Raises:
        TooLarge: the metadata do not take them.
    """
    points = array("I")
    for row in parts.rows.values():
        points.extend(row)
    data = msgspec.msgpack.encode(
        _Parts(
            VERSION,
            parts.number,
            parts.shards,
            parts.settled,
            little_endian(array("I", parts.default)).tobytes(),
            tuple(parts.rows),
            little_endian(points).tobytes(),
        )
    )
    if len(data) > VALUE_BYTES_MAX:
        raise TooLarge(f"parts of quotas of {len(data)} bytes; the metadata take {VALUE_BYTES_MAX}")
    return data


def decode_parts(data: bytes) -> Parts:
    """Parts as `encode_parts` gave them.

    Raises:
        FormatError: these are none, or of a later version.
    """
    body = _body(data)
    count = len(body.shards)
    points = iter(_points(body.points, count * len(body.rows)))
    return Parts(
        body.number,
        body.shards,
        tuple(_points(body.default, count)),
        {row: tuple(islice(points, count)) for row in body.rows},
        body.settled,
    )


def part_of(data: bytes, shard: bytes) -> Part:
    """What one shard is to enforce. Raises FormatError as `decode_parts`."""
    body = _body(data)
    count, mark = len(body.shards), mark_of(data)
    if shard not in body.shards:
        return Part(NEWCOMER_POINTS, settled=False, mark=mark)
    place = body.shards.index(shard)
    points = _points(body.points, count * len(body.rows))[place::count]
    exceptions: dict[bytes, dict[int, int]] = {}
    for (tenant, limit), own in zip(body.rows, points, strict=True):
        exceptions.setdefault(tenant, {})[limit] = own
    return Part(_points(body.default, count)[place], exceptions, body.settled, mark)


def encode_use(use: Use) -> bytes:
    """See `decode_use`."""
    return msgspec.msgpack.encode(use)


def decode_use(key: str, data: bytes) -> Use:
    """A use as `encode_use` gave it.

    Raises:
        FormatError: it is none; the message names its key.
    """
    try:
        return _USE_DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the metadata record {key} is malformed: {error}") from None


def _body(data: bytes) -> _Parts:
    if len(data) > VALUE_BYTES_MAX:
        raise FormatError(f"parts of {len(data)} bytes; at most {VALUE_BYTES_MAX}")
    try:
        body = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"these are no parts of quotas: {error}") from None
    if body.version != VERSION:
        raise FormatError(f"parts of quotas of version {body.version}; this program reads version {VERSION}")
    if list(body.shards) != sorted(set(body.shards)) or len(set(body.rows)) < len(body.rows):
        raise FormatError("these are no parts of quotas: something stands twice, or in another order")
    return body


def _points(data: bytes, count: int) -> array[int]:
    if len(data) != 4 * count:
        raise FormatError("these are no parts of quotas: of another number of shards or rows")
    points = array("I")
    points.frombytes(data)
    points = little_endian(points)
    if points and max(points) > POINTS:
        raise FormatError("these are no parts of quotas: one is more than a whole")
    return points
