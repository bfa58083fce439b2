"""Real shards and nodes in processes of their own."""

from __future__ import annotations

import os
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
from mezzo_server.config.several import shard_name
from mezzo_server.supervisor.main import READY_EVENT

READY_S = 60.0
STOP_S = 30.0
POLL_S = 0.02

# Processes of tests run side by side: each takes ports of its own.
FREE_PORTS = {
    "MEZZO_METRICS_SHARD": "127.0.0.1:0",
    "MEZZO_METRICS_FRONTEND": "127.0.0.1:0",
    "MEZZO_METRICS_SUPERVISOR": "127.0.0.1:0",
    "MEZZO_METRICS_METADATA": "127.0.0.1:0",
}


class RunningProcess:
    """A process of ours that says in one line of JSON when it is ready.

    Its metrics take free ports, unless ``environ`` has ``MEZZO_METRICS_...``.
    """

    what = "process"

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None, log: Path) -> None:
        self._command = command
        self._environ = {**FREE_PORTS, **(os.environ if environ is None else environ)}
        self.log = log
        """what it wrote to its standard error"""
        self._process: subprocess.Popen[bytes] | None = None
        self.readiness: dict[str, object] = {}
        """what it said when it was ready"""

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"process {self._process.pid}"
        return f"<{type(self).__name__} {state}, {' '.join(self.addresses)}>"

    @property
    def addresses(self) -> list[str]:
        """Where it listens."""
        listen = self._listening().get("listen", [])
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
    def tcps(self) -> str:
        """Its address on a TCP socket, over TLS."""
        return self._address("tcps://")

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
            raise Unavailable(
                f"the {self.what} did not start: {self.log.read_text(errors='replace')[-2000:]}"
            )
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

    def _listening(self) -> Mapping[str, object]:
        """What the part that has shard addresses said."""
        return self.readiness

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise Unavailable(f"the {self.what} does not run")
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
        raise Unavailable(f"the {self.what} listens on no {scheme} address")


class RunningShard(RunningProcess):
    """A shard in a process of its own. Made by `running_shard`."""

    what = "shard"


