"""Where chunk bytes come from and go to: what callers may give, in one form. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

from mezzo.errors import InvalidArgument, RegionError
from mezzo.protocol.messages import EXTENTS_MAX, KEY_BYTES_MAX, U32_MAX
from mezzo.regions import Extent, Region

if TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    Buffer = object

Memory: TypeAlias = Extent | Region | Buffer | Sequence[Extent] | Sequence[Buffer]
"""One chunk's bytes: an extent, a region, an object with the buffer protocol, or a list of either."""

Parts: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | None
"""Part lengths in bytes: one list for all chunks, or one list for each."""


T = TypeVar("T")


class Place(NamedTuple):
    """One chunk's memory. ``extents`` in regions, or ``views`` of foreign memory; never both."""

    length: int
    extents: tuple[Extent, ...]
    views: tuple[memoryview, ...]

    @property
    def region(self) -> Region | None:
        """The region that all of it lies in; None for foreign memory."""
        return self.extents[0].region if self.extents else None

    def memory(self) -> list[memoryview]:
        """The bytes as views, in order. Raises RegionError for a closed region."""
        if self.views:
            return list(self.views)
        return [
            extent.region.memory[extent.offset : extent.offset + extent.length] for extent in self.extents
        ]

    def flat(self) -> list[int]:
        """``[offset, length, offset, length, ...]`` of the extents."""
        return [number for extent in self.extents for number in (extent.offset, extent.length)]


class Places:
    """The memory of several chunks, in order. Immutable.

    As a rule each is one extent of one and the same region.  Then it is kept in columns, with a `Place` made only for
    who asks for one: of a call for hundreds of chunks, what is done for each of them is what it costs.
    """

    __slots__ = ("_items", "lengths", "pairs", "region")

    def __init__(
        self,
        lengths: Sequence[int],
        region: Region | None,
        pairs: Sequence[tuple[int, int]],
        items: Sequence[Place],
    ) -> None:
        """Made by `of` and `within`."""
        self.lengths = lengths
        """of each, bytes"""
        self.region = region
        """that each is one extent of; None: they are of any kind"""
        self.pairs = pairs
        """offset and length of each in the ``region``, if there is one"""
        self._items = items

    @classmethod
    def of(cls, items: Sequence[Place]) -> Places:
        """Any ones."""
        return cls([item.length for item in items], None, (), items)

    @classmethod
    def within(cls, region: Region, pairs: Sequence[tuple[int, int]]) -> Places:
        """Extents of one region: offset and length of each."""
        return cls([length for _, length in pairs], region, pairs, ())

    def __repr__(self) -> str:
        where = "of any kind" if self.region is None else f"in region {self.region.number}"
        return f"<Places of {len(self)} chunks {where}>"

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Place:
        region = self.region
        if region is None:
            return self._items[index]
        offset, length = self.pairs[index]
        return Place(length, (Extent(region, offset, length),), ())

    def __iter__(self) -> Iterator[Place]:
        return map(self.__getitem__, range(len(self)))

    def of_these(self, indexes: Sequence[int]) -> Places:
        """Some of them."""
        pick = picker(indexes)
        if self.region is None:
            return Places.of(pick(self._items))
        return Places(pick(self.lengths), self.region, pick(self.pairs), ())

    def regions(self) -> tuple[Region, ...]:
        """All that they lie in."""
        if self.region is not None:
            return (self.region,)
        return tuple({extent.region for item in self._items for extent in item.extents})

    def flat(self) -> list[list[int]]:
        """`Place.flat` of each."""
        if self.region is not None:
            # In a frame tuples are what lists are, and these are there already.
            return cast("list[list[int]]", self.pairs)
        return [item.flat() for item in self._items]


def picker(indexes: Sequence[int]) -> Callable[[Sequence[T]], Sequence[T]]:
    """What gives of a sequence the items at these indexes: all of it in C, for calls of hundreds of chunks."""
    if len(indexes) == 1:
        only = indexes[0]
        return lambda items: (items[only],)
    return itemgetter(*indexes) if indexes else lambda items: ()


def places(items: Sequence[Memory], *, writable: bool, name: str) -> Places:
    """The places that callers' sources or targets name.

    Raises:
        InvalidArgument: one is not memory, not contiguous, empty, read-only, or too large.
        RegionError: an extent lies outside of its region, or the region is closed.
    """
    if isinstance(items, (Extent, Region, bytes, bytearray, memoryview)):
        raise InvalidArgument(f"{name} must be a list with one entry for each key")
    return _of_one_region(items) or Places.of(
        [_place(item, writable, f"{name}[{index}]") for index, item in enumerate(items)]
    )


