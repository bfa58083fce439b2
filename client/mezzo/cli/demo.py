"""``mezzo demo``: the whole way once, with a shard of its own."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import options as opt
from mezzo.cli.output import console, json_result, progress, remark
from mezzo.cli.replay import connect, run_replay, show, show_folder, write_results
from mezzo.errors import Unavailable
from mezzo.sizes import format_size

if TYPE_CHECKING:
    from mezzo.replay.report import Report
    from mezzo.replay.trace import Trace
    from mezzo.replay.worker import ReplayOptions

MIB = 1024**2
GIB = 1024**3

CAPACITY_BYTES_MAX = 4 * GIB
"""unless asked otherwise"""
CAPACITY_SHARE = 0.4
"""of the distinct bytes of the trace, so that space has to be reclaimed"""
CAPACITY_BYTES_MIN = 256 * MIB
DISK_SPARE_BYTES = 1 * GIB
"""left free on the disk"""
COMPARE_BYTES_MAX = 1 * GIB
"""read back after the restart"""


class Transport(StrEnum):
    """How the bytes move."""

    SHM = "shm"
    TCP = "tcp"


class Restart(Struct, frozen=True):
    """What was there before the shard was killed, and after it was started again."""

    before: int
    after: int
    compared: int
    lost: int
    wrong_bytes: int
    start_s: float

    @property
    def well(self) -> bool:
        """Nothing was lost, nothing is wrong."""
        return self.after >= self.before and not self.lost and not self.wrong_bytes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    *,
    trace: opt.TracePath = None,
    capacity_bytes: Annotated[
        int,
        typer.Option(
            "--capacity", parser=opt.size, metavar="SIZE",
            help="Bytes of the device.", show_default="4GiB, at most 40 % of the trace's distinct bytes",
        ),
    ] = 0,
    transport: Annotated[Transport, typer.Option(help="How the bytes move.")] = Transport.SHM,
    block_bytes: opt.BlockBytes = opt.DEFAULT_BLOCK_BYTES,
    concurrency: opt.Concurrency = 4,
    requests: opt.Requests = 0,
    seed: opt.Seed = 1,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where the device file is, for the time of the demo.",
            show_default="the folder for temporary files", exists=True, file_okay=False,
        ),
    ] = None,
    out: opt.Out = None,
    plot: opt.Plot = True,
    json: opt.Json = False,
) -> None:  # fmt: skip
    """Start a shard, replay a trace through it, kill it, start it again and check what is left.

    Needs the server extra. Exit status 1 if a byte was wrong or a chunk was lost by the restart.
    """
    from mezzo.replay.worker import ReplayOptions

    loaded = opt.load_trace(trace, seed).head(requests)
    options = ReplayOptions(block_bytes=block_bytes, concurrency=concurrency)
    base = folder or Path(tempfile.gettempdir())
    capacity_bytes = choose_capacity(
        capacity_bytes, loaded.summary().distinct * block_bytes, shutil.disk_usage(base).free
    )
    results = opt.results_folder(out, "mezzo-replay")
    with _terminable(), tempfile.TemporaryDirectory(prefix="mezzo-demo-", dir=base) as scratch:
        report, restart = _demo(loaded, options, Path(scratch), capacity_bytes, transport, results)
    write_results(report, results, plot=plot)
    (results / "restart.json").write_bytes(msgspec.json.encode(restart) + b"\n")
    if json:
        both = {"replay": msgspec.to_builtins(report), "restart": msgspec.to_builtins(restart)}
        json_result(msgspec.json.encode(both))
    else:
        show(report)
        _show_restart(restart)
        show_folder(results)
    if report.wrong_bytes or not restart.well:
        raise typer.Exit(1)


def choose_capacity(asked_bytes: int, distinct_bytes: int, free_bytes: int) -> int:
    """Bytes of the device: as asked, or so few that reclaim has work; never more than the disk has.

    Says so where it takes less than was asked. Raises `Unavailable` if there is not even room for
    the smallest device.
    """
    room = (free_bytes - DISK_SPARE_BYTES) // MIB * MIB
    wanted = asked_bytes or max(
        CAPACITY_BYTES_MIN, min(CAPACITY_BYTES_MAX, int(distinct_bytes * CAPACITY_SHARE) // MIB * MIB)
    )
    if room < min(wanted, CAPACITY_BYTES_MIN):
        raise Unavailable(
            f"{free_bytes / 1e9:.1f} GB are free on the disk: too few for a device of {format_size(wanted)} "
            f"with {format_size(DISK_SPARE_BYTES)} to spare; give another folder with --dir"
        )
    if room < wanted:
        remark(
            f"a device of {format_size(room)} instead of {format_size(wanted)}: the disk has no room for more"
        )
        return room
    return wanted


def _demo(
    trace: Trace,
    options: ReplayOptions,
    scratch: Path,
    capacity_bytes: int,
    transport: Transport,
    results: Path,
) -> tuple[Report, Restart]:
    import time

    from mezzo.replay.shard import ShardProcess
    from mezzo.replay.verify import present_blocks, verify

    listen = f"unix://{scratch}/s" if transport is Transport.SHM else "tcp://127.0.0.1:0"
    shard = ShardProcess(
        scratch / "device.mezzo", capacity_bytes=capacity_bytes, listen=[listen], log=results / "shard.log"
    )
    with shard:
        address = shard.address
        remark(f"a shard of {format_size(capacity_bytes)} serves {address}. {shard.ready.get('io', '')}")
        report = run_replay(trace, options, address, "default", 30.0)
        with connect(address, "default", 30.0) as client:
            before = present_blocks(client, trace, options)
        remark("killing it (SIGKILL) and starting it again")
        shard.kill()
        started_s = time.monotonic()
        shard.start()
        start_s = time.monotonic() - started_s
        count = min(len(before), COMPARE_BYTES_MAX // options.block_bytes)
        with progress("compare", count) as told, connect(shard.address, "default", 30.0) as client:
            verified = verify(client, trace, options, bytes_max=COMPARE_BYTES_MAX, progress=told)
    restart = Restart(
        before=len(before),
        after=verified.present,
        compared=verified.compared,
        lost=verified.lost,
        wrong_bytes=verified.wrong_bytes,
        start_s=start_s,
    )
    return report, restart


def _show_restart(restart: Restart) -> None:
    console().print(
        f"after SIGKILL and {restart.start_s:.1f} s to start again: {restart.after:,} of {restart.before:,} "
        f"chunks are there; {restart.compared:,} read back and compared, {restart.wrong_bytes:,} wrong bytes",
        soft_wrap=True,
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind like an error, so that shard and device file do not stay behind."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
