"""Real shards for tests, tools and benchmarks."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mezzo.errors import Unavailable

READY_S = 60.0
STOP_S = 30.0


class RunningShard:
    """A shard in a process of its own. Made by `running_shard`."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None, log: Path) -> None:
        self._command = command
        self._environ = environ
        self.log = log
        """what it wrote to its standard error"""
        self._process: subprocess.Popen[bytes] | None = None
        self.readiness: dict[str, object] = {}
        """what it said when it was ready"""

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"process {self._process.pid}"
        return f"<RunningShard {state}, {' '.join(self.addresses)}>"

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        listen = self.readiness.get("listen", [])
        return [str(address) for address in listen] if isinstance(listen, list) else []

    @property
    def unix(self) -> str:
        """Its address on a Unix socket."""
        return self._address("unix://")

    @property
    def tcp(self) -> str:
        """Its address on a TCP socket."""
        return self._address("tcp://")

    @property
    def pid(self) -> int:
        """Process id."""
        return self._running().pid

    def start(self) -> None:
        """Start the process and wait until it is ready. Unavailable, with its last words, if not."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._environ
            )
        self._process = process
        line = _read_line(process, READY_S)
        if not line:
            self.kill()
            raise Unavailable(f"the shard did not start: {self.log.read_text(errors='replace')[-2000:]}")
        self.readiness = msgspec.json.decode(line, type=dict[str, object])

    def stop(self) -> int:
        """Ask it to stop, wait, and return its exit status. Harmless if it has ended."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._ended()

    def kill(self) -> None:
        """End it at once (SIGKILL). Harmless if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def restart(self) -> None:
        """Stop it if it runs, and start it again at the same addresses and devices."""
        self.stop()
        self.start()

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Unavailable("the shard does not run")
        return self._process

    def _ended(self) -> int:
        process = self._running()
        status = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        return status

    def _address(self, scheme: str) -> str:
        for address in self.addresses:
            if address.startswith(scheme):
                return address
        raise Unavailable(f"the shard listens on no {scheme} address")


@contextmanager
def running_shard(
    *,
    devices: Sequence[str] = ("memory:256MiB",),
    capacity: str | None = None,
    listen: Sequence[str] | None = None,
    config: str = "",
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[RunningShard]:
    """A shard in a process of its own, on a Unix socket and a TCP port of its own; stopped at the end.

    ``devices`` and ``capacity`` as for ``mezzo serve``, ``config`` is the text of a TOML file,
    ``arguments`` further flags.  Contents of ``memory:`` devices end with the process.
    """
    with tempfile.TemporaryDirectory(prefix="mezzo-shard-") as folder:
        command = [sys.executable, "-m", "mezzo_server", "shard", "--json"]
        if listen is None:
            listen = (f"unix://{folder}/socket", "tcp://127.0.0.1:0")
        for address in listen:
            command += ["--listen", address]
        for device in devices:
            command += ["--device", device]
        if capacity is not None:
            command += ["--capacity", capacity]
        if config:
            path = Path(folder) / "shard.toml"
            path.write_text(config)
            command += ["--config", str(path)]
        shard = RunningShard([*command, *arguments], environ, Path(folder) / "log")
        shard.start()
        try:
            yield shard
        finally:
            shard.stop()


def _read_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """The first line of its standard output; empty if it ended or took too long."""
    if process.stdout is None:
        return b""
    deadline = time.monotonic() + timeout_s
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
    return process.stdout.readline() if ready else b""
