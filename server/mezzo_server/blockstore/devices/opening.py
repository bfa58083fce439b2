"""From a line of configuration to a device: ``/path``, ``memory:1GiB`` or ``null:1GiB``."""

from __future__ import annotations

import time
from collections.abc import Callable

from mezzo.errors import InvalidArgument, Unavailable
from mezzo.sizes import parse_size
from mezzo_server.blockstore.devices.base import DEPTH, PINNED_BYTES_MAX
from mezzo_server.blockstore.devices.descriptor import LOCK_WAIT_S, Descriptor, open_descriptor
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.blockstore.devices.null import NullDevice
from mezzo_server.blockstore.devices.threads import THREADS, ThreadsDevice
from mezzo_server.blockstore.io import Device

KINDS = ("auto", "uring", "threads")


def open_device(
    spec: str,
    *,
    size_bytes: int | None = None,
    kind: str = "auto",
    depth: int = DEPTH,
    create: bool = True,
    direct: bool = True,
    pinned_bytes_max: int = PINNED_BYTES_MAX,
    lock_wait_s: float = LOCK_WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Device:
    """The device that ``spec`` names: path of a file or block device, ``memory:SIZE`` or ``null:SIZE``.

    ``size_bytes``: what of it to use (None: all); a missing file is made that large if ``create``.
    ``kind``: ``uring``, ``threads``, or ``auto``: io_uring where there is one (`probe` says why not).
    ``direct``: past the page cache, where the filesystem allows it.  InvalidArgument, Unavailable as
    `open_descriptor`; Unavailable too for ``uring`` where there is none.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"device kind {kind!r} is none of {', '.join(KINDS)}")
    scheme, _, size = spec.partition(":")
    if scheme in ("memory", "null") and size:
        total_bytes = parse_size(size) if size_bytes is None else size_bytes
        return MemoryDevice(total_bytes) if scheme == "memory" else NullDevice(total_bytes)
    descriptor = open_descriptor(
        spec, size_bytes=size_bytes, create=create, direct=direct, lock_wait_s=lock_wait_s, sleep=sleep
    )
    try:
        return _device(descriptor, kind, depth, pinned_bytes_max)
    except BaseException:
        descriptor.release()
        raise


def probe() -> str:
    """One sentence: that io_uring drives devices here, or what does instead and why."""
    why = _why_no_uring()
    if why is None:
        return "io_uring drives the devices."
    return f"Threads with pread and pwrite drive the devices, because {why}."


def _device(descriptor: Descriptor, kind: str, depth: int, pinned_bytes_max: int) -> Device:
    if kind != "threads":
        why = _why_no_uring()
        if why is None:
            from mezzo_server.blockstore.devices.uring import UringDevice

            return UringDevice(descriptor, depth=depth, pinned_bytes_max=pinned_bytes_max)
        if kind == "uring":
            raise Unavailable(f"device {descriptor.name} cannot be driven by io_uring: {why}")
    return ThreadsDevice(descriptor, threads=min(depth, THREADS))


def _why_no_uring() -> str | None:
    """Half a sentence; None where there can be a ring."""
    try:
        from mezzo_server.blockstore.devices.uring import why_unavailable
    except ImportError:
        return "the native module was not built"
    return why_unavailable()
