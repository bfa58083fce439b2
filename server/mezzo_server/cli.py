"""The server's commands of ``mezzo``: ``shard`` and ``check``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import structlog
import typer

from mezzo.cli.output import console, json_result, notes
from mezzo.errors import MezzoError
from mezzo_server.config import load, parse_size

if TYPE_CHECKING:
    from mezzo_server.blockstore.recovery import Progress
    from mezzo_server.shard.main import Readiness

LOG_LEVELS = ("debug", "info", "warning", "error")


def register(app: typer.Typer) -> None:
    """Add the server's commands to the command line (entry point group ``mezzo.commands``)."""
    app.command("shard")(shard)
    app.command("check")(check)


def shard(
    *,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings; flags win over it.", dir_okay=False)
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Address: unix:///path or tcp://host:port (port 0: any free). Repeatable."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="File, block device, memory:SIZE or null:SIZE. Repeatable."),
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of each device that is a file, e.g. 64GiB.")
    ] = None,
    format_: Annotated[
        bool, typer.Option("--format", help="Initialise devices that hold anything but a store of ours.")
    ] = False,
    durability: Annotated[
        str | None, typer.Option(help="What an acknowledged put survives: process or power.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="What goes when space is needed: fifo or lru.")] = None,
    io: Annotated[str | None, typer.Option(help="auto, uring or threads.")] = None,
    depth: Annotated[int | None, typer.Option(help="Transfers in flight on one device.")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that checksum and copy.")] = None,
    segment: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Unit of space on a device, chosen at --format.")
    ] = None,
    scrub: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes verified per second in the background; 0: none.")
    ] = None,
    loop: Annotated[str | None, typer.Option(help="Event loop: auto, uvloop or asyncio.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow addresses that other hosts can reach.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
    json: Annotated[bool, typer.Option("--json", help="Say that it is ready in one line of JSON.")] = False,
) -> None:
    """Run a shard: store KV chunks on devices and serve them until SIGTERM or SIGINT."""
    _configure_log(log_level)
    settings = load(
        config,
        os.environ,
        {
            "shard": _given(
                {
                    "listen": listen or None,
                    "devices": device or None,
                    "capacity_bytes": _size(capacity, "--capacity"),
                    "format": format_ or None,
                    "durability": durability,
                    "policy": policy,
                    "io": io,
                    "depth": depth,
                    "workers": workers,
                    "segment_bytes": _size(segment, "--segment"),
                    "scrub_bytes_per_s": _size(scrub, "--scrub"),
                    "loop": loop,
                    "insecure": insecure or None,
                }
            )
        },
    )
    from mezzo_server.shard.main import serve as run

    def announce(readiness: Readiness) -> None:
        if json:
            json_result(msgspec.json.encode(readiness))
        else:
            _show(readiness)

    with _recovery_progress() as progress:
        run(settings.shard, announce, progress)


def check(
    *,
    device: Annotated[list[str], typer.Argument(help="File or block device; all devices of one store.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Verify devices offline: read every record and report. Exit status 1 if anything is wrong."""
    from mezzo_server.blockstore.check import check_devices

    with _recovery_progress() as progress:
        report = check_devices(device, progress=progress)
    if json:
        json_result(msgspec.json.encode(report))
    else:
        console().print(str(report), markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(1)


def _size(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except MezzoError as error:
        raise type(error)(f"{flag}: {error}") from None


def _show(readiness: Readiness) -> None:
    lines = [f"mezzo shard ready in {readiness.start_s:.2f} s (process {readiness.pid})"]
    lines += [f"  listens on  {address}" for address in readiness.listen]
    for device in readiness.devices:
        how = f"{device.kind}, O_DIRECT" if device.direct else device.kind
        lines.append(f"  device      {device.name}  {device.bytes / 2**30:.2f} GiB  ({how})")
    live = f"{readiness.bytes_live / 2**30:.2f} GiB in {readiness.recovery_s:.2f} s"
    lines += [
        f"  io          {readiness.io}",
        f"  recovered   {readiness.chunks} chunks, {live}",
        f"  settings    durability {readiness.durability}, policy {readiness.policy}, loop {readiness.loop}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _given(settings: dict[str, object]) -> dict[str, object]:
    """Those flags that were given."""
    return {name: value for name, value in settings.items() if value is not None}


@contextmanager
def _recovery_progress() -> Iterator[Progress | None]:
    """A bar on standard error while devices are read, if that is a terminal."""
    shown = notes()
    if not shown.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=shown, transient=True
    ) as bar:
        task = bar.add_task("reading segments", total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        yield told


def _configure_log(level: str) -> None:
    if level not in LOG_LEVELS:
        raise typer.BadParameter(f"{level!r} is none of {', '.join(LOG_LEVELS)}", param_hint="--log-level")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def main() -> None:
    """``python -m mezzo_server``: the server's commands alone."""
    from mezzo.cli.app import run

    def make() -> typer.Typer:
        app = typer.Typer(
            name="mezzo_server",
            help="Mezzo's server.",
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.callback()(lambda: None)
        register(app)
        return app

    sys.exit(run(make, sys.argv[1:]))


__all__ = ["check", "main", "register", "shard"]
