"""Where chunk bytes come from and go to: what callers may give, in one form. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

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


def places(items: Sequence[Memory], *, writable: bool, name: str) -> list[Place]:
    """The places that callers' sources or targets name.

    Raises:
        InvalidArgument: one is not memory, not contiguous, empty, read-only, or too large.
        RegionError: an extent lies outside of its region, or the region is closed.
    """
    if isinstance(items, (Extent, Region, bytes, bytearray, memoryview)):
        raise InvalidArgument(f"{name} must be a list with one entry for each key")
    return [_place(item, writable, f"{name}[{index}]") for index, item in enumerate(items)]


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
