"""``mezzo top``: a running shard, live."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.live import Live

from mezzo.cli import options as opt
from mezzo.cli.output import json_result
from mezzo.cli.shards import one_shard
from mezzo.cli.top_figures import Figures, Numbers, figures
from mezzo.cli.top_view import History, view
from mezzo.errors import MezzoError, Unavailable

if TYPE_CHECKING:
    import mezzo

TIMEOUT_S = 2.0
"""A shard that does not answer for so long is shown as not reachable."""
RESIZE_S = 0.25
"""How soon a changed size of the terminal is followed."""
PLAIN_COLUMNS, PLAIN_LINES = 100, 40
"""Where the output is no terminal."""
SHORTEST_S = 0.1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("top")(top)


def top(
    *,
    address: opt.Address = opt.DEFAULT_ADDRESS,
    token: opt.Token = None,
    token_file: opt.TokenFile = None,
    interval_s: Annotated[
        float, typer.Option("--interval", min=SHORTEST_S, max=3600.0, help="Seconds between two looks.")
    ] = 2.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many looks.", show_default=False)
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print one frame, over one interval, and end.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One object of JSON for each interval.")] = False,
) -> None:
    """Show a running shard: hit rates, throughput, latencies, devices, queues. q ends it."""
    import mezzo

    with mezzo.Client(one_shard(address), timeout_s=TIMEOUT_S, name="mezzo-top") as client:
        watch = Watch(client, address)
        if json:
            _print_json(watch, interval_s, 1 if once else count)
        elif once:
            _print_once(watch, interval_s)
        elif not sys.stdout.isatty():
            raise Unavailable("standard output is no terminal: use --once or --json")
        else:
            _live(watch, interval_s, count)


class Watch:
    """Looks at one shard again and again. Owner of the last numbers and of the history."""

    def __init__(self, client: mezzo.Client, address: str) -> None:
        self._client = client
        self.address = address
        self._numbers: Numbers | None = None
        self._at = 0.0
        self.history = History()
        self.told: Figures | None = None
        """the last figures; None before the first answer"""
        self.problem = ""
        """why there are no new ones"""

    def look(self) -> Figures:
        """Ask, and compare with the last time. MezzoError if the shard does not answer."""
        numbers = self._client.shard_stat()
        now = time.monotonic()
        told = figures(self._numbers, numbers, now - self._at)
        self._numbers, self._at, self.told = numbers, now, told
        self.history.add(told)
        return told

    def try_look(self) -> bool:
        """`look`; a shard that is away is noted in ``problem``, and the last figures stay."""
        try:
            self.look()
        except MezzoError as error:
            self.problem = f"{error} (trying again)"
            return False
        self.problem = ""
        return True


class Away(msgspec.Struct, frozen=True):
    """What ``--json`` prints while the shard does not answer."""

    problem: str


def _print_once(watch: Watch, interval_s: float) -> None:
    watch.look()
    time.sleep(interval_s)
    watch.look()
    terminal = sys.stdout.isatty()
    console = Console(highlight=False) if terminal else Console(width=PLAIN_COLUMNS, highlight=False)
    height = max(24, console.height) if terminal else PLAIN_LINES
    console.print(view(watch.address, watch.told, watch.history, width=console.width, height=height))


def _print_json(watch: Watch, interval_s: float, count: int | None) -> None:
    watch.try_look() if count is None else watch.look()
    while count is None or count > 0:
        time.sleep(interval_s)
        if watch.try_look():
            json_result(msgspec.json.encode(watch.told))
        else:
            json_result(msgspec.json.encode(Away(watch.problem)))
        if count is not None:
            count -= 1


def _live(watch: Watch, interval_s: float, count: int | None) -> None:
    console = Console(highlight=False)
    with (
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        left = count
        while left is None or left > 0:
            watch.try_look()
            due = time.monotonic() + interval_s
            drawn = None
            while time.monotonic() < due:
                if drawn != console.size:
                    drawn = console.size
                    live.update(_frame(watch, console), refresh=True)
                if _pressed(keys, min(RESIZE_S, due - time.monotonic())):
                    return
            if left is not None:
                left -= 1


def _frame(watch: Watch, console: Console) -> RenderableType:
    return view(
        watch.address,
        watch.told,
        watch.history,
        width=console.width,
        height=console.height,
        problem=watch.problem,
    )


@contextmanager
def _keys() -> Iterator[int | None]:
    """Standard input, key by key, if it is a terminal; as it was, afterwards."""
    if not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _pressed(keys: int | None, wait_s: float) -> bool:
    """Whether q was pressed within ``wait_s``."""
    ready, _, _ = select.select([] if keys is None else [keys], [], [], max(0.0, wait_s))
    return bool(ready) and keys is not None and os.read(keys, 64)[:1] in {b"q", b"Q", b"\x04", b""}
