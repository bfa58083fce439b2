"""The logs of every process: lines on standard error, as JSON or for people. Set up once, here.

Each line names the process and its id.  The same warning again and again is cut to a few a minute,
with a count of those left out.  Payload and keys are never logged.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import Processor

from mezzo_server.config.schema import LogConfig

REPEATS_MAX = 5
"""lines of one kind in `WINDOW_S`; more are counted only"""
WINDOW_S = 60.0
KINDS_MAX = 256
"""kinds of lines that are told apart; the one that was quiet for longest is forgotten"""

Event = MutableMapping[str, Any]


class RepeatLimit:
    """A processor that drops lines of a kind seen too often of late. Owner of its table.

    A kind is a message; what the line says beside it (a peer, an error) does not make it another.
    Errors are never dropped, nor is what is below a warning: somebody asked for that.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # message: when its window began, lines in it, lines of it that were left out
        self._seen: OrderedDict[str, tuple[float, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        """As structlog calls it. Raises `structlog.DropEvent`."""
        if method != "warning":
            return event
        kind = str(event.get("event", ""))
        now = self._now()
        began, count, dropped = self._seen.pop(kind, (now, 0, 0))
        if now - began >= WINDOW_S:
            if dropped:
                event["left_out"] = dropped
            began, count, dropped = now, 0, 0
        if count >= REPEATS_MAX:
            self._seen[kind] = (began, count, dropped + 1)
            raise structlog.DropEvent
        self._seen[kind] = (began, count + 1, dropped)
        while len(self._seen) > KINDS_MAX:
            self._seen.popitem(last=False)
        return event


class StandardError(io.TextIOBase):
    """Standard error that never raises: who reads our logs may go, and the store goes on."""

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # as above


def configure_logs(config: LogConfig, process: str) -> None:
    """Set logs of this process up; ``process`` is its name: ``shard``, ``frontend``, ``supervisor``."""
    terminal = sys.stderr.isatty()
    for_people = log_format(config) == "console"
    renderer: list[Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    if for_people:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=terminal and not os.environ.get("NO_COLOR"),
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            RepeatLimit(),
            _identity(process, os.getpid()),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, config.level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, StandardError())),
        # Loggers are modules' own, and live longer than a configuration: a simulated run has another one.
        cache_logger_on_first_use=False,
    )


def log_format(config: LogConfig) -> Literal["json", "console"]:
    """What `auto` means for this process's standard error."""
    if config.format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return config.format


def _identity(process: str, pid: int) -> Processor:
    def add(logger: Any, method: str, event: Event) -> Event:
        event["process"] = process
        event["pid"] = pid
        return event

    return add
