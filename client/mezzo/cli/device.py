"""`mezzo device`: which devices a running server has; add, drain, replace, grow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Protocol

import msgspec
import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from mezzo.cli import options as opt
from mezzo.cli.output import json_result, notes, remark, result
from mezzo.cli.shards import one_shard, shards_at
from mezzo.client import Client
from mezzo.errors import Unavailable
from mezzo.protocol.messages import DeviceAction, DeviceState
from mezzo.sizes import about_size

TIMEOUT_S = 600.0
"""A change begins once its device was opened; a file is preallocated first."""
POLL_S = 0.2
RUNNING = "running"
GONE = "gone"

Device = Annotated[
    str, typer.Argument(metavar="DEVICE", help="File or block device, as the server names it.")
]
NewDevice = Annotated[str, typer.Argument(metavar="NEW", help="File or block device that joins the store.")]
Capacity = Annotated[
    int,
    typer.Option(
        "--capacity", parser=opt.size, metavar="SIZE", show_default="as it is", help="Size of the file."
    ),
]
Format = Annotated[
    bool, typer.Option("--format", help="Erase what the new device holds, if that is not a store in use.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait until it is done.")]


class Show(Protocol):
    """Shows how far a change has come."""

    def __call__(self, state: DeviceState, /) -> None: ...


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="List, add, drain, replace and grow the devices of a running server.", no_args_is_help=True
    )
    for name, command in (
        ("list", list_devices),
        ("add", add),
        ("drain", drain),
        ("replace", replace),
        ("grow", grow),
        ("cancel", cancel),
    ):
        group.command(name)(command)
    app.add_typer(group, name="device")


def list_devices(
    *,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    json: opt.Json = False,
) -> None:
    """List the devices: how full they are, and what is done to them. Of all shards, if the node has several."""
    told = {}
    for shard in shards_at(address):
        with Client(shard) as client:
            told[shard] = client.devices()
    if json:
        states = [
            msgspec.structs.asdict(state) | ({"shard": shard} if shard != address else {})
            for shard, of_shard in told.items()
            for state in of_shard
        ]
        json_result(msgspec.json.encode(states))
        return
    for shard, of_shard in told.items():
        result(_table(of_shard, "" if shard == address else escape(shard)))


def _table(states: Sequence[DeviceState], title: str) -> Table:
    table = Table("device", "state", "size", "live", "chunks", "free segments", "change", box=None)
    table.title, table.title_justify = title or None, "left"
    for column in table.columns[2:6]:
        column.justify = "right"
    for state in states:
        share = f" ({state.bytes_live / state.bytes_total:.0%})" if state.bytes_total else ""
        table.add_row(
            escape(state.name),
            escape(state.state),
            about_size(state.bytes_total),
            about_size(state.bytes_live) + share,
            str(state.chunks),
            f"{state.segments_free} of {state.segments_total}",
            escape(_change_text(state)),
        )
    return table


def add(
    device: NewDevice,
    *,
    capacity: Capacity = 0,
    erase: Format = False,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    timeout_s: opt.Timeout = TIMEOUT_S,
    wait: Wait = True,
    json: opt.Json = False,
) -> None:
    """Add a device: new chunks go to it at once."""
    path = _absolute(device)
    with Client(one_shard(address), timeout_s=timeout_s) as client:
        client.change_device(DeviceAction.ADD, path, capacity_bytes=capacity, erase=erase)
        _follow(client, DeviceAction.ADD, path, wait, json)


def drain(
    device: Device,
    *,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    timeout_s: opt.Timeout = TIMEOUT_S,
    wait: Wait = True,
    json: opt.Json = False,
) -> None:
    """Move everything to the other devices, then take this one out of the store."""
    with Client(one_shard(address), timeout_s=timeout_s) as client:
        client.change_device(DeviceAction.DRAIN, device)
        _follow(client, DeviceAction.DRAIN, device, wait, json)


def replace(
    device: Device,
    by: NewDevice,
    *,
    capacity: Capacity = 0,
    erase: Format = False,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    timeout_s: opt.Timeout = TIMEOUT_S,
    wait: Wait = True,
    json: opt.Json = False,
) -> None:
    """Add NEW, then drain DEVICE into what is there."""
    with Client(one_shard(address), timeout_s=timeout_s) as client:
        client.change_device(
            DeviceAction.REPLACE, device, by=_absolute(by), capacity_bytes=capacity, erase=erase
        )
        _follow(client, DeviceAction.REPLACE, device, wait, json)


def grow(
    device: Device,
    *,
    capacity: Capacity = 0,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    timeout_s: opt.Timeout = TIMEOUT_S,
    wait: Wait = True,
    json: opt.Json = False,
) -> None:
    """Make a file larger, or use what a file or block device has become larger by."""
    with Client(one_shard(address), timeout_s=timeout_s) as client:
        client.change_device(DeviceAction.GROW, device, capacity_bytes=capacity)
        _follow(client, DeviceAction.GROW, device, wait, json)


def cancel(
    device: Device,
    *,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    timeout_s: opt.Timeout = TIMEOUT_S,
) -> None:
    """End a drain: what has moved has moved, and the device takes chunks again."""
    with Client(one_shard(address), timeout_s=timeout_s) as client:
        client.change_device(DeviceAction.CANCEL, device)
    remark(f"{device} takes chunks again")


def _absolute(path: str) -> str:
    """The server has a working folder of its own."""
    return path if path.startswith(("memory:", "null:")) else os.path.abspath(path)


def _follow(client: Client, action: DeviceAction, device: str, wait: bool, json: bool) -> None:
    """Show how it goes until it has ended; then say what the configuration should say."""
    states = client.devices()
    if wait:
        try:
            with _progress(f"{action.name.lower()} {device}") as show:
                while _find(states, action, device).change_state == RUNNING:
                    show(_find(states, action, device))
                    time.sleep(POLL_S)
                    states = client.devices()
        except KeyboardInterrupt:
            remark(f"it goes on; `mezzo device list` shows how, `mezzo device cancel {device}` ends a drain")
            raise
    state = _find(states, action, device)
    if json:
        json_result(
            msgspec.json.encode({"device": msgspec.structs.asdict(state), "devices": _configured(states)})
        )
    if state.change_state.startswith("failed"):
        raise Unavailable(f"{action.name.lower()} of {state.name} {state.change_state}")
    if json:
        return
    if state.change_state == RUNNING:
        remark(f"{action.name.lower()} of {state.name} has begun; `mezzo device list` shows how it goes")
        return
    remark(f"{_change_text(state)}, {state.change_s:.1f} s")
    if action is DeviceAction.GROW:
        remark("nothing is to be changed in the configuration file: the device knows its own size")
    else:
        remark(f"now let the configuration file say, under [shard]: devices = {_configured_text(states)}")


def _find(states: Sequence[DeviceState], action: DeviceAction, device: str) -> DeviceState:
    """The device that a change was asked for: names may have been used before."""
    named = [state for state in states if state.name == device]
    if not named:
        real = os.path.realpath(device)
        named = [state for state in states if os.path.realpath(state.name) == real]
    if not named:
        raise Unavailable(f"the server does not list {device} any more: was it started anew?")
    running = [state for state in named if state.change_state == RUNNING]
    if running:
        return running[0]
    gone = [state for state in named if state.state == GONE]
    if gone and (action in (DeviceAction.DRAIN, DeviceAction.REPLACE) or len(gone) == len(named)):
        return gone[-1]
    return next(state for state in named if state.state != GONE)


def _configured(states: Sequence[DeviceState]) -> list[str]:
    return [state.name for state in states if state.state != GONE]


def _configured_text(states: Sequence[DeviceState]) -> str:
    return msgspec.json.encode(_configured(states)).decode().replace('","', '", "')


def _change_text(state: DeviceState) -> str:
    if not state.change:
        return ""
    if state.change_state == RUNNING and state.change_bytes:
        return f"{state.change} {state.change_bytes_done / state.change_bytes:.0%}"
    moved = f" ({about_size(state.change_bytes_done)} moved)" if state.change_bytes_done else ""
    return f"{state.change} {state.change_state}{moved}"


@contextmanager
def _progress(label: str) -> Iterator[Show]:
    """Bytes, rate and estimated end on standard error, if that is a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = notes()
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def show(state: DeviceState) -> None:
            bar.update(task, total=state.change_bytes or None, completed=state.change_bytes_done)

        yield show
