"""``mezzo demo-pod``: a pod on this machine that loses a node under load, and gets it back."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct

from mezzo.cli import options as opt
from mezzo.cli.demo import HOT_ARENA_BYTES, MIB, choose_capacity, free_memory_bytes, terminable
from mezzo.cli.output import console, json_result, progress, remark, result
from mezzo.cli.replay import connect, show_folder
from mezzo.errors import Unavailable
from mezzo.replay.figures import Served, Window, windows
from mezzo.replay.loss import Moment, Phase, bars, phase_table, phases
from mezzo.sizes import format_size

if TYPE_CHECKING:
    from mezzo.replay.demo_pod import DemoPod, PodSettings
    from mezzo.replay.trace import Trace
    from mezzo.replay.worker import ReplayOptions

DEFAULT_BLOCK_BYTES = 16 * 1024
SECONDS = 40.0
SLOW = 1.25
"""A machine that is slower than the trace ends the replay after so much more time, wherever it is by then."""
KILL_AT = 0.35
"""of the requests, or of the time; early enough for the store to have filled, late enough to see it lost"""
START_AT = 0.7
PASS_WAIT_S = 30.0
"""for the slots of a dead node to pass to the others"""
MAP_LOOK_S = 0.5
LATE_S = 1.0
NAMESPACE = "conversation"
TIMEOUT_S = 30.0
COMPARE_BYTES_MAX = 256 * MIB
PROXY_BYTES_MAX = 32 * MIB
MEMORY_PART = 16
"""of the free memory, for each node's hot tier at most"""


class Compared(Struct, frozen=True):
    """Chunks that were there in the end, read once more."""

    way: str
    chunks: int
    wrong_bytes: int


class PodShown(Struct, frozen=True, kw_only=True):
    """All that the demo found."""

    trace: str
    trace_sha256: str
    block_bytes: int
    nodes: int
    shards: int
    requests: int
    requests_left: int
    """a machine that is slower than the trace, by more than a quarter, does not come to these"""
    duration_s: float
    late_s_max: float
    got_bytes: int
    put_bytes: int
    wrong_blocks: int
    wrong_bytes: int
    given_up: int
    """calls that failed by their deadline"""
    unreached: int
    """calls all of whose chunks were the lost node's"""
    had: int
    """chunks of the node before it was killed"""
    kept: int
    """those on its devices when it was back; while it is killed chunks come and go"""
    moments: list[Moment]
    phases: list[Phase]
    timeline: tuple[Window, ...]
    compared: list[Compared]

    @property
    def all_wrong_bytes(self) -> int:
        """In the replay and when it was all read once more."""
        return self.wrong_bytes + sum(one.wrong_bytes for one in self.compared)

    @property
    def recovered(self) -> bool:
        """Whether the node came back with what it had, as far as that can be told under load."""
        return 2 * self.kept > self.had > 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo-pod")(demo_pod)


