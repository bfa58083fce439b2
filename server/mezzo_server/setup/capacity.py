"""How large the devices should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size, format_size
from mezzo_server.setup.places import DEVICE_BYTES_MIN, Place, nice_floor

CAPACITY_SHARE = 0.5
"""of what a filesystem has to spare: it holds other things too"""


def choose_capacity(places: Sequence[Place], asked_bytes: int | None) -> tuple[int, str]:
    """Bytes of each device where at least one is a file, and why so many.

    Raises:
        InvalidArgument: what was asked for, or even the smallest device, has no room.
    """
    new = [place for place in places if place.kind == "file" and not place.size_bytes]
    there = [place for place in places if place.size_bytes]
    sharing = Counter(place.mount for place in new)
    room_bytes = {place.path: place.room_bytes // sharing[place.mount] for place in new}
    limit_bytes = min([*room_bytes.values(), *(place.size_bytes for place in there)])
    if asked_bytes is not None:
        capacity_bytes, why = asked_bytes, "As asked for."
    elif any(place.kind == "file" for place in there):
        # A second look proposes what the first one did.
        capacity_bytes = min(place.size_bytes for place in there)
        why = "As large as the store is that is there already."
    else:
        capacity_bytes = min(nice_floor(min(room_bytes.values()) * CAPACITY_SHARE), limit_bytes)
        why = "Half of what the filesystem has to spare; it is taken at the first start and never grows."
    _check(capacity_bytes, asked_bytes, there, new, room_bytes)
    return capacity_bytes, why


def _check(
    capacity_bytes: int,
    asked_bytes: int | None,
    there: Sequence[Place],
    new: Sequence[Place],
    room_bytes: dict[str, int],
) -> None:
    """Raise InvalidArgument, with what would be right, unless every device can be that large."""
    said = f"--capacity {format_size(capacity_bytes)}: " if asked_bytes is not None else ""
    for place in there:
        if place.size_bytes < capacity_bytes:
            raise InvalidArgument(
                f"{said}{place.path} is there with {format_size(place.size_bytes)}, and keeps its size"
            )
    for place in new:
        if room_bytes[place.path] < max(capacity_bytes, DEVICE_BYTES_MIN):
            raise InvalidArgument(
                f"{said}{place.path} has no room on {place.filesystem}: a tenth of it, and at least 2GiB, stay "
                f"free, which leaves {about_size(nice_floor(room_bytes[place.path]))}"
            )
    if capacity_bytes < DEVICE_BYTES_MIN:
        raise InvalidArgument(f"{said}a device has at least {format_size(DEVICE_BYTES_MIN)}")
