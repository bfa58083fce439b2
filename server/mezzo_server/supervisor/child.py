"""One process of the node: started with its settings on standard input, watched until it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from mezzo_server.logs import StandardError

LINE_BYTES_MAX = 64 * 1024
READINESS_BYTES_MAX = 1024 * 1024
TAIL_LINES = 5
TAIL_LETTERS_MAX = 2000
DRAIN_S = 2.0

log = structlog.get_logger("mezzo.supervisor")


class Child:
    """A started process. Owner of its pipes and of the last lines of its standard error.

    Its standard error goes on to ours as it comes.  Lines of its standard output are JSON objects: the
    first is what it says when it is ready, and each later one what has changed since.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._errors = StandardError()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def last_words(self) -> str:
        """The last lines of its standard error."""
        return "\n".join(self._tail)[-TAIL_LETTERS_MAX:]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Harmless if it has ended."""
        try:
            if number is signal.SIGTERM:
                # A stopped process would not see it before it goes on.
                self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
        except ProcessLookupError:
            pass  # its end is on its way to us

    async def watch(
        self,
        settings: bytes,
        on_ready: Callable[[dict[str, Any]], None],
        on_change: Callable[[dict[str, Any]], None],
    ) -> int:
        """Hand it its settings, pass on what it says, and return its exit status (negative: a signal).

        What ``on_ready`` and ``on_change`` raise is raised here, once the process has ended.
        """
        readers = [
            asyncio.ensure_future(coroutine)
            for coroutine in (
                self._write(settings),
                self._read_output(on_ready, on_change),
                self._read_errors(),
            )
        ]
        status = await self._process.wait()
        # What it said last is in the pipes still; but a grandchild that holds them open is not waited for.
        _, late = await asyncio.wait(readers, timeout=DRAIN_S)
        for reader in late:
            reader.cancel()
        ends = await asyncio.gather(*readers, return_exceptions=True)
        for fault in ends:
            if isinstance(fault, Exception):
                raise fault  # of ours: nobody knows what was made of what the process said
        return status

    async def _write(self, settings: bytes) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        try:
            pipe.write(settings)
            await pipe.drain()
            pipe.close()
            await pipe.wait_closed()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it ended before it read them

    async def _read_output(
        self, on_ready: Callable[[dict[str, Any]], None], on_change: Callable[[dict[str, Any]], None]
    ) -> None:
        pipe = self._process.stdout
        if pipe is None:
            return
        tell = on_ready
        fault: Exception | None = None
        try:
            while (said := await self._next_object(pipe)) is not None:
                tell(said)
                tell = on_change
        except Exception as error:
            fault = error  # of ours, and nothing that would be better for the process if its pipe were full
        while await pipe.read(LINE_BYTES_MAX):
            pass  # the pipe must not fill
        if fault is not None:
            raise fault

    async def _next_object(self, pipe: asyncio.StreamReader) -> dict[str, Any] | None:
        """What it says next; None: nothing, or nothing that is understood any more."""
        try:
            line = await pipe.readline()
            return msgspec.json.decode(line, type=dict[str, Any]) if line else None
        except (ValueError, msgspec.MsgspecError):  # in msgspec 0.19 its errors are no ValueError
            # Too long, or no JSON. Before it was ready: it is killed when its time to start is over.
            log.warning("a process said something that is not understood", part=self.name, of=self.pid)
            return None

    async def _read_errors(self) -> None:
        pipe = self._process.stderr
        if pipe is None:
            return
        rest = b""
        while piece := await pipe.read(LINE_BYTES_MAX):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            self._pass_on(lines)
        if rest:
            self._pass_on([rest])

    def _pass_on(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace")
            self._tail.append(text)
            self._errors.write(text + "\n")
        self._errors.flush()


async def start(name: str, command: Sequence[str]) -> Child:
    """Start a process in a session of its own, so that a Ctrl-C reaches the supervisor alone.

    Raises:
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=READINESS_BYTES_MAX,
        env=dict(os.environ),
    )
    return Child(name, process)


def describe_status(status: int) -> str:
    """An exit status for people: ``exit status 1``, ``SIGKILL``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
