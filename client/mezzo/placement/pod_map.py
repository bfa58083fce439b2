"""The map of a pod at one epoch: its shards, and who owns each slot. Made by the metadata service, used by all.

Encoded as MessagePack; docs/placement.md has the fields in words.  A table is little-endian 16-bit numbers,
deflated.  A `Difference` leads from the map of one epoch to that of another.  No I/O.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import FormatError, InvalidArgument
from mezzo.placement.rendezvous import NOBODY, SHARDS_MAX, WEIGHT_MAX
from mezzo.placement.slots import SLOTS_LOG2_MAX, SLOTS_LOG2_MIN, namespace_seed, slot_of

VERSION = 1
NAME_CHARACTERS_MAX = 253
ADDRESSES_MAX = 8
ENCODED_BYTES_MAX = 8 << 20

Id = Annotated[bytes, Meta(min_length=16, max_length=16)]
Name = Annotated[str, Meta(max_length=NAME_CHARACTERS_MAX)]
Epoch = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
SlotsLog2 = Annotated[int, Meta(ge=SLOTS_LOG2_MIN, le=SLOTS_LOG2_MAX)]


class ShardState(IntEnum):
    """What a shard of the map is for."""

    SERVING = 0
    JOINING = 1
    """takes more load from epoch to epoch"""
    DRAINING = 2
    """owns nothing any more, and still has what was put before"""


class ShardPlace(Struct, frozen=True, array_like=True):
    """One shard: who it is, where it is, and how much it takes."""

    id: Id
    node: Name
    """shards of one node fail together"""
    rack: Name
    """nodes of one rack fail together; empty: not known"""
    addresses: Annotated[tuple[Name, ...], Meta(max_length=ADDRESSES_MAX)]
    """unix://, tcp:// or tcps://, the best first"""
    weight: Annotated[int, Meta(ge=0, le=WEIGHT_MAX)]
    state: ShardState = ShardState.SERVING


class PodMap:
    """Immutable. ``table[slot]`` is the index in ``shards`` of the slot's owner; `NOBODY`: there is none.

    ``previous`` has, for slots that moved lately, the index of who owned them before; it may still have the
    chunks, and is asked once before they are called missing.

    ``seconds[slot]`` is the index of who has the second copy of a chunk that has one, `NOBODY` if there is none;
    empty: the map says nothing of second copies.
    """

    __slots__ = ("_shift", "epoch", "pod", "previous", "seconds", "shards", "slots_log2", "table")

    def __init__(
        self,
        pod: bytes,
        epoch: int,
        slots_log2: int,
        shards: Sequence[ShardPlace],
        table: Sequence[int],
        previous: Mapping[int, int],
        seconds: Sequence[int] = (),
    ) -> None:
        """Raises InvalidArgument: they do not fit together."""
        self.pod = pod
        self.epoch = epoch
        self.slots_log2 = slots_log2
        self.shards = tuple(shards)
        self.table = table if isinstance(table, array) else array("H", table)
        self.previous = dict(previous)
        self.seconds = seconds if isinstance(seconds, array) else array("H", seconds)
        self._shift = 64 - slots_log2
        self._check()

    def __repr__(self) -> str:
        return f"<PodMap epoch {self.epoch}, {len(self.shards)} shards, {len(self.table)} slots>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PodMap) and self._parts() == other._parts()

    __hash__ = None  # type: ignore[assignment]

    def slot(self, tenant_id: bytes, namespace_id: bytes, key: bytes) -> int:
        """The slot of a chunk. For many of one namespace: `mezzo.placement.slots`."""
        return slot_of(key, namespace_seed(tenant_id, namespace_id), self.slots_log2)

    def owner(self, slot: int) -> ShardPlace | None:
        """Whose a slot is; None: nobody's."""
        index = self.table[slot]
        return None if index == NOBODY else self.shards[index]

    def owner_before(self, slot: int) -> ShardPlace | None:
        """Who had a slot that moved lately; None: it did not move."""
        index = self.previous.get(slot)
        return None if index is None else self.shards[index]

    def second(self, slot: int) -> ShardPlace | None:
        """Who has the second copy of a chunk of a slot, if it has one; None: nobody."""
        index = self.seconds[slot] if self.seconds else NOBODY
        return None if index == NOBODY else self.shards[index]

    def _parts(self) -> tuple[object, ...]:
        return self.pod, self.epoch, self.slots_log2, self.shards, self.table, self.previous, self.seconds

    def _check(self) -> None:
        slots, count = 1 << self.slots_log2, len(self.shards)
        if len(self.pod) != 16 or self.epoch < 0:
            raise InvalidArgument("a map has a pod's id of 16 bytes, and an epoch")
        if not SLOTS_LOG2_MIN <= self.slots_log2 <= SLOTS_LOG2_MAX or len(self.table) != slots:
            raise InvalidArgument(f"a table of {len(self.table)} slots, where there should be {slots}")
        if count > SHARDS_MAX or len({shard.id for shard in self.shards}) < count:
            raise InvalidArgument("too many shards, or one twice")
        if any(index >= count and index != NOBODY for index in set(self.table)):
            raise InvalidArgument("a slot's owner is none of the shards")
        if any(not 0 <= slot < slots or not 0 <= index < count for slot, index in self.previous.items()):
            raise InvalidArgument("who owned a slot before is none of the shards, or there is no such slot")
        if self.seconds and (
            len(self.seconds) != slots
            or any(index >= count and index != NOBODY for index in set(self.seconds))
        ):
            raise InvalidArgument(
                "a slot's second is none of the shards, or there are more or fewer than slots"
            )


