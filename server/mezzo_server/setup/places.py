"""Where a device could be on this machine, and how much room there is for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size, format_size
from mezzo_server.machine import Host
from mezzo_server.machine.disks import EMPTY, FOREIGN, OURS, UNREADABLE, Disk, disks, held
from mezzo_server.machine.filesystems import mount_of, worry

DEVICE_BYTES_MIN = 256 * 1024**2
"""a smaller store could not take chunks of a few megabytes"""
BLOCK_DEVICE_BYTES_MIN = 8 * 1024**3
"""smaller ones are boot media and configuration drives"""
RESERVE_SHARE = 0.1
RESERVE_BYTES_MIN = 2 * 1024**3
"""left free on a filesystem, whatever is asked for"""
NAMES_MAX = 9
MEMBERS_MAX = 32
"""devices of one store"""


@dataclass(frozen=True, slots=True)
class Place:
    """A device to be, or one that is."""

    path: str
    kind: Literal["file", "block device"]
    size_bytes: int
    """of what is there already; 0: a file that is not made yet"""
    room_bytes: int
    """the largest that it could be if it were made now"""
    filesystem: str
    """what a file would be on, such as ``ext4 at /``; empty for a block device"""
    mount: str
    """files with the same one share their room"""


def nice_floor(nbytes: float) -> int:
    """The largest round size that is not over ``nbytes``: 4, 5, 6 or 7 times a power of two.

    Round, so that what is free may change a little between two looks and the answer stay.
    """
    if nbytes < 4:
        return 0
    unit = 1 << (int(nbytes).bit_length() - 3)
    return int(nbytes) // unit * unit


def reserve_bytes(total_bytes: int) -> int:
    """What stays free on a filesystem of this size."""
    return max(RESERVE_BYTES_MIN, int(total_bytes * RESERVE_SHARE))


def named(host: Host, path: str) -> Place:
    """The place that somebody asked for.

    Raises:
        InvalidArgument: it holds data, is in use, may not be written, or has no room.
    """
    kind = host.kind(path)
    if kind == "folder":
        path = os.path.join(path, _file_name(path))
        kind = host.kind(path)
    if kind in ("folder", "other"):
        raise InvalidArgument(f"--device {path} is neither a file nor a block device")
    if kind is not None:
        content = held(host, path)
        if content == UNREADABLE or not host.may_write(path):
            raise InvalidArgument(f"--device {path}: user {host.user()} may not read and write it")
        if content == FOREIGN:
            raise InvalidArgument(
                f"--device {path} holds other data than a Mezzo store; give an empty one, or empty it yourself"
            )
    if kind == "block device":
        use = next((disk.use for disk in disks(host) if disk.path == path), "")
        if use:
            raise InvalidArgument(f"--device {path} is in use: {use}")
        size_bytes = host.size_bytes(path) or 0
        return Place(path, "block device", size_bytes, size_bytes, "", path)
    place = file_place(host, path)
    if place is None:
        folder = os.path.dirname(os.path.abspath(path))
        if host.kind(folder) != "folder":
            raise InvalidArgument(
                f"--device {path}: there is no folder {folder}; make it first: mkdir -p {folder}"
            )
        raise InvalidArgument(f"--device {path}: user {host.user()} may not write to {folder}")
    return place


def unused_disks(host: Host, notes: list[str]) -> list[Place]:
    """Block devices that nobody uses and that hold nothing, or a store of ours already."""
    ours: list[Disk] = []
    empty: list[Disk] = []
    for disk in disks(host):
        if disk.use or disk.size_bytes < BLOCK_DEVICE_BYTES_MIN:
            continue
        content = held(host, disk.path)
        if content == UNREADABLE or not host.may_write(disk.path):
            notes.append(
                f"{disk.path} ({about_size(disk.size_bytes)}) seems unused, but user {host.user()} may not read "
                "and write it"
            )
        elif content == FOREIGN:
            notes.append(
                f"{disk.path} ({about_size(disk.size_bytes)}) is not mounted, but holds data: it is left alone"
            )
        else:
            (ours if content == OURS else empty).append(disk)
    if ours and empty:
        spare = " ".join(disk.path for disk in empty)
        notes.append(f"{spare}: empty, but not part of the store that is on {ours[0].path}")
    chosen = ours or _fastest(empty)
    return [
        Place(disk.path, "block device", disk.size_bytes, disk.size_bytes, "", disk.path)
        for disk in chosen[:MEMBERS_MAX]
    ]


def state_file(host: Host, notes: list[str]) -> Place:
    """A file in the folder for state of this user, or the next best that is there.

    Raises:
        InvalidArgument: no folder that may be written has room.
    """
    tried = []
    fallback = None
    for folder in _folders(host):
        place = _free_name(host, folder)
        if place is None:
            continue
        if place.room_bytes < DEVICE_BYTES_MIN and not place.size_bytes:
            tried.append(f"{folder} ({about_size(place.room_bytes)} to spare)")
            continue
        mount = mount_of(host, folder)
        trouble = worry(mount.kind) if mount else None
        if trouble is None:
            return place
        if fallback is None:
            fallback = place
            notes.append(f"{place.path}: {trouble}")
    if fallback is not None:
        return fallback
    raise InvalidArgument(
        f"no room for a device: tried {', '.join(tried) or 'no folder that this user may write to'}; every "
        f"filesystem keeps {format_size(RESERVE_BYTES_MIN)} and a tenth of its size free. Give --device PATH, "
        "on a larger disk"
    )


def file_place(host: Host, path: str) -> Place | None:
    """A file at ``path``; None if its folder is not there, or it may not be made or written."""
    folder = os.path.dirname(os.path.abspath(path))
    room = host.room(folder)
    there = host.kind(path)
    if room is None or there not in (None, "file") or not host.may_write(path if there else folder):
        return None
    size_bytes = host.size_bytes(path) or 0 if there else 0
    spare_bytes = room.free_bytes - reserve_bytes(room.total_bytes)
    mount = mount_of(host, folder)
    text = f"{mount.kind} at {mount.point}" if mount else "its filesystem"
    return Place(path, "file", size_bytes, max(0, spare_bytes), text, mount.point if mount else folder)


def metadata_file(host: Host, beside: str | None) -> str:
    """Where the file of the metadata goes: beside a device that is a file, else in the folder for state.

    Raises:
        InvalidArgument: there is no folder that may be written.
    """
    folders = [os.path.dirname(os.path.abspath(beside))] if beside is not None else []
    folders = [folder for folder in folders if host.may_write(folder)] + _folders(host)
    mounts = [(folder, mount_of(host, folder)) for folder in folders]
    good = [folder for folder, mount in mounts if mount is None or worry(mount.kind) is None]
    if not folders:
        raise InvalidArgument("--metadata: there is no folder that this user may write to")
    folder = (good or folders)[0]
    ours = os.path.basename(folder.rstrip("/")) == "mezzo"
    return os.path.join(folder, "metadata.db" if ours else "mezzo.metadata.db")


def _free_name(host: Host, folder: str) -> Place | None:
    """A file of ours in a folder, or a name that is free."""
    base = os.path.join(folder, _file_name(folder))
    for number in range(1, NAMES_MAX + 1):
        path = base if number == 1 else f"{base}-{number}"
        place = file_place(host, path)
        if place is None and host.kind(path) is None:
            return None
        if place is not None and (not place.size_bytes or held(host, path) in (EMPTY, OURS)):
            return place
    return None


def _folders(host: Host) -> list[str]:
    """Folders for state, the best first."""
    if host.user() == 0:
        found = ["/var/lib/mezzo", "/var/lib"]
    else:
        home = host.environ.get("HOME", "")
        state = host.environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
        found = ["/var/lib/mezzo", *([f"{state}/mezzo", state] if state else []), *([home] if home else [])]
    found.append("/var/tmp")  # noqa: S108  survives a restart; the file is made with mode 600, and only if it is new
    return [folder for folder in found if host.kind(folder) == "folder" and host.may_write(folder)]


def _file_name(folder: str) -> str:
    return "chunks" if os.path.basename(folder.rstrip("/")) == "mezzo" else "mezzo.chunks"


def _fastest(found: list[Disk]) -> list[Disk]:
    """Those without moving parts, if there are any."""
    return [disk for disk in found if not disk.rotational] or found
