"""``mezzo demo``: the whole way once, with a node of its own."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
from mezzo.errors import Busy, DeadlineExceeded, Unavailable
from mezzo.sizes import format_size

if TYPE_CHECKING:
    from mezzo.replay.node import NodeProcess, NodeSettings
    from mezzo.replay.report import Report
    from mezzo.replay.tenants import Isolation
    from mezzo.replay.trace import Trace
    from mezzo.replay.worker import ReplayOptions, StoreClient

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
HOT_SHARE = 0.25
"""of the device's bytes"""
HOT_BYTES_MAX = 1 * GIB
"""unless asked otherwise"""
HOT_ARENA_BYTES = 64 * MIB
MEMORY_SHARE = 0.25
"""of the free memory, at most, unless asked otherwise"""
RESTART_S = 60.0
GRPC_BYTES = 1 * MIB
GRPC_CHUNKS = 4


class Transport(StrEnum):
    """How the bytes move."""

    SHM = "shm"
    TCP = "tcp"


class Fill(StrEnum):
    """What makes a chunk hot."""

    PUTS = "puts"
    READS = "reads"


class Restart(Struct, frozen=True):
    """What was there before the shard was killed, and after its supervisor had started it again."""

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


class Through(Struct, frozen=True):
    """Chunks by way of the front-end: put over gRPC, read directly, and over gRPC."""

    address: str
    bytes: int
    put_ms: float
    get_ms: float
    wrong_bytes: int


class Shown(Struct, frozen=True):
    """All that a demo found."""

    replay: Report
    restart: Restart
    grpc: Through
    tenants: Isolation
    metrics: dict[str, str]
    """URL of each process's metrics while it ran"""
    series: int
    """how many values the shard's page had"""


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
    hot_bytes: Annotated[
        int,
        typer.Option(
            "--hot", parser=opt.size, metavar="SIZE",
            help="Memory of the hot tier; 0: none.", show_default="a quarter of the device, at most 1GiB",
        ),
    ] = -1,
    fill: Annotated[Fill, typer.Option(help="What makes a chunk hot.")] = Fill.PUTS,
    in_place: Annotated[bool, typer.Option("--in-place", help="Read hot chunks where they lie.")] = False,
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
    """Start a node with two tenants, replay a trace as one of them, kill its shard and check what is left.

    Needs the server extra. Exit status 1 if a byte was wrong, a chunk was lost by the restart, or the
    other tenant saw anything.
    """
    from mezzo.replay.node import NodeSettings
    from mezzo.replay.tenants import TENANTS
    from mezzo.replay.worker import ReplayOptions

    loaded = opt.load_trace(trace, seed).head(requests)
    options = ReplayOptions(block_bytes=block_bytes, concurrency=concurrency, in_place=in_place)
    base = folder or Path(tempfile.gettempdir())
    capacity_bytes = choose_capacity(
        capacity_bytes, loaded.summary().distinct * block_bytes, shutil.disk_usage(base).free
    )
    if hot_bytes < 0:
        hot_bytes = choose_hot(capacity_bytes, free_memory_bytes())
    results = opt.results_folder(out, "mezzo-replay")
    with terminable(), tempfile.TemporaryDirectory(prefix="mezzo-demo-", dir=base) as scratch:
        listen = f"unix://{scratch}/s" if transport is Transport.SHM else "tcp://127.0.0.1:0"
        settings = NodeSettings(
            device=f"{scratch}/device.mezzo", capacity_bytes=capacity_bytes, listen=[listen],
            hot_bytes=hot_bytes, fill=fill, tenants=TENANTS,
        )  # fmt: skip
        shown = _demo(loaded, options, settings, Path(scratch), results)
    write_results(shown.replay, results, plot=plot)
    (results / "restart.json").write_bytes(msgspec.json.encode(shown.restart) + b"\n")
    if json:
        json_result(msgspec.json.encode(shown))
    else:
        show(shown.replay)
        _show(shown)
        show_folder(results)
        _show_next(loaded)
    wrong = shown.replay.wrong_bytes or shown.grpc.wrong_bytes
    if wrong or not shown.restart.well or not shown.tenants.well:
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