class RunningNode(RunningProcess):
    """A shard and its front-end under their supervisor. Made by `running_node`.

    Parts that are killed come back at the same addresses; `wait_until_ready` waits for that.
    """

    what = "node"

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None, log: Path) -> None:
        super().__init__(command, environ, log)
        # part: process id that was killed, and whose successor nobody has waited for yet
        self._killed: dict[str, int] = {}

    @property
    def shard_pid(self) -> int:
        """Process id of the (first) shard that became ready last."""
        return self._last_ready(self._shard_name(0))

    @property
    def shards(self) -> list[dict[str, object]]:
        """What each shard said when it was ready."""
        return msgspec.convert(self.readiness.get("shards", []), list[dict[str, object]])

    @property
    def frontend_pid(self) -> int:
        """Process id of the front-end that became ready last."""
        return self._last_ready("frontend")

    @property
    def grpc(self) -> str:
        """Address of the front-end for clients, ``grpc://host:port``."""
        return self._of_frontend("listen")

    @property
    def admin(self) -> str:
        """``host:port`` of the front-end's health, reflection and channelz."""
        return self._of_frontend("admin")

    @property
    def metrics(self) -> dict[str, str]:
        """Addresses of metrics: ``shard``, ``frontend``, ``supervisor``, as far as they have any."""
        return msgspec.convert(self.readiness.get("metrics", {}), dict[str, str])

    def kill_shard(self, number: int = 0) -> int:
        """SIGKILL to a shard; its process id."""
        return self._kill_part(self._shard_name(number))

    def kill_frontend(self) -> int:
        """SIGKILL to the front-end; its process id."""
        return self._kill_part("frontend")

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until every part that was killed has come back. Unavailable if it does not in time."""
        deadline = time.monotonic() + timeout_s
        for part, pid in tuple(self._killed.items()):
            while self._last_ready(part) == pid:
                if time.monotonic() > deadline or not self.is_alive():
                    said = self.log.read_text(errors="replace")[-2000:]
                    raise Unavailable(f"the {part} did not come back within {timeout_s:g} s: {said}")
                time.sleep(POLL_S)
            self._killed.pop(part)

    def _shard_name(self, number: int) -> str:
        return shard_name(number, max(1, len(self.shards)))

    def _kill_part(self, part: str) -> int:
        pid = self._last_ready(part)
        self._killed[part] = pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def _last_ready(self, part: str) -> int:
        pid = 0
        for line in self.log.read_bytes().splitlines():
            try:
                event = msgspec.json.decode(line, type=_Event)
            except msgspec.MsgspecError:
                continue  # a line that is still being written, or that is no event
            if event.event == READY_EVENT and event.part == part:
                pid = event.of
        if not pid:
            raise Unavailable(f"the node has no {part} that became ready")
        return pid

    def _of_frontend(self, name: str) -> str:
        said = self.readiness.get("frontend")
        address = said.get(name) if isinstance(said, dict) else None
        if not isinstance(address, str):
            raise Unavailable("the node has no front-end")
        return address

    def _listening(self) -> Mapping[str, object]:
        said = self.readiness.get("shard", {})
        return said if isinstance(said, dict) else {}


class _Event(msgspec.Struct):
    """A line of the supervisor's log."""

    event: str
    part: str = ""
    of: int = 0


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

    ``devices`` and ``capacity`` as for ``mezzo shard``, ``config`` is the text of a TOML file,
    ``arguments`` further flags.  Contents of ``memory:`` devices end with the process.
    """
    with tempfile.TemporaryDirectory(prefix="mezzo-shard-") as folder:
        command = [sys.executable, "-m", "mezzo_server", "shard", "--json"]
        if "[metrics]" not in config:
            command += ["--metrics", "127.0.0.1:0"]
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


@contextmanager
def running_node(
    *,
    devices: Sequence[str] = ("memory:256MiB",),
    capacity: str | None = None,
    hot: str | None = None,
    frontend: bool = True,
    listen: Sequence[str] | None = None,
    config: str = "",
    arguments: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[RunningNode]:
    """A whole node (`mezzo serve`) on a Unix socket and ports of its own; stopped at the end.

    ``devices``, ``capacity`` and ``hot`` (bytes of the hot tier, as ``"64MiB"``) as for ``mezzo serve``,
    ``config`` is the text of a TOML file, ``arguments`` further flags.  Its log, at level ``info``, is in
    ``log``.
    """
    with tempfile.TemporaryDirectory(prefix="mezzo-node-") as folder:
        command = [sys.executable, "-m", "mezzo_server", "serve", "--json"]
        command += ["--log-level", "info", "--log-format", "json"]
        command += ["--grpc", "127.0.0.1:0"] if frontend else ["--no-frontend"]
        if listen is None:
            listen = (f"unix://{folder}/socket", "tcp://127.0.0.1:0")
        for address in listen:
            command += ["--listen", address]
        for device in devices:
            command += ["--device", device]
        for flag, value in (("--capacity", capacity), ("--hot", hot)):
            if value is not None:
                command += [flag, value]
        if config:
            path = Path(folder) / "node.toml"
            path.write_text(config)
            command += ["--config", str(path)]
        node = RunningNode([*command, *arguments], environ, Path(folder) / "log")
        node.start()
        try:
            yield node
        finally:
            node.stop()


class RunningFrontend(RunningShard):
    """A front-end in a process of its own. Made by `running_frontend`; restarts at the same address."""

    @property
    def addresses(self) -> list[str]:
        """Where it listens, ``grpc://host:port`` (``grpcs`` over TLS)."""
        return [str(self.readiness["listen"])]

    @property
    def grpc(self) -> str:
        """Its address for clients, ``grpc://host:port``."""
        return self.addresses[0]

    @property
    def target(self) -> str:
        """Its address as gRPC takes it, ``host:port``."""
        return self.grpc.partition("://")[2]

    @property
    def admin(self) -> str:
        """``host:port`` of health, reflection and channelz."""
        return str(self.readiness["admin"])

    def start(self) -> None:
        """See `RunningShard.start`; from the second time on at the address of the first."""
        super().start()
        if "--admin" not in self._command:
            command = list(self._command)
            command[command.index("--listen") + 1] = self.target
            self._command = [*command, "--admin", self.admin]


@contextmanager
def running_frontend(
    shard: str, *, advertise: Sequence[str] = (), config: str = "", arguments: Sequence[str] = ()
) -> Iterator[RunningFrontend]:
    """A front-end of the shard at address ``shard``, on ports of its own; stopped at the end.

    ``advertise``: the addresses of the shard that clients are told, ``config`` the text of a TOML file.
    """
    with tempfile.TemporaryDirectory(prefix="mezzo-frontend-") as folder:
        command = [sys.executable, "-m", "mezzo_server", "frontend", "--json"]
        command += ["--listen", "127.0.0.1:0", "--shard", shard, "--metrics", "127.0.0.1:0"]
        for address in advertise:
            command += ["--advertise", address]
        if config:
            path = Path(folder) / "frontend.toml"
            path.write_text(config)
            command += ["--config", str(path)]
        frontend = RunningFrontend([*command, *arguments], None, Path(folder) / "log")
        frontend.start()
        try:
            yield frontend
        finally:
            frontend.stop()


def _read_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    """The first line of its standard output; empty if it ended or took too long."""
    if process.stdout is None:
        return b""
    deadline = time.monotonic() + timeout_s
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
    return process.stdout.readline() if ready else b""
