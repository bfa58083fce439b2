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
from typing import IO, ClassVar, Protocol, TypeVar

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


class Started(Protocol):
    """A process that was started; of what a `subprocess.Popen` can, as much as is needed here."""

    @property
    def pid(self) -> int:
        """Process id."""
        ...

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit status. subprocess.TimeoutExpired: it has not ended in time."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Send a signal. Harmless if it has ended."""
        ...


class Starter(Protocol):
    """Starts a command in an environment, with descriptors for its standard output and errors, and without input."""

    def __call__(
        self, command: Sequence[str], environ: Mapping[str, str], output: int, errors: int
    ) -> Started:
        """Start it. OSError: it cannot be."""
        ...


def start_command(command: Sequence[str], environ: Mapping[str, str], output: int, errors: int) -> Started:
    """Start a command as a shell would."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environ)


class RunningProcess:
    """A process of ours that says in one line of JSON when it is ready.

    Its metrics take free ports, unless ``environ`` has ``MEZZO_METRICS_...``.
    """

    what = "process"
    starter: ClassVar[Starter] = staticmethod(start_command)
    """What starts it: many tests may have one that is quicker."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None, log: Path) -> None:
        self._command = command
        self._environ = {**FREE_PORTS, **(os.environ if environ is None else environ)}
        self.log = log
        """what it wrote to its standard error"""
        self._process: Started | None = None
        self._output: IO[bytes] | None = None
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
        if self._output is not None:
            self._output.close()  # of one that has ended without being waited for
        reading, writing = os.pipe()
        self._output = os.fdopen(reading, "rb")
        try:
            with self.log.open("ab") as log:
                self._process = self.starter(self._command, self._environ, writing, log.fileno())
        except OSError:
            self._output.close()
            raise
        finally:
            os.close(writing)
        line = _read_line(self._output, READY_S)
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
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
        return self._ended()

    def kill(self) -> None:
        """End it at once (SIGKILL). Harmless if it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
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

    def _running(self) -> Started:
        if self._process is None:
            raise Unavailable(f"the {self.what} does not run")
        return self._process

    def _ended(self) -> int:
        status = self._running().wait()
        if self._output is not None:
            self._output.close()
        self._process = self._output = None
        return status

    def _address(self, scheme: str) -> str:
        for address in self.addresses:
            if address.startswith(scheme):
                return address
        raise Unavailable(f"the {self.what} listens on no {scheme} address")


P = TypeVar("P", bound=RunningProcess)


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
        return self.pid_of(self._shard_name(0))

    @property
    def shards(self) -> list[dict[str, object]]:
        """What each shard said when it was ready."""
        return msgspec.convert(self.readiness.get("shards", []), list[dict[str, object]])

    @property
    def frontend_pid(self) -> int:
        """Process id of the front-end that became ready last."""
        return self.pid_of("frontend")

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

    def pid_of(self, part: str) -> int:
        """Process id of the part that became ready last under this name (`frontend`, `shard`, `shard-0`, ...)."""
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
            while self.pid_of(part) == pid:
                if time.monotonic() > deadline or not self.is_alive():
                    said = self.log.read_text(errors="replace")[-2000:]
                    raise Unavailable(f"the {part} did not come back within {timeout_s:g} s: {said}")
                time.sleep(POLL_S)
            self._killed.pop(part)

    def _shard_name(self, number: int) -> str:
        return shard_name(number, max(1, len(self.shards)))

    def _kill_part(self, part: str) -> int:
        pid = self.pid_of(part)
        self._killed[part] = pid
        os.kill(pid, signal.SIGKILL)
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
    flags = ["shard", "--json"]
    if "[metrics]" not in config:
        flags += ["--metrics", "127.0.0.1:0"]
    flags += [*_flag("--device", *devices), *_flag("--capacity", capacity)]
    with _running(RunningShard, flags, listen, config, arguments, environ) as shard:
        yield shard


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
    flags = ["serve", "--json", "--log-level", "info", "--log-format", "json"]
    flags += ["--grpc", "127.0.0.1:0"] if frontend else ["--no-frontend"]
    flags += [*_flag("--device", *devices), *_flag("--capacity", capacity), *_flag("--hot", hot)]
    with _running(RunningNode, flags, listen, config, arguments, environ) as node:
        yield node


class RunningFrontend(RunningProcess):
    """A front-end in a process of its own. Made by `running_frontend`; restarts at the same address."""

    what = "front-end"

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
        """See `RunningProcess.start`; from the second time on at the address of the first."""
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
    flags = ["frontend", "--json", "--shard", shard, "--metrics", "127.0.0.1:0"]
    flags += _flag("--advertise", *advertise)
    with _running(RunningFrontend, flags, ("127.0.0.1:0",), config, arguments, None) as frontend:
        yield frontend


@contextmanager
def _running(
    kind: type[P],
    flags: Sequence[str],
    listen: Sequence[str] | None,
    config: str,
    arguments: Sequence[str],
    environ: Mapping[str, str] | None,
) -> Iterator[P]:
    """A server's command with these flags, addresses, settings and further arguments; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix=f"mezzo-{kind.what}-") as name:
        folder = Path(name)
        if listen is None:
            listen = (f"unix://{folder}/socket", "tcp://127.0.0.1:0")
        command = [sys.executable, "-m", "mezzo_server", *flags, *_flag("--listen", *listen)]
        if config:
            path = folder / "mezzo.toml"
            path.write_text(config)
            command += ["--config", str(path)]
        process = kind([*command, *arguments], environ, folder / "log")
        process.start()
        try:
            yield process
        finally:
            process.stop()


def _flag(name: str, *values: str | None) -> list[str]:
    """An option for each of these values."""
    return [word for value in values if value is not None for word in (name, value)]


def _read_line(output: IO[bytes], timeout_s: float) -> bytes:
    """The first line that it says; empty if it ended or took too long."""
    ready, _, _ = select.select([output], [], [], timeout_s)
    return output.readline() if ready else b""
