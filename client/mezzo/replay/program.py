"""Programs that a demo starts for itself: each says in one line of JSON that it is ready, and is stopped in the end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from mezzo.errors import Unavailable

STOP_SECONDS = 30.0
READY_BYTES_MAX = 64 * 1024


def server_command(*arguments: str) -> list[str]:
    """A command of the server, run by this Python."""
    return [sys.executable, "-m", "mezzo_server", *arguments]


def own_environment() -> dict[str, str]:
    """Ours without settings: those of a node of yours are not meant for a demo's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEZZO_")}


class Program:
    """One process, started anew as often as wanted. Owner of the process and of the pipe from it.

    ``own_group``: it does not get the terminal's Ctrl-C; whoever started it stops it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str] | None = None,
        start_s: float = 60.0,
        own_group: bool = False,
    ) -> None:
        """``log`` takes what it writes to its standard error; ``start_s``: time to get ready."""
        self.name = name
        self._command = list(command)
        self._log = log
        self._environ = own_environment() if environ is None else dict(environ)
        self._start_s = start_s
        self._group = 0 if own_group else None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> dict[str, object]:
        """Start it and wait until it is ready; what it said. Raises `Unavailable` if it does not get there."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environ,
                process_group=self._group,
            )
        self._process = process
        if process.stdout is None:
            raise Unavailable(f"no pipe to {self.name}")
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        self._reader.start()
        try:
            line = lines.get(timeout=self._start_s)
        except queue.Empty:
            self.stop()
            raise Unavailable(
                f"{self.name} was not ready after {self._start_s:g} s{self.last_words()}"
            ) from None
        if not line:
            self.stop()
            raise Unavailable(f"{self.name} did not start{self.last_words()}")
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError:
            self.stop()
            raise Unavailable(f"{self.name} said {line[:200]!r} where one line of JSON was due") from None

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run another command of the server to its end; the JSON that it prints. Raises `Unavailable`."""
        done = subprocess.run(
            server_command(*arguments),
            capture_output=True,
            env=self._environ,
            timeout=self._start_s,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"{' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
        return msgspec.json.decode(done.stdout, type=dict[str, Any])

    def ask_to_stop(self) -> None:
        """Send it SIGTERM and return at once. Harmless if it has ended."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, wait_s: float = STOP_SECONDS) -> None:
        """Ask it to stop and wait; kill it if it takes too long. Harmless if it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def kill(self) -> None:
        """End it at once (SIGKILL), and with it all that end with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
        self._end()

    def last_words(self) -> str:
        """The last line of its log, to go at the end of an error."""
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1]}" if lines else f" and said nothing ({self._log})"

    def _end(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._reader is not None:
                self._reader.join(STOP_SECONDS)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process = None


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Pass on the first line (empty at the end of the stream), drop the rest so that none waits."""
    lines.put(stream.readline(READY_BYTES_MAX))
    while stream.read(READY_BYTES_MAX):
        pass
