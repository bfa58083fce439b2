"""How `mezzo top` looks: figures and a short history in, lines that fit a terminal out. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mezzo.cli.top_figures import Figures, Hits, Requests
from mezzo.sizes import about_size

HISTORY = 120
"""Intervals remembered."""
SPARKS = "▁▂▃▄▅▆▇█"
BAR = ("█", "░")
LABEL_WIDTH = 10
FIXED_LINES = 17
"""Lines beside those of kinds of requests and of devices."""
NONE = "-"


class History:
    """The last intervals, for the small curves. Owner of its deques."""

    def __init__(self) -> None:
        self.hits: deque[float] = deque(maxlen=HISTORY)
        self.sent: deque[float] = deque(maxlen=HISTORY)
        self.received: deque[float] = deque(maxlen=HISTORY)
        self.requests: deque[float] = deque(maxlen=HISTORY)

    def add(self, told: Figures) -> None:
        """Remember an interval; a sample without one leaves a gap of nothing."""
        if told.interval_s is None or told.hits is None or told.sent is None or told.received is None:
            return
        self.hits.append(told.hits.rate or 0.0)
        self.sent.append(told.sent.total)
        self.received.append(told.received.total)
        self.requests.append(told.requests_per_s or 0.0)


def spark(values: Iterable[float], width: int, most: float | None = None) -> str:
    """The last ``width`` values as a curve of one line; ``most``: the value of a full block."""
    shown = list(values)[-width:] if width > 0 else []
    top = most or max(shown, default=0.0)
    if top <= 0:
        return SPARKS[0] * len(shown)
    last = len(SPARKS) - 1
    return "".join(SPARKS[min(last, max(0, round(value / top * last)))] for value in shown)


def bar(share: float, width: int) -> str:
    """A bar of ``width`` characters, ``share`` of it filled."""
    full = min(width, max(0, round(share * width)))
    return BAR[0] * full + BAR[1] * (width - full)


def view(
    address: str, told: Figures | None, history: History, *, width: int, height: int, problem: str = ""
) -> RenderableType:
    """One frame for a terminal of this size."""
    lines: list[RenderableType] = [_head(address, told, width, problem)]
    if told is None:
        return Group(*lines, _clip(Text(problem, "red"), width))
    if told.is_a_tenants:
        return Group(*lines, _clip(Text(problem, "red"), width), _tenant(told, width))
    curve = max(0, width - LABEL_WIDTH - 12 - 35 - 6)
    # The line behind the head is empty, or says what is wrong: nothing moves when a shard goes away.
    lines += [_clip(Text(problem, "red"), width), *_traffic(told, history, curve), Text()]
    room = max(2, height - FIXED_LINES)
    disks = max(1, min(len(told.devices), room // 2))
    kinds = [one for one in told.requests if one.total][: max(1, room - disks)]
    lines += [_kinds(told, kinds), Text(), _space(told, disks, width), Text()]
    lines += _rest(told)
    return Group(*lines)


def _head(address: str, told: Figures | None, width: int, problem: str) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    left = Text.assemble(("mezzo top", "bold"), "  ", address)
    if problem:
        return _row(grid, left, Text("not reachable", "bold red"))
    if told is None:
        return _row(grid, left, Text("connecting"))
    state = Text("serving", "green")
    if told.restarted:
        state = Text("started anew", "yellow")
    elif told.number("devices_fenced"):
        state = Text("degraded", "bold red")
    every = "" if told.interval_s is None else f"   last {told.interval_s:.1f} s"
    up = "" if told.is_a_tenants else f"   up {span(told.uptime_s)}"
    return _row(grid, left, Text.assemble(state, f"{up}{every}"))


def _row(grid: Table, *cells: Text) -> Table:
    grid.add_row(*cells)
    return grid


def _tenant(told: Figures, width: int) -> RenderableType:
    """What a tenant is told: what it uses, and of how much."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL_WIDTH, style="bold", no_wrap=True)
    grid.add_column(no_wrap=True, style="blue")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    number = told.number
    blocks = max(8, min(24, width - 66))
    for label, used, quota, note in (
        (
            "chunks",
            "capacity_bytes",
            "capacity_bytes",
            f"{number('namespace_chunks'):,.0f} in this namespace",
        ),
        ("hot tier", "hot_bytes", "hot_bytes", ""),
        ("leases", "leased_bytes", "leased_bytes", ""),
    ):
        most = number(f"quota_{quota}_hard") or number(f"quota_{quota}_soft")
        share = bar(min(1.0, number(used) / most), blocks) if most else ""
        filled = f"{about_size(number(used))} of {about_size(most)}" if most else about_size(number(used))
        grid.add_row(label, share, filled, Text(note))
    refused = number("over_quota")
    waits = _alarm(f"{number('requests_in_flight'):.0f} in flight, {refused:,.0f} refused by quota", refused)
    grid.add_row("requests", "", _rate(told.requests_per_s), waits)
    grid.add_row("payload", "", about_size(number("payload_bytes")), Text("put and got since its start"))
    grid.add_row("clients", "", f"{number('connections'):.0f}", Text("connections"))
    foot = Text("A tenant sees its own numbers; those of the whole shard are an operator's.", "dim")
    return Group(grid, Text(), _clip(foot, width))