def choose_hot(capacity_bytes: int, free_bytes: int) -> int:
    """Bytes of the hot tier, in whole arenas: a share of the device, and of the free memory at most.

    0, and it says so, where that is less than one arena.
    """
    wanted = min(capacity_bytes * HOT_SHARE, HOT_BYTES_MAX, free_bytes * MEMORY_SHARE)
    hot_bytes = int(wanted) // HOT_ARENA_BYTES * HOT_ARENA_BYTES
    if not hot_bytes:
        remark("no hot tier: the device or the free memory is too small; --hot SIZE asks for one")
    return hot_bytes


def free_memory_bytes() -> int:
    """Memory that can be had without swapping; a lot where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return HOT_BYTES_MAX * 16


def _demo(
    trace: Trace, options: ReplayOptions, settings: NodeSettings, scratch: Path, results: Path
) -> Shown:
    import time

    from mezzo.replay import tenants
    from mezzo.replay.metrics import read_metrics
    from mezzo.replay.node import NodeProcess
    from mezzo.replay.payload import Pattern
    from mezzo.replay.verify import present_blocks, verify

    with NodeProcess(settings, folder=scratch, log=results / "node.log") as node:
        hot = f"a hot tier of {format_size(settings.hot_bytes)}" if settings.hot_bytes else "no hot tier"
        remark(
            f"a node with a device of {format_size(settings.capacity_bytes)} and {hot} serves {node.address} "
            f"and {node.grpc}. {node.io}"
        )
        if node.metrics:
            remark("metrics, while it runs: " + ", ".join(node.metrics.values()))
        remark(f"tenants {' and '.join(node.tokens)}, each with a token; the replay is {tenants.OWNER}'s")
        token = node.tokens[tenants.OWNER]
        with tenants.open_typed(node.grpc, token, options.block_bytes) as typed:
            typed.ping()
        report = run_replay(
            trace, options, node.grpc, tenants.NAMESPACE, 30.0,
            token=token, operator=node.operator_token, via="direct",
        )  # fmt: skip
        with _as_owner(node) as client:
            before = present_blocks(client, trace, options)
        remark("killing the shard (SIGKILL); its supervisor starts it again")
        started_s = time.monotonic()
        node.kill_shard()
        _await_shard(node)
        start_s = time.monotonic() - started_s
        count = min(len(before), COMPARE_BYTES_MAX // options.block_bytes)
        with progress("compare", count) as told, _as_owner(node) as client:
            verified = verify(client, trace, options, bytes_max=COMPARE_BYTES_MAX, progress=told)
            there = present_blocks(client, trace, options)
        through = _through_grpc(node)
        isolation = tenants.look(node.grpc, node.tokens, there, Pattern(options.block_bytes, options.salt))
        series = len(read_metrics(node.metrics.get("shard", "")))
        metrics = node.metrics
    restart = Restart(
        before=len(before),
        after=verified.present,
        compared=verified.compared,
        lost=verified.lost,
        wrong_bytes=verified.wrong_bytes,
        start_s=start_s,
    )
    return Shown(
        replay=report, restart=restart, grpc=through, tenants=isolation, metrics=metrics, series=series
    )


def _as_owner(node: NodeProcess) -> AbstractContextManager[StoreClient]:
    """A client of the tenant that the chunks belong to, directly at the shard."""
    from mezzo.replay import tenants

    return connect(node.grpc, tenants.NAMESPACE, 30.0, token=node.tokens[tenants.OWNER], via="direct")


def _await_shard(node: NodeProcess) -> None:
    """Wait until the shard answers again. Raises what the last attempt raised, after `RESTART_S`."""
    import time

    deadline_s = time.monotonic() + RESTART_S
    while True:
        try:
            with _as_owner(node) as client:
                client.stat([b"anybody there?"])
        except (Busy, DeadlineExceeded, Unavailable):
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
        else:
            return


def _through_grpc(node: NodeProcess) -> Through:
    """Put chunks through the front-end, and get them back through it and from the shard directly.

    The times are those of the last: the first ones include making connections.
    """
    import time

    import mezzo
    from mezzo.replay.payload import Pattern
    from mezzo.replay.tenants import OWNER

    pattern = Pattern(GRPC_BYTES, "by way of the front-end")
    token = node.tokens[OWNER]
    put_s = get_s = 0.0
    wrong = 0
    with (
        mezzo.Client(node.grpc, via="proxy", timeout_s=30.0, token=token) as client,
        mezzo.Client(node.grpc, via="direct", timeout_s=30.0, token=token) as direct,
    ):
        for number in range(GRPC_CHUNKS):
            data, back, again = (bytearray(GRPC_BYTES) for _ in range(3))
            pattern.fill(memoryview(data), number)
            key = pattern.key(number)
            start_s = time.perf_counter()
            client.put([key], [data])
            put_s = time.perf_counter() - start_s
            start_s = time.perf_counter()
            client.get([key], [back])
            get_s = time.perf_counter() - start_s
            direct.get([key], [again])
            # What was not found is all zeros, and so all wrong.
            wrong += sum(pattern.wrong_bytes(memoryview(one), number) for one in (back, again))
    return Through(node.grpc, GRPC_BYTES, put_s * 1000, get_s * 1000, wrong)


def _show(shown: Shown) -> None:
    restart, through = shown.restart, shown.grpc
    back = f"{restart.after:,} of {restart.before:,} chunks are there;"
    times = f"put in {through.put_ms:.1f} ms and got in {through.get_ms:.1f} ms"
    lines = [
        "",
        f"SIGKILL   the shard answers again after {restart.start_s:.1f} s: {back}",
        f"          {restart.compared:,} read back and compared, {restart.wrong_bytes:,} wrong bytes",
        f"gRPC      {through.bytes // MIB} MiB {times} through the front-end,",
        f"          and got from the shard directly: {through.wrong_bytes:,} wrong bytes",
    ]
    apart = shown.tenants
    seen = f"{apart.other_sees:,} found, {apart.other_bytes:,} bytes"
    wrong = "refused" if apart.wrong_token_refused else "TAKEN"
    lines += [
        f"tenants   {apart.owner} sees {apart.owner_sees:,} of {apart.asked:,} chunks in its namespace {apart.namespace};",
        f"          {apart.other} asks for the same by name, identity and keys: {seen};",
        f"          a token with one character changed is {wrong}",
    ]
    if "shard" in shown.metrics:
        lines.append(f"metrics   {shown.series:,} values at {shown.metrics['shard']} while the shard ran")
    console().print("\n".join(lines), markup=False, soft_wrap=True)


def _show_next(trace: Trace) -> None:
    steps = [
        ("mezzo setup --metadata > mezzo.toml; mezzo serve --config mezzo.toml", "a node of yours"),
        ("mezzo tenant create acme --config mezzo.toml", "tenants of yours; docs/tenants.md"),
        ("mezzo top", "watch it"),
        ("mezzo replay", "this again, against it; --in-place reads hot chunks where they lie"),
        ("mezzo workload --preset agents --out agents.jsonl", "another load; docs/workload.md"),
    ]
    if not trace.sha256:
        steps.append(("make demo TRACE=conversation_trace.jsonl", "with the real trace; docs/replay.md"))
    width = max(len(command) for command, _ in steps)
    lines = ["", "what to try next", *(f"  {command.ljust(width)}  {what}" for command, what in steps)]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind like an error, so that node and device file do not stay behind."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
