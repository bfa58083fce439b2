"""A plan as bytes: MessagePack arrays with a version; the map within it as clients get it. No I/O."""

from __future__ import annotations

import zlib
from array import array
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import FormatError, TooLarge
from mezzo.placement.pod_map import ENCODED_BYTES_MAX, Id, decode_map, encode_map, inflated, little_endian
from mezzo.placement.rendezvous import SHARDS_MAX
from mezzo_server.metadata.engine import VALUE_BYTES_MAX
from mezzo_server.pod.plan import REMEMBERED_MAX, Plan
from mezzo_server.pod.tuning import TUNING_MAX, TUNING_MIN

VERSION = 1
TIMES_MAX = 1 << 16
"""different times at which slots moved"""

Time = Annotated[float, Meta(ge=-1e12, le=1e12)]
Tuning = Annotated[int, Meta(ge=TUNING_MIN, le=TUNING_MAX)]


class _Plan(Struct, frozen=True, array_like=True):
    version: Annotated[int, Meta(ge=0, lt=1 << 31)]
    pod_map: Annotated[bytes, Meta(max_length=ENCODED_BYTES_MAX)]
    tunings: Annotated[tuple[tuple[Id, Tuning], ...], Meta(max_length=SHARDS_MAX + REMEMBERED_MAX)]
    began: Annotated[tuple[tuple[Id, Time], ...], Meta(max_length=SHARDS_MAX)]
    left: Annotated[tuple[tuple[Id, Time], ...], Meta(max_length=REMEMBERED_MAX)]
    times: Annotated[tuple[Time, ...], Meta(max_length=TIMES_MAX)]
    """at which slots moved"""
    moved: Annotated[bytes, Meta(max_length=ENCODED_BYTES_MAX)]
    """for each slot of the map's ``previous``, in their order, the index of its time; 16 bits, little-endian, deflated"""


_DECODER = msgspec.msgpack.Decoder(_Plan)


def encode_plan(plan: Plan) -> bytes:
    """See `decode_plan`.

    Raises:
        TooLarge: the metadata do not take it; the pod has too many slots, of which too many moved.
    """
    times = sorted(set(plan.moved.values()))
    if len(times) > TIMES_MAX:
        raise TooLarge(f"slots moved at {len(times)} different times, over {TIMES_MAX}")
    index_of = {at: index for index, at in enumerate(times)}
    moved = array("H", [index_of[plan.moved[slot]] for slot in sorted(plan.pod_map.previous)])
    data = msgspec.msgpack.encode(
        _Plan(
            VERSION,
            encode_map(plan.pod_map),
            tuple(sorted(plan.tunings.items())),
            tuple(sorted(plan.began.items())),
            tuple(sorted(plan.left.items())),
            tuple(times),
            zlib.compress(little_endian(moved).tobytes(), 6) if moved else b"",
        )
    )
    if len(data) > VALUE_BYTES_MAX:
        raise TooLarge(f"a plan of {len(data)} bytes; the metadata take {VALUE_BYTES_MAX}: use fewer slots")
    return data


def decode_plan(data: bytes) -> Plan:
    """A plan as `encode_plan` gave it.

    Raises:
        FormatError: it is none, or one of a later version.
    """
    if len(data) > VALUE_BYTES_MAX:
        raise FormatError(f"a plan of {len(data)} bytes; at most {VALUE_BYTES_MAX}")
    try:
        body = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"this is no plan of a pod: {error}") from None
    if body.version != VERSION:
        raise FormatError(f"a plan of version {body.version}; this program reads version {VERSION}")
    pod_map = decode_map(body.pod_map)
    slots = sorted(pod_map.previous)
    indexes = _indexes(body.moved, len(slots))
    if any(index >= len(body.times) for index in set(indexes)):
        raise FormatError("this is no plan of a pod: a slot moved at no time")
    plan = Plan(
        pod_map,
        dict(body.tunings),
        dict(body.began),
        dict(body.left),
        {slot: body.times[index] for slot, index in zip(slots, indexes, strict=True)},
    )
    _check(plan, body)
    return plan


def _check(plan: Plan, body: _Plan) -> None:
    here = {shard.id for shard in plan.pod_map.shards}
    if not plan.began.keys() <= here or plan.left.keys() & here:
        raise FormatError("this is no plan of a pod: who joins is not there, or who left is")
    for given, taken in ((body.tunings, plan.tunings), (body.began, plan.began), (body.left, plan.left)):
        if len(given) != len(taken):
            raise FormatError("this is no plan of a pod: a shard stands twice")


def _indexes(data: bytes, count: int) -> array[int]:
    indexes = array("H")
    if data:
        indexes.frombytes(inflated(data, 2 * count))
    if len(indexes) != count:
        raise FormatError("this is no plan of a pod: times of another number of slots")
    return little_endian(indexes)