def _traffic(told: Figures, history: History, curve: int) -> list[RenderableType]:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=LABEL_WIDTH, style="bold", no_wrap=True)
    grid.add_column(width=12, justify="right", no_wrap=True)
    grid.add_column(width=35, no_wrap=True)
    grid.add_column(no_wrap=True, style="cyan")
    grid.add_row("hit rate", *_hits(told.hits), spark(history.hits, curve, 1.0))
    grid.add_row("  total", *_hits(told.hits_total), "")
    for label, flow, past in (
        ("sent", told.sent, history.sent),
        ("received", told.received, history.received),
    ):
        if flow is None:
            grid.add_row(label, NONE, "", "")
        else:
            split = f"shm {about_size(flow.shm)}/s  tcp {about_size(flow.tcp)}/s"
            grid.add_row(label, f"{about_size(flow.total)}/s", split, spark(past, curve))
    errors = Text.assemble(
        f"in flight {told.number('requests_in_flight'):.0f}  ",
        _alarm(f"errors {_rate(told.errors_per_s)}", told.errors_per_s),
        "  ",
        _alarm(f"busy {_rate(told.busy_per_s)}", told.busy_per_s),
    )
    grid.add_row("requests", _rate(told.requests_per_s), errors, spark(history.requests, curve))
    return [grid]


def _hits(hits: Hits | None) -> tuple[str, str]:
    if hits is None or hits.rate is None:
        return NONE, ""
    shares = [share / hits.asked * 100 for share in (hits.hot, hits.device, hits.miss)]
    return f"{hits.rate * 100:.1f} %", "hot {:.1f}  device {:.1f}  miss {:.1f}".format(*shares)