def _of_one_region(items: Sequence[Memory]) -> Places | None:
    """The usual case, all of it in C: good extents of one region. None: it is another, or one of them is not good."""
    if not items or set(map(type, items)) != {Extent}:
        return None
    regions, offsets, lengths = zip(*cast("Sequence[Extent]", items), strict=True)
    region: Region = regions[0]
    if (
        regions.count(region) != len(regions)
        or region.closed
        or min(offsets) < 0
        or min(lengths) < 1
        or max(lengths) > U32_MAX
        or max(map(add, offsets, lengths)) > region.length
    ):
        return None
    return Places(lengths, region, list(zip(offsets, lengths, strict=True)), ())


def _place(item: Memory, writable: bool, name: str) -> Place:
    if type(item) is Extent:
        _check_extent(item, name)
        return Place(item.length, (item,), ())
    if isinstance(item, Region):
        item = item[:]
        _check_extent(item, name)
        return Place(item.length, (item,), ())
    if isinstance(item, (list, tuple)):
        if not 0 < len(item) <= EXTENTS_MAX:
            raise InvalidArgument(f"{name} must have 1 to {EXTENTS_MAX} extents, not {len(item)}")
        inner = [_place(piece, writable, f"{name}[{index}]") for index, piece in enumerate(item)]
        extents = tuple([extent for place in inner for extent in place.extents])
        views = tuple([view for place in inner for view in place.views])
        if extents and views:
            raise InvalidArgument(f"{name} mixes extents and buffers; give one kind")
        place = Place(sum(place.length for place in inner), extents, views)
    else:
        view = _view_of(cast("Buffer", item), writable, name)
        place = Place(len(view), (), (view,))
    if place.length > U32_MAX:
        raise InvalidArgument(f"{name} has {place.length} bytes; a chunk has at most {U32_MAX}")
    return place


def _check_extent(extent: Extent, name: str) -> None:
    region, offset, length = extent
    if region.closed:
        raise RegionError(f"{name}: the region is closed")
    if offset < 0 or length < 0 or offset + length > region.length:
        raise RegionError(
            f"{name}: extent {offset}+{length} is outside of its region of {region.length} bytes"
        )
    if not 0 < length <= U32_MAX:
        raise InvalidArgument(f"{name}: an extent has 1 to {U32_MAX} bytes, not {length}")


def _view_of(item: Buffer, writable: bool, name: str) -> memoryview:
    try:
        view = memoryview(item)
    except TypeError:
        raise InvalidArgument(
            f"{name} is {type(item).__name__}; expected an Extent, a Region, a buffer, or a list of these"
        ) from None
    if not view.c_contiguous:
        raise InvalidArgument(f"{name} is not contiguous memory")
    if writable and view.readonly:
        raise InvalidArgument(f"{name} is read-only")
    if view.nbytes == 0:
        raise InvalidArgument(f"{name} is empty; a chunk has at least one byte")
    return view.cast("B") if view.ndim != 1 or view.format != "B" else view


def check_keys(keys: Iterable[bytes]) -> list[bytes]:
    """``keys`` as a list.

    Raises:
        InvalidArgument: there is none, or one is not 1 to 64 bytes long.
    """
    checked: list[Any] = list(keys)
    if not checked:
        raise InvalidArgument("no keys")
    # All in C for the usual case of good keys; the loop below only finds the culprit's name.
    if set(map(type, checked)) == {bytes}:
        lengths = set(map(len, checked))
        if min(lengths) >= 1 and max(lengths) <= KEY_BYTES_MAX:
            return checked
    for index, key in enumerate(checked):
        if not isinstance(key, bytes):
            raise InvalidArgument(
                f"keys must be a list with one bytes object for each chunk; keys[{index}] is {type(key).__name__}"
            )
        if not 1 <= len(key) <= KEY_BYTES_MAX:
            raise InvalidArgument(f"keys[{index}] has {len(key)} bytes; a key has 1 to {KEY_BYTES_MAX}")
    return checked


def check_parts(parts: Parts, lengths: Sequence[int], parts_max: int) -> list[list[int]]:
    """The protocol's form of ``parts``: nothing, one list for all chunks, or one for each.

    Raises:
        InvalidArgument: parts are not positive, too many, or do not add up to their chunk's length.
    """
    if parts is None:
        return []
    given: list[Any] = list(parts)
    lists: list[list[int]]
    if given and all(isinstance(part, int) for part in given):
        lists = [given]
        owners = [0] * len(lengths)
    else:
        lists = [list(entry) for entry in given]
        if len(lists) != len(lengths):
            raise InvalidArgument(f"parts has {len(lists)} lists for {len(lengths)} keys")
        owners = list(range(len(lengths)))
    for index, entry in enumerate(lists):
        if not 1 <= len(entry) <= parts_max:
            raise InvalidArgument(f"parts[{index}] has {len(entry)} parts; a chunk has 1 to {parts_max}")
        if min(entry) < 1:
            raise InvalidArgument(f"parts[{index}]: a part has at least one byte")
    totals = [sum(entry) for entry in lists]
    for index, length in enumerate(lengths):
        if totals[owners[index]] != length:
            raise InvalidArgument(
                f"parts of chunk {index} add up to {totals[owners[index]]}, not to {length}"
            )
    return lists