def demo_pod(
    *,
    trace: opt.TracePath = None,
    etcd: Annotated[
        str, typer.Option(metavar="PROGRAM", help="The etcd to run.", show_default="etcd in PATH")
    ] = "",
    nodes: Annotated[int, typer.Option(min=2, max=8, help="Nodes of the pod; the last one is lost.")] = 2,
    shards: Annotated[int, typer.Option(min=1, max=8, help="Shards of each node.")] = 2,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long the replay takes: the trace's own times, faster.")
    ] = SECONDS,
    capacity_bytes: Annotated[
        int,
        typer.Option(
            "--capacity", parser=opt.size, metavar="SIZE", help="Bytes of all devices.",
            show_default="4GiB, at most 40 % of the trace's distinct bytes",
        ),
    ] = 0,
    block_bytes: Annotated[
        int,
        typer.Option(
            "--block", parser=opt.size, metavar="SIZE", show_default="16KiB",
            help="Bytes per block of 512 tokens.",
        ),
    ] = DEFAULT_BLOCK_BYTES,
    concurrency: opt.Concurrency = 4,
    requests: opt.Requests = 0,
    seed: opt.Seed = 1,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where the device files are, for the time of the demo.",
            show_default="the folder for temporary files", exists=True, file_okay=False,
        ),
    ] = None,
    out: opt.Out = None,
    plot: opt.Plot = True,
    json: opt.Json = False,
) -> None:  # fmt: skip
    """Start an etcd and a pod on this machine, replay a trace through it, kill a node meanwhile and start it again.

    Needs the server extra, and an etcd (Debian: etcd-server). Exit status 1 if a byte was wrong, or if
    the node came back without its chunks.
    """
    from mezzo.replay.demo_pod import PodSettings
    from mezzo.replay.worker import ReplayOptions

    program = etcd or shutil.which("etcd") or ""
    if not program:
        raise Unavailable(
            "no etcd in PATH: install one (Debian: etcd-server), or name it with --etcd; make demo-pod fetches one"
        )
    loaded = opt.load_trace(trace, seed).head(requests)
    if not loaded.requests:
        raise Unavailable(f"{loaded.name}: no request in it, so there is nothing to replay")
    summary = loaded.summary()
    base = folder or Path(tempfile.gettempdir())
    capacity_bytes = choose_capacity(
        capacity_bytes, summary.distinct * block_bytes, shutil.disk_usage(base).free
    )
    hot_bytes = min(capacity_bytes // nodes // 4, free_memory_bytes() // MEMORY_PART)
    options = ReplayOptions(
        block_bytes=block_bytes,
        concurrency=concurrency,
        time_scale=max(summary.duration_s, 1e-3) / seconds,
        stop_s=SLOW * seconds,
        rides_out=True,
    )
    results = opt.results_folder(out, "mezzo-pod")
    with (
        terminable(),
        tempfile.TemporaryDirectory(prefix="mezzo-pod-", dir=base) as scratch,
        # The paths of sockets are short, whatever --dir is.
        tempfile.TemporaryDirectory(prefix="mezzo-") as sockets,
    ):
        settings = PodSettings(
            etcd=program, nodes=nodes, shards=shards, node_bytes=capacity_bytes // nodes,
            hot_bytes=hot_bytes // shards // HOT_ARENA_BYTES * HOT_ARENA_BYTES * shards,
        )  # fmt: skip
        shown, served = _demo(loaded, options, settings, Path(scratch), Path(sockets), results)
    (results / "pod.json").write_bytes(msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n")
    if plot:
        from mezzo.replay.loss_plot import write_loss_plot

        title = f"{shown.trace}, {nodes} nodes of {shards} shards, {shown.all_wrong_bytes} wrong bytes"
        write_loss_plot(title, shown.timeline, shown.moments, results / "pod.png")
    if json:
        json_result(msgspec.json.encode(shown))
    else:
        _show(shown, served)
        show_folder(results)
    if shown.all_wrong_bytes or not shown.recovered:
        raise typer.Exit(1)


class _Loss:
    """What is done to the pod while the trace runs. Its `look` is called again and again by the thread that waits."""

    def __init__(self, pod: DemoPod, requests: int, over_s: float) -> None:
        self._pod = pod
        self._victim = pod.nodes[-1]
        self._requests = requests
        self._started_s = time.monotonic()
        self._over_s = over_s
        self._looked_s = 0.0
        self._step = 0
        self.moments: list[Moment] = []
        self.had = 0
        self.kept = 0

    def look(self, done: int) -> None:
        """Do what is due when so many requests were served."""
        name = self._victim.name
        passed = max(done / self._requests, (time.monotonic() - self._started_s) / self._over_s)
        if self._step == 0 and passed >= KILL_AT:
            self.had = self._victim.chunks()
            self._victim.kill()
            self._note(f"{name} killed", f"{name} gone")
        elif self._step == 1 and self._passed():
            self._note(f"its slots are the others' (epoch {self._epoch()})", "slots passed on")
        elif self._step == 2 and passed >= START_AT:
            self._victim.start()
            self.kept = self._victim.chunks()
            self._note(f"{name} started", f"{name} starts")
        elif self._step == 3 and self._passed(back=True):
            self._note(f"it has its slots again (epoch {self._epoch()})", f"{name} back")

    def finish(self) -> None:
        """What of it is left when the trace is over."""
        until = time.monotonic() + PASS_WAIT_S
        while self._step < 4:
            if time.monotonic() > until:
                raise Unavailable(
                    f"after {PASS_WAIT_S:g} s the map does not say what became of the lost node"
                )
            self.look(self._requests)
            time.sleep(0.1)

    def _passed(self, *, back: bool = False) -> bool:
        now = time.monotonic()
        if now - self._looked_s < MAP_LOOK_S:
            return False
        self._looked_s = now
        self._pod.look()
        slots = self._pod.slots()[self._victim.name]
        return slots > 0 if back else not slots

    def _epoch(self) -> int:
        return 0 if self._pod.pod_map is None else self._pod.pod_map.epoch

    def _note(self, what: str, phase: str) -> None:
        at_s = time.monotonic() - self._started_s
        self.moments.append(Moment(at_s, what, phase))
        self._step += 1
        remark(f"{at_s:5.1f} s  {what}")


def _demo(
    trace: Trace, options: ReplayOptions, settings: PodSettings, scratch: Path, sockets: Path, results: Path
) -> tuple[PodShown, list[Served]]:
    from mezzo.replay.demo_pod import DemoPod
    from mezzo.replay.runner import Replay

    remark("starting etcd, " + f"{settings.nodes} nodes of {settings.shards} shards, and a front-end apart")
    with DemoPod(settings, folder=scratch, sockets=sockets, logs=results) as pod:
        hot = f", a hot tier of {format_size(settings.hot_bytes)}" if settings.hot_bytes else ""
        remark(
            f"each node has {format_size(settings.node_bytes)} on files{hot}; front-ends: {', '.join(pod.frontends)}"
        )
        # So that a replay's clients do not all lose their front-end with the node.
        numbers = iter(range(options.concurrency))

        def client() -> object:
            first = next(numbers) % len(pod.frontends)
            addresses = [*pod.frontends[first:], *pod.frontends[:first]]
            return connect(_together(addresses), NAMESPACE, TIMEOUT_S, token="", via="direct")

        run = Replay(client, trace, options)  # type: ignore[arg-type]
        loss = _Loss(pod, len(trace.requests), options.stop_s)
        with progress("replay", len(trace.requests)) as told:

            def look(done: int) -> None:
                told(done)
                loss.look(done)

            outcome = run.run(look)
        loss.finish()
        compared = [
            _compare("directly", pod, trace, options, COMPARE_BYTES_MAX),
            _compare("through the front-end", pod, trace, options, PROXY_BYTES_MAX),
        ]
    tally = outcome.tally
    shown = PodShown(
        trace=trace.name,
        trace_sha256=trace.sha256,
        block_bytes=options.block_bytes,
        nodes=settings.nodes,
        shards=settings.shards,
        requests=tally.requests,
        requests_left=len(trace.requests) - tally.requests,
        duration_s=outcome.duration_s,
        late_s_max=tally.late_s_max,
        got_bytes=tally.got_bytes,
        put_bytes=tally.put_bytes,
        wrong_blocks=tally.wrong_blocks,
        wrong_bytes=tally.wrong_bytes,
        given_up=tally.given_up,
        unreached=tally.unreached,
        had=loss.had,
        kept=loss.kept,
        moments=loss.moments,
        phases=phases(tally.served, outcome.duration_s, loss.moments, "all nodes"),
        timeline=windows(tally.served, outcome.duration_s),
        compared=compared,
    )
    return shown, tally.served


def _compare(way: str, pod: DemoPod, trace: Trace, options: ReplayOptions, bytes_max: int) -> Compared:
    """Read chunks once more by way of the front-end apart."""
    from mezzo.replay.verify import verify

    direct = way == "directly"
    with (
        connect(pod.gate, NAMESPACE, TIMEOUT_S, token="", via="direct" if direct else "proxy") as client,
        progress(f"compare, {way}", bytes_max // options.block_bytes) as told,
    ):
        found = verify(client, trace, options, bytes_max=bytes_max, progress=told)
    return Compared(way, found.compared, found.wrong_bytes)


def _together(addresses: Sequence[str]) -> str:
    """Several front-ends as one text, as the SDK takes them."""
    return "grpc://" + ",".join(address.removeprefix("grpc://") for address in addresses)


def _show(shown: PodShown, served: Sequence[Served]) -> None:
    size = format_size(shown.block_bytes)
    out = console()
    out.print(
        f"\n{shown.trace}: {shown.requests:,} requests in {shown.duration_s:.1f} s, blocks of {size}, "
        f"{shown.got_bytes / 1e9:.2f} GB got, {shown.put_bytes / 1e9:.2f} GB put",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    out.print(
        "\nHits, of those that a cache would have had that keeps everything. A prefix is good up to its first chunk\n"
        "that is missing, and nearly all begin with the same one: a lost node costs more than its part.\n",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    out.print(bars(served, shown.duration_s, shown.moments), soft_wrap=True)
    out.print()
    result(phase_table(shown.phases))
    lines = [
        "",
        f"lost node   had {shown.had:,} chunks, is back with {shown.kept:,} on its devices (puts go on: full ones make room)",
        *(
            f"{'read again' if not number else '':11} {one.chunks:,} chunks {one.way}: {one.wrong_bytes:,} wrong bytes"
            for number, one in enumerate(shown.compared)
        ),
        f"wrong bytes {shown.all_wrong_bytes:,}" + (
            f" in {shown.wrong_blocks:,} blocks of the replay" if shown.wrong_blocks else ": every byte that came back was compared"
        ),
    ]  # fmt: skip
    if shown.unreached:
        lines.append(f"nobody      answered {shown.unreached:,} calls: all their chunks were the lost node's")
    if shown.late_s_max > LATE_S:
        left = f", and {shown.requests_left:,} requests were left" if shown.requests_left else ""
        lines.append(f"pace        this machine was up to {shown.late_s_max:.1f} s behind the trace{left}")
    if shown.given_up:
        lines.append(f"late        {shown.given_up:,} calls were given up: their chunks were misses")
    out.print("\n".join(lines), markup=False, soft_wrap=True)
