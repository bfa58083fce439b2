"""A place for a device: a folder, a file, a block device."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mezzo.sizes import about_size
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host
from mezzo_server.machine.disks import FOREIGN, UNREADABLE, disks, held
from mezzo_server.machine.filesystems import mount_of, worry

ROOM_BYTES_MIN = 1 << 30
BLOCK_BYTES = 4096


def place(
    host: Host, path: str, *, write: bool, capacity_bytes: int = 0, may_format: bool = False
) -> Iterator[Finding]:
    """What can be said of a device at ``path``; ``write`` allows a file without a name in a folder."""
    kind = host.kind(path)
    if kind == "other":
        yield Finding(path, State.BROKEN, "neither file, folder nor block device", "give another path")
        return
    folder = path if kind == "folder" else os.path.dirname(os.path.abspath(path))
    if kind is None and host.kind(folder) != "folder":
        yield Finding(path, State.BROKEN, f"{folder} is not there", f"mkdir -p {folder}")
        return
    yield _access(host, path, path if kind is not None else folder)
    if kind in ("file", "block device"):
        yield _content(host, path, may_format=may_format)
    if kind == "block device":
        yield from _use(host, path)
    else:
        yield _filesystem(host, folder, path)
        if kind != "file" or not host.size_bytes(path):
            yield _room(host, folder, path, capacity_bytes)
    yield from _direct(host, path if kind is not None else folder, path, write=write)


def _access(host: Host, path: str, there: str) -> Finding:
    """Whether ``there`` may be written, which is the device, or the folder in which it would be made."""
    about = "" if there == path else f"{there}: "
    if host.may_write(there):
        return Finding(f"{path} access", State.GOOD, f"{about}may be written")
    seen = f"{about}user {host.user()} may not write it"
    advice = f"chown {host.user()} {there}" if host.user() else "mount it writable"
    return Finding(f"{path} access", State.BROKEN, seen, advice)


def _content(host: Host, path: str, *, may_format: bool) -> Finding:
    content = held(host, path)
    name = f"{path} content"
    if content == UNREADABLE:
        return Finding(name, State.BROKEN, "cannot be read", f"chown {host.user()} {path}")
    if content == FOREIGN and not may_format:
        seen = "other data than a Mezzo store; a node refuses it"
        return Finding(name, State.BROKEN, seen, "give an empty one (mezzo shard --format would erase it)")
    return Finding(name, State.GOOD, content)


def _use(host: Host, path: str) -> Iterator[Finding]:
    for disk in disks(host):
        if disk.path == path:
            seen = f"{about_size(disk.size_bytes)}{', ' + disk.model if disk.model else ''}"
            if disk.use:
                advice = "give a device that nobody uses"
                yield Finding(f"{path} use", State.BROKEN, f"{seen}; {disk.use}", advice)
            else:
                yield Finding(f"{path} use", State.GOOD, f"{seen}; nobody else uses it")


def _filesystem(host: Host, folder: str, path: str) -> Finding:
    name = f"{path} filesystem"
    mount = mount_of(host, os.path.realpath(folder))
    if mount is None:
        return Finding(name, State.BETTER, "it cannot be told which filesystem this is")
    if mount.read_only:
        return Finding(
            name,
            State.BROKEN,
            f"{mount.kind} at {mount.point} is read-only",
            f"mount -o remount,rw {mount.point}",
        )
    trouble = worry(mount.kind)
    if trouble:
        return Finding(name, State.BETTER, trouble, "give a folder on a local disk (ext4, xfs)")
    return Finding(name, State.GOOD, f"{mount.kind} at {mount.point} ({mount.source})")


def _room(host: Host, folder: str, path: str, capacity_bytes: int) -> Finding:
    name = f"{path} room"
    room = host.room(folder)
    if room is None:
        return Finding(name, State.BETTER, "it cannot be told how much is free")
    seen = f"{about_size(room.free_bytes)} of {about_size(room.total_bytes)} are free"
    if capacity_bytes > room.free_bytes:
        seen += f", fewer than the {about_size(capacity_bytes)} that are configured"
        return Finding(name, State.BROKEN, seen, "lower shard.capacity_bytes, or free some space")
    if room.free_bytes < ROOM_BYTES_MIN:
        return Finding(
            name, State.BETTER, seen, "take a larger disk: a cache of this size holds few prefixes"
        )
    return Finding(name, State.GOOD, seen)


def _direct(host: Host, tried: str, path: str, *, write: bool) -> Iterator[Finding]:
    name = f"{path} direct I/O"
    folder = host.kind(tried) == "folder"
    if folder and not write:
        seen = "not tried: in a folder that takes a file"
        yield Finding(name, State.GOOD, seen, f"mezzo doctor --device {path} --write")
        return
    try:
        why = host.try_direct(tried, write=write)
    except OSError as error:
        yield Finding(
            name,
            State.BROKEN,
            f"{error.strerror or error}",
            f"dmesg | grep -i {os.path.basename(tried) or 'error'}",
        )
        return
    if why is not None:
        seen = f"O_DIRECT is refused ({why}): the page cache takes memory and copies every byte"
        yield Finding(name, State.BETTER, seen, "take ext4 or xfs on a local disk")
        return
    told = None if folder else host.alignments(tried)
    if told is None:
        yield Finding(name, State.GOOD, "O_DIRECT works; its alignment is not told")
        return
    memory_bytes, block_bytes = told
    seen = f"O_DIRECT works, aligned to {block_bytes} (memory: {memory_bytes})"
    if block_bytes > BLOCK_BYTES:
        advice = "choose a logical block of 4096 or 512 (nvme format --lbaf)"
        yield Finding(name, State.BROKEN, f"{seen}: blocks over {BLOCK_BYTES} are not supported", advice)
    else:
        yield Finding(name, State.GOOD, seen)