class _Map(Struct, frozen=True, array_like=True):
    version: Annotated[int, Meta(ge=0, lt=1 << 31)]
    pod: Id
    epoch: Epoch
    slots_log2: SlotsLog2
    shards: Annotated[tuple[ShardPlace, ...], Meta(max_length=SHARDS_MAX)]
    table: bytes
    """deflated"""
    moved: bytes
    """slots that moved lately, each followed by who had it, 32-bit and 16-bit numbers; deflated"""
    seconds: bytes = b""
    """who is second for each slot: the low bytes of all, then the high ones (which nearly vanish); deflated"""


class Difference(Struct, frozen=True, array_like=True):
    """What changes from the map of epoch ``base`` to that of ``epoch``."""

    version: Annotated[int, Meta(ge=0, lt=1 << 31)]
    pod: Id
    base: Epoch
    epoch: Epoch
    shards: Annotated[tuple[ShardPlace | int, ...], Meta(max_length=SHARDS_MAX)]
    """those of the later map: whole, or the index that an unchanged one had in the earlier"""
    slots: bytes
    """slots whose owner is another shard now, each with its index in the later map; as ``moved`` of a map"""
    moved: bytes
    has_seconds: bool = False
    seconds: bytes = b""
    """slots whose second is another shard now, likewise; an earlier map without any counts as one of nobody"""


_MAPS = msgspec.msgpack.Decoder(_Map)
_DIFFERENCES = msgspec.msgpack.Decoder(Difference)


def encode_map(pod_map: PodMap) -> bytes:
    """See `decode_map`."""
    table = zlib.compress(little_endian(pod_map.table).tobytes(), 6)
    return msgspec.msgpack.encode(
        _Map(
            VERSION,
            pod_map.pod,
            pod_map.epoch,
            pod_map.slots_log2,
            pod_map.shards,
            table,
            _pack(pod_map.previous.items()),
            _pack_planes(pod_map.seconds) if pod_map.seconds else b"",
        )
    )


def decode_map(data: bytes) -> PodMap:
    """A map as `encode_map` gave it.

    Raises:
        FormatError: it is none, or one of a later version.
    """
    body = _decoded(_MAPS, data)
    slots = 1 << body.slots_log2
    table = array("H")
    table.frombytes(inflated(body.table, 2 * slots))
    return _made(
        lambda: PodMap(
            body.pod,
            body.epoch,
            body.slots_log2,
            body.shards,
            little_endian(table),
            dict(_unpack(body.moved, slots)),
            _unpack_planes(body.seconds, slots) if body.seconds else (),
        )
    )