def _kinds(told: Figures, kinds: Sequence[Requests]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold dim", show_edge=False)
    table.add_column("request", width=LABEL_WIDTH + 2, no_wrap=True)
    for title in ("per s", "mean ms", "own ms", "device ms", "failed/s", "total"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in kinds:
        table.add_row(
            one.kind.replace("_", " "),
            _rate(one.per_s, per="") if told.interval_s is not None else NONE,
            _ms(one.mean_ms),
            _ms(one.own_ms),
            _ms(one.device_ms),
            _alarm(_rate(one.failed_per_s, per=""), one.failed_per_s),
            f"{one.total:,}",
        )
    return table


def _space(told: Figures, rows: int, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL_WIDTH, style="bold", no_wrap=True)
    grid.add_column(no_wrap=True, style="blue")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    # The last line is for those that find no place.
    disks = rows if len(told.devices) <= rows else rows - 1
    blocks = max(8, min(24, width - 70))
    for one in told.devices[:disks]:
        state = f" {one.segments_free}/{one.segments_total} segments free"
        if one.transfers_in_flight or one.transfers_waiting:
            state += f"  {one.transfers_in_flight} in flight"
        if one.transfers_waiting:
            state += f" ({one.transfers_waiting} wait)"
        note = Text(state)
        if one.state != "serving":
            note = Text(one.state, "bold red")
        elif one.io_errors:
            note = Text(f"{state}  {one.io_errors} I/O errors", "yellow")
        grid.add_row(
            f"device {one.number}", bar(one.fill, blocks), *_fill(one.bytes_live, one.bytes_total), note
        )
    if len(told.devices) > disks:
        more = told.devices[disks:]
        live, total = sum(one.bytes_live for one in more), sum(one.bytes_total for one in more)
        grid.add_row(
            f"+{len(more)} more", bar(live / total if total else 0, blocks), *_fill(live, total), Text()
        )
    hot = told.number("hot_bytes_max")
    if hot:
        used, held = told.number("hot_bytes_used"), told.number("hot_bytes_held")
        note = Text(f" {told.number('hot_chunks'):,.0f} chunks, {about_size(held)} held")
        grid.add_row("hot tier", bar(used / hot, blocks), *_fill(used, hot), note)
    else:
        grid.add_row("hot tier", NONE, "", "", Text(" there is none"))
    leased, most = told.number("leased_bytes"), told.number("leased_bytes_max")
    note = Text(f" {told.number('leases'):,.0f} leases")
    if told.number("leases_overdue"):
        note.append(f", {told.number('leases_overdue'):,.0f} overdue", "yellow")
    grid.add_row("leases", bar(leased / most if most else 0, blocks), *_fill(leased, most), note)
    return grid


def _fill(used: float, total: float) -> tuple[str, str]:
    share = used / total * 100 if total else 0
    return f"{share:.0f} %", f"{about_size(used)} of {about_size(total)}"


def _rest(told: Figures) -> list[RenderableType]:
    number = told.number
    staging = number("staging_bytes")
    taken = (staging - number("staging_free_bytes")) / staging * 100 if staging else 0
    waiting = number("staging_waiting") + number("store_staging_waiting")
    longest_ms = number("loop_hold_max_us") / 1000
    over = number("loop_holds_over_1ms")
    share = NONE if told.loop_share is None else f"{told.loop_share * 100:.0f} %"
    wrong = {
        "corrupt": number("chunks_corrupt"),
        "mismatches seen": number("mismatches_seen") + number("hot_mismatches"),
        "received wrong": number("checksum_mismatches_received"),
        "I/O errors": number("io_errors"),
        "fenced": number("devices_fenced"),
        "faults": number("faults"),
    }
    found = ", ".join(f"{count:,.0f} {what}" for what, count in wrong.items() if count)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=LABEL_WIDTH, style="bold", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(
        "queues",
        f"puts {number('puts_waiting'):.0f}  staging {taken:.0f} % ({waiting:.0f} wait)"
        f"  output {about_size(number('output_bytes'))}  workers {number('workers_in_flight'):.0f}",
    )
    grid.add_row(
        "space",
        f"evicted {_bytes_rate(told.evicted_bytes_per_s)}"
        f"  rewritten {_bytes_rate(told.rewritten_bytes_per_s)}"
        f"  {number('chunks'):,.0f} chunks",
    )
    grid.add_row(
        "process",
        f"loop {share}  longest hold {longest_ms:.1f} ms  over 1 ms {over:,.0f}"
        f"  memory {about_size(number('memory_bytes'))}",
    )
    clients = f"  {number('connections'):.0f} clients"
    grid.add_row("trouble", Text(found, "bold red") if found else Text.assemble(("none", "green"), clients))
    return [grid]


def _bytes_rate(value: float | None) -> str:
    return NONE if value is None else f"{about_size(value)}/s"


def _rate(value: float | None, per: str = "/s") -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}{per}" if value >= 10 or not value else f"{value:.1f}{per}"


def _ms(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _alarm(text: str, value: float | None) -> Text:
    return Text(text, "bold red" if value else "")


def _clip(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def span(seconds: float) -> str:
    """A length of time in its two largest units: ``3 d 4 h``, ``2 min 5 s``."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = int(seconds)
    for place, (name, size) in enumerate(units):
        if whole >= size or size == 1:
            text = f"{whole // size} {name}"
            if size > 1:
                small, small_size = units[place + 1]
                text += f" {whole % size // small_size} {small}"
            return text
    return ""
