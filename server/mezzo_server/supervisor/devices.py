"""Which shard gets which devices, when a node has several shards. No I/O: what devices hold is told.

- As many devices as shards, or more: each goes to one shard, in turn.
- Fewer: each is divided, a file into one for each shard beside it (``path.0``, ``path.1``, ...), memory by size.
- A device that holds a store goes where the others of that store are, in whatever order they are named.

A number of shards that would leave a store without its shard, or shards without what they should hold, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from mezzo.errors import InvalidArgument
from mezzo.sizes import parse_size

PART_BYTES = 1 << 20
"""Sizes of parts are multiples of this."""
COUNT = "supervisor.shards"


class Kind(Enum):
    """What is at a path."""

    NOTHING = "nothing"
    FILE = "file"
    OTHER = "other"
    """a block device, or what opening it will refuse"""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at a path."""

    kind: Kind
    store_id: bytes = b""
    """of the store that it is a device of; empty: of none"""
    nbytes: int = 0
    """for chunks"""
    finished: bool = True
    """False: nothing was ever stored on it, since formatting it, or its joining a store, has not ended"""

    @property
    def has_chunks(self) -> bool:
        """Whether it may have."""
        return bool(self.store_id) and self.finished


NOT_SEEN = Sight(Kind.NOTHING)
Look = Callable[[str], Sight]


@dataclass(frozen=True, slots=True)
class Dealt:
    """Devices of each shard, in the order of the shards."""

    devices: tuple[tuple[str, ...], ...]
    divided: bool
    """whether files that are made now are parts of one that was configured"""
    stores: tuple[tuple[bytes, int], ...] = ()
    """of each shard, the id of its store and the bytes of it for chunks; an empty id: it has none yet"""


@dataclass(slots=True)
class _Place:
    """A device that some shard is to have."""

    spec: str
    sight: Sight
    number: int | None = None
    """of the shard, where it is known by the device's name"""

    @property
    def store_id(self) -> bytes:
        """Of the store that it is a device of; empty: of none."""
        return self.sight.store_id


def check_single(specs: Iterable[str], look: Look) -> None:
    """For a node of one shard. Raises InvalidArgument: a device's parts hold stores of several."""
    for spec in specs:
        if _is_path(spec) and look(spec).kind is Kind.NOTHING and look(_part(spec, 0)).has_chunks:
            raise InvalidArgument(
                f"device {spec}: {_part(spec, 0)} holds a shard of several, whose chunks one shard would not find: set "
                f"{COUNT} to as many as there were, or remove {spec}.*"
            )


def deal(specs: Sequence[str], count: int, look: Look, *, count_max: int, accept_loss: bool = False) -> Dealt:
    """The devices of each of ``count`` shards; ``count_max`` is the most that there can be.

    ``accept_loss``: shards may be added to those that have stores; chunks that then belong to the new ones are lost.

    Raises:
        InvalidArgument: it says what does not fit, and what would.
    """
    few = len(specs) < count
    places: list[_Place] = []
    divided = False
    for spec in specs:
        parts = _parts(spec, count, look, few=few, count_max=count_max, accept_loss=accept_loss)
        divided = divided or bool(parts)
        places += parts or [_Place(spec, look(spec) if _is_path(spec) else NOT_SEEN)]
    begun = {place.store_id for place in places if place.sight.has_chunks}
    for place in places:
        if place.store_id not in begun:
            place.sight = NOT_SEEN  # formatting it begins anew
    _number_stores(places, count, accept_loss=accept_loss)
    _number_rest(places, count)
    devices = tuple(
        tuple(place.spec for place in places if place.number == number) for number in range(count)
    )
    bare = [number for number, each in enumerate(devices) if not each]
    if bare:
        raise InvalidArgument(
            f"{COUNT} is {count}, and there is no device for shard {bare[0]}: the devices hold the stores of "
            f"{count - len(bare)}; name one device more for each shard that is new"
        )
    stores = tuple(
        _store([place.sight for place in places if place.number == number]) for number in range(count)
    )
    return Dealt(devices, divided, stores)


def part_bytes(capacity_bytes: int, count: int) -> int:
    """The size of one part of a file of that size."""
    return capacity_bytes // count // PART_BYTES * PART_BYTES