def difference(base: PodMap, later: PodMap) -> Difference:
    """What leads from one map to another of the same pod.

    Raises:
        InvalidArgument: they are not of one pod, or not of as many slots.
    """
    if (base.pod, base.slots_log2) != (later.pod, later.slots_log2):
        raise InvalidArgument("two maps of different pods, or with different numbers of slots")
    known = {shard: index for index, shard in enumerate(base.shards)}
    renumbered = _renumbered(base.shards, later.shards)

    def changed(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
        return [
            (slot, now)
            for slot, (was, now) in enumerate(zip(before, after, strict=True))
            if renumbered[was] != now
        ]

    nobody = base.seconds or array("H", [NOBODY]) * len(base.table)
    return Difference(
        VERSION,
        later.pod,
        base.epoch,
        later.epoch,
        tuple(known.get(shard, shard) for shard in later.shards),
        _pack(changed(base.table, later.table)),
        _pack(later.previous.items()),
        bool(later.seconds),
        _pack(changed(nobody, later.seconds)) if later.seconds else b"",
    )


def apply(base: PodMap, step: Difference) -> PodMap:
    """The map that ``step`` leads to.

    Raises:
        InvalidArgument: it begins at another map.
        FormatError: it leads to none.
    """
    if (step.pod, step.base) != (base.pod, base.epoch):
        raise InvalidArgument(f"a difference from epoch {step.base}, for a map of epoch {base.epoch}")
    shards: list[ShardPlace] = []
    for each in step.shards:
        if isinstance(each, int):
            if not 0 <= each < len(base.shards):
                raise FormatError("a map's difference names a shard that is not there")
            each = base.shards[each]
        shards.append(each)
    renumbered = _renumbered(base.shards, shards)
    table = array("H", [renumbered[was] for was in base.table])
    for slot, index in _unpack(step.slots, len(table)):
        table[slot] = index
    previous = dict(_unpack(step.moved, len(table)))
    seconds = array("H")
    if step.has_seconds:
        seconds = array("H", [renumbered[was] for was in base.seconds or [NOBODY] * len(table)])
        for slot, index in _unpack(step.seconds, len(table)):
            seconds[slot] = index
    return _made(lambda: PodMap(base.pod, step.epoch, base.slots_log2, shards, table, previous, seconds))


def _renumbered(before: Sequence[ShardPlace], after: Sequence[ShardPlace]) -> dict[int, int]:
    """What each index of a map is in another one; `NOBODY`, which stays so: the shard is not there any more."""
    new_index = {shard.id: index for index, shard in enumerate(after)}
    indices = {index: new_index.get(shard.id, NOBODY) for index, shard in enumerate(before)}
    indices[NOBODY] = NOBODY
    return indices


def encode_difference(step: Difference) -> bytes:
    """See `decode_difference`."""
    return msgspec.msgpack.encode(step)


def decode_difference(data: bytes) -> Difference:
    """A difference as `encode_difference` gave it. Raises FormatError."""
    return _decoded(_DIFFERENCES, data)


Body = TypeVar("Body", _Map, Difference)


def _decoded(decoder: msgspec.msgpack.Decoder[Body], data: bytes) -> Body:
    if len(data) > ENCODED_BYTES_MAX:
        raise FormatError(f"a map of {len(data)} bytes; at most {ENCODED_BYTES_MAX}")
    try:
        body = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FormatError(f"this is no map of a pod: {error}") from None
    if body.version != VERSION:
        raise FormatError(f"a map of version {body.version}; this program reads version {VERSION}")
    return body


def _made(make: Callable[[], PodMap]) -> PodMap:
    try:
        return make()
    except InvalidArgument as error:
        raise FormatError(f"this is no map of a pod: {error}") from None


def _pack(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Slots in their order and a shard's index for each: all slots, then all indexes; deflated."""
    ordered = sorted(pairs)
    slots = little_endian(array("I", [slot for slot, _ in ordered]))
    indexes = little_endian(array("H", [index for _, index in ordered]))
    return zlib.compress(slots.tobytes() + indexes.tobytes(), 6) if ordered else b""


def _unpack(data: bytes, slots_max: int) -> list[tuple[int, int]]:
    if not data:
        return []
    plain = inflated(data, 6 * slots_max, exact=False)
    if len(plain) % 6:
        raise FormatError("this is no map of a pod: slots without a shard")
    count = len(plain) // 6
    slots, indexes = array("I"), array("H")
    slots.frombytes(plain[: 4 * count])
    indexes.frombytes(plain[4 * count :])
    slots, indexes = little_endian(slots), little_endian(indexes)
    if any(one >= other for one, other in pairwise(slots)) or (count and slots[-1] >= slots_max):
        raise FormatError("this is no map of a pod: slots out of order")
    return list(zip(slots, indexes, strict=True))


def _pack_planes(numbers: array[int]) -> bytes:
    data = little_endian(numbers).tobytes()
    return zlib.compress(data[::2] + data[1::2], 6)


def _unpack_planes(data: bytes, slots: int) -> array[int]:
    plain = inflated(data, 2 * slots)
    mixed = bytearray(2 * slots)
    mixed[::2], mixed[1::2] = plain[:slots], plain[slots:]
    numbers = array("H")
    numbers.frombytes(mixed)
    return little_endian(numbers)


def inflated(data: bytes, size_max: int, *, exact: bool = True) -> bytes:
    """What was deflated: so many bytes, or as many at most. Raises FormatError."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, size_max + 1)
    except zlib.error as error:
        raise FormatError(f"this is no map of a pod: {error}") from None
    if (
        len(plain) > size_max
        or not inflater.eof
        or inflater.unused_data
        or (exact and len(plain) != size_max)
    ):
        raise FormatError("this is no map of a pod: a table of another size")
    return plain


def little_endian(numbers: array[int]) -> array[int]:
    """``numbers`` with the bytes of each in the order that goes over the wire, or back."""
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers
