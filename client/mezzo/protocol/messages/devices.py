"""Bodies for who looks after the devices."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import U32, Body, Name, Text, U


class DeviceAction(IntEnum):
    """What a `DeviceChange` asks for."""

    ADD = 1
    DRAIN = 2
    """move its chunks to the other devices, then take it out of the store"""
    REPLACE = 3
    """add another, then drain this one into what is there"""
    GROW = 4
    """use what the file or block device has become larger by"""
    CANCEL = 5
    """give up a drain: the device takes chunks again"""


class Devices(Body, frozen=True):
    """Which devices does the store have? Allowed to the server's own user, on a Unix socket."""


class DeviceState(Body, frozen=True):
    """One device of the store."""

    name: Text
    state: Text
    """``serving``, ``draining``, ``gone`` (drained, and out of the store) or ``fenced: why``"""
    bytes_total: U
    bytes_live: U
    chunks: U
    segments_total: U32
    segments_free: U32
    segments_retired: U32
    change: Name = ""
    """what is being done to it, or was last: ``add``, ``drain``, ``replace``, ``grow``"""
    change_state: Text = ""
    """``running``, ``done`` or ``failed: why``"""
    change_bytes: U = 0
    """bytes that are to be moved for it"""
    change_bytes_done: U = 0
    change_s: float = 0.0
    """seconds since it began, or that it took"""


class DevicesAre(Body, frozen=True):
    """The answer to `Devices`."""

    devices: Annotated[list[DeviceState], Meta(max_length=128)]


class DeviceChange(Body, frozen=True):
    """Change the store's devices; answered when the change has begun, `Devices` tells how it goes."""

    action: U32
    """`DeviceAction`"""
    device: Text
    """as its server names it: a path, mostly"""
    by: Text = ""
    """``REPLACE``: the device that is added"""
    capacity_bytes: U = 0
    """size of a file that is added or grown; 0: as large as it is"""
    format: bool = False
    """a device that is added may be erased if it holds anything but a store of ours"""


class DeviceChanged(Body, frozen=True):
    """The change has begun."""
