"""Starts and stops a shard of its own, as a process, for the demo.

Only the command line of the server is used, nothing of its code.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import msgspec

from mezzo.errors import Unavailable

STOP_SECONDS = 30.0
READY_BYTES_MAX = 64 * 1024


class ShardProcess:
    """A shard that serves one device file at addresses that it tells us.

    Used as a context manager: at its end the process is stopped, if it still runs.
    """

    def __init__(
        self, device: Path, *, capacity_bytes: int, listen: Sequence[str], log: Path, start_s: float = 60.0
    ) -> None:
        """``log`` takes what the shard writes to its standard error; ``start_s``: time to get ready."""
        self._command = [sys.executable, "-m", "mezzo_server", "shard", "--json", "--device", str(device)]
        self._command += ["--metrics", "127.0.0.1:0"]
        self._command += ["--capacity", str(capacity_bytes)]
        for address in listen:
            self._command += ["--listen", address]
        self._log = log
        self._start_s = start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self.ready: dict[str, object] = {}
        """what the shard said when it was ready"""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The first address that it serves. Raises `Unavailable` if it named none."""
        listen = self.ready.get("listen")
        if isinstance(listen, list) and listen and isinstance(listen[0], str):
            return listen[0]
        raise Unavailable(f"the shard did not say where it listens: {self.ready}")

    def start(self) -> None:
        """Start the process and wait until it serves. Raises `Unavailable` if it does not."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        self._process = process
        if process.stdout is None:
            raise Unavailable("no pipe to the shard")
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        self._reader.start()
        try:
            line = lines.get(timeout=self._start_s)
        except queue.Empty:
            self.kill()
            raise Unavailable(
                f"the shard was not ready after {self._start_s:g} s{self._last_words()}"
            ) from None
        if not line:
            self.stop()
            raise Unavailable(f"the shard did not start{self._last_words()}")
        try:
            self.ready = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError:
            self.kill()
            raise Unavailable(f"the shard said {line[:200]!r} where one line of JSON was due") from None

    def stop(self) -> None:
        """Ask it to stop (SIGTERM) and wait; kill it if it takes too long. Harmless if it has ended."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def kill(self) -> None:
        """End it at once (SIGKILL): what a crash would leave is left."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._reader is not None:
                self._reader.join(STOP_SECONDS)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process = None

    def _last_words(self) -> str:
        """The last line of its log, to go at the end of an error."""
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1]}" if lines else f" and said nothing ({self._log})"


def _read(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Pass on the first line (empty at the end of the stream), drop the rest so that none waits."""
    lines.put(stream.readline(READY_BYTES_MAX))
    while stream.read(READY_BYTES_MAX):
        pass