def _store(sights: Sequence[Sight]) -> tuple[bytes, int]:
    store_id = next((sight.store_id for sight in sights if sight.has_chunks), b"")
    return store_id, sum(sight.nbytes for sight in sights) if store_id else 0


def _parts(
    spec: str, count: int, look: Look, *, few: bool, count_max: int, accept_loss: bool
) -> list[_Place]:
    """The parts that a device is divided into; none: it is whole."""
    if not _is_path(spec):
        return _memory_parts(spec, count) if few else []
    sight = look(spec)
    seen = {number: look(_part(spec, number)) for number in range(count_max)}
    known = [number for number, part in seen.items() if part.has_chunks]
    if sight.kind is not Kind.NOTHING:
        if few and not sight.has_chunks:
            _refuse_to_divide(spec, sight, count)
        return []
    if not known and not few:
        return []
    if known and max(known) >= count:
        raise InvalidArgument(
            f"device {spec} is divided for {max(known) + 1} shards, and {COUNT} is {count}: the chunks of the others "
            f"would be lost. Set it to {max(known) + 1}, or remove {spec}.*"
        )
    if known and len(known) < count and not accept_loss:
        missing = ", ".join(_part(spec, number) for number in range(count) if number not in known)
        raise InvalidArgument(
            f"device {spec} is divided, and of {count} parts ({COUNT}) these hold no store: {missing}. Set it to as many "
            "shards as there were, or bring them back; shard.format = true (--format) begins them anew, and accepts "
            "that chunks which belong to those shards are lost"
        )
    return [_Place(_part(spec, number), seen[number], number) for number in range(count)]


def _memory_parts(spec: str, count: int) -> list[_Place]:
    scheme, _, size = spec.partition(":")
    nbytes = part_bytes(parse_size(size), count)
    if not nbytes:
        raise InvalidArgument(f"device {spec} is too small for {count} shards ({COUNT})")
    return [_Place(f"{scheme}:{nbytes}", NOT_SEEN, number) for number in range(count)]


def _refuse_to_divide(spec: str, sight: Sight, count: int) -> None:
    if sight.kind is Kind.FILE:
        raise InvalidArgument(
            f"device {spec} is there already, and would be divided into {_part(spec, 0)} to {_part(spec, count - 1)}: "
            f"remove it, or name {count} devices"
        )
    raise InvalidArgument(
        f"device {spec} cannot be divided for {count} shards ({COUNT}): name {count} block devices or partitions"
    )


def _number_stores(places: Sequence[_Place], count: int, *, accept_loss: bool) -> None:
    """Each store to a shard: by the name of one of its devices, else in the order in which stores are named."""
    numbers = {
        place.store_id: place.number for place in places if place.store_id and place.number is not None
    }
    stores = list(dict.fromkeys(place.store_id for place in places if place.store_id))
    for store_id in stores:
        if store_id not in numbers:
            free = set(range(count)) - set(numbers.values())
            if not free:
                raise InvalidArgument(
                    f"the devices hold the stores of {len(stores)} shards, and {COUNT} is {count}: the chunks of the "
                    f"others would be lost. Set it to {len(stores)}"
                )
            numbers[store_id] = min(free)
    new = [place.spec for place in places if not place.store_id and place.number not in numbers.values()]
    if stores and len(stores) < count and new and not accept_loss:
        raise InvalidArgument(
            f"the devices hold the stores of {len(stores)} shards, and {COUNT} is {count}: chunks that then belonged "
            f"to the new ones would be lost ({', '.join(new)} holds no store). Set it to {len(stores)}; or "
            "shard.format = true (--format) accepts the loss"
        )
    for place in places:
        if place.store_id:
            place.number = numbers[place.store_id]


def _number_rest(places: Sequence[_Place], count: int) -> None:
    """Devices without a store in turn to the shards without one, else to those that have the fewest."""
    taken = [place.number for place in places if place.number is not None]
    waiting = [number for number in range(count) if number not in taken] or list(range(count))
    having = {number: taken.count(number) for number in waiting}
    for place in places:
        if place.number is None:
            place.number = min(waiting, key=lambda number: (having[number], number))
            having[place.number] += 1


def _is_path(spec: str) -> bool:
    return not spec.startswith(("memory:", "null:"))


def _part(path: str, number: int) -> str:
    return f"{path}.{number}"
