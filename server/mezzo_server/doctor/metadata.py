"""Checks of the file in which a configuration keeps its metadata. It is looked at from outside, and left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mezzo_server.config import MetadataConfig
from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host
from mezzo_server.machine.filesystems import mount_of, worry
from mezzo_server.metadata.schema import APPLICATION_ID, VERSION
from mezzo_server.metadata.urls import SQLITE

NAME = "metadata.engine"
HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
# Where the header of a SQLite file has them, big-endian: https://www.sqlite.org/fileformat2.html#the_database_header
USER_VERSION = slice(60, 64)
APPLICATION = slice(68, 72)


def examine_metadata(host: Host, config: MetadataConfig) -> Iterator[Finding]:
    """What is wrong with the file of ``[metadata]``, or with its place; nothing without one."""
    if not config.engine.startswith(SQLITE):
        return
    path = config.engine.removeprefix(SQLITE)
    folder = os.path.dirname(path)
    if host.kind(folder) != "folder":
        yield Finding(NAME, State.BROKEN, f"{folder} is not there", f"mkdir -m 700 -p {folder}")
        return
    if not host.may_write(folder):
        seen = f"user {host.user()} may not write to {folder}, and SQLite keeps files beside its own"
        yield Finding(NAME, State.BROKEN, seen, f"chown {host.user()} {folder}")
        return
    mount = mount_of(host, folder)
    trouble = None if mount is None else worry(mount.kind)
    if trouble is not None:
        yield Finding(NAME, State.BETTER, f"{folder}: {trouble}", "keep metadata on a local disk")
    yield _file(host, path)


def _file(host: Host, path: str) -> Finding:
    kind, size_bytes = host.kind(path), host.size_bytes(path)
    if kind is None:
        return Finding(NAME, State.GOOD, f"{path} is made by whoever starts first")
    header = host.sample(path, 0, HEADER_BYTES) if kind == "file" else None
    if header is None:
        return Finding(NAME, State.BROKEN, f"{path} is no file that can be read", "name another one")
    if not size_bytes:
        return Finding(NAME, State.GOOD, f"{path} is there, and empty")
    ours = int.from_bytes(header[APPLICATION], "big")
    version = int.from_bytes(header[USER_VERSION], "big")
    if not header.startswith(MAGIC):
        seen = f"{path} is damaged, or something else"
        return Finding(NAME, State.BROKEN, seen, "restore a backup (docs/metadata.md), or name another file")
    if ours not in (APPLICATION_ID, 0):
        return Finding(NAME, State.BROKEN, f"{path} is a database of something else", "name another file")
    if version > VERSION:
        seen = f"{path} was written by a newer release (schema {version}, this one knows up to {VERSION})"
        return Finding(NAME, State.BROKEN, seen, "run that release, or restore a backup from before")
    return Finding(NAME, State.GOOD, f"{path}, {size_bytes} bytes; its inside is checked at every start")
