"""The command line in processes of its own that start in milliseconds: forked from one that has all imports done.

What they do is real: their streams, their environment, their signals and how they end.  Only that Python starts and
imports is left out, which takes longer than most of what tests ask of them.  Shards, front-ends, nodes and metadata
services of `mezzo_server.testing` come from here too (`start`, set in tests/conftest.py), unless ``with real_commands()``;
what a node starts for itself is never from here.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mezzo_server.testing import RunningProcess, Started, start_command

COMMAND_S = 110.0
"""just less than a test may take"""
ORDER_BYTES_MAX = 1 << 17
MODULES = ("mezzo.cli", "mezzo_server")
"""What is run with ``python -m`` and can be forked"""
BEFORE_IMPORTS = ("PYTHON", "LD_", "MALLOC_")
"""Variables of the environment that a process must have when it starts"""

_PROGRAM = """
import atexit, gc, json, os, signal, socket, sys, threading
from mezzo_server.tls.grpc_version import only_tls_1_3
only_tls_1_3()  # before grpc is imported, as front-ends and metadata services do
import matplotlib.pyplot, numpy
import mezzo.cli.app, mezzo.cli.bench, mezzo.cli.demo, mezzo.cli.device, mezzo.cli.replay
import mezzo.replay.plot, mezzo.replay.payload
import mezzo_server.cli, mezzo_server.frontend.main, mezzo_server.shard.main, mezzo_server.supervisor.main
import mezzo_server.commands.frontend, mezzo_server.commands.serve, mezzo_server.commands.shard
import mezzo_server.commands.meta, mezzo_server.metadata.service.main

control = socket.socket(fileno=int(sys.argv[1]))
# An interrupt is for those who were started.
signal.signal(signal.SIGINT, signal.SIG_IGN)
gc.freeze()

def child(order, files):
    control.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = open(0)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.argv = ["mezzo", *order["arguments"]]
    try:
        mezzo.cli.app.main() if order["module"] == "mezzo.cli" else mezzo_server.cli.main()
    except SystemExit as done:
        return done.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    return 1

while True:
    message, files, _, _ = socket.recv_fds(control, 1 << 17, 3)
    if not message:
        break
    order = json.loads(message)
    if "of" in order:
        control.send(str(os.waitstatus_to_exitcode(os.waitpid(order["of"], 0)[1])).encode())
        continue
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = child(order, files)
            # As an interpreter ends: first the threads, then what was registered.
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        finally:
            os._exit(status)
    for fd in files:
        os.close(fd)
    control.send(str(pid).encode())
"""


class _Nursery:
    """The process that others are forked from. Owner of the socket to it; any thread may ask."""

    def __init__(self) -> None:
        self.ended = False
        """nobody can ask it anything any more"""
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(path for path in sys.path if path)
        self._before = _said_before_imports(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def can(self, environ: Mapping[str, str]) -> bool:
        """Whether a process with this environment may be forked."""
        return _said_before_imports(environ) == self._before

    def start(
        self, module: str, arguments: Sequence[str], environ: Mapping[str, str], files: Sequence[int]
    ) -> Forked:
        """One with these standard streams."""
        order = {
            "module": module,
            "arguments": arguments,
            "environ": dict(environ),
            "folder": str(Path.cwd()),
        }
        return Forked(int(self._ask(order, files)), self)

    def status_of(self, pid: int) -> int:
        """Exit status of one that has ended; as if it had been killed, if nobody knows any more."""
        return -signal.SIGKILL if self.ended else int(self._ask({"of": pid}))

    def close(self) -> None:
        """It ends when nobody can ask any more."""
        self.ended = True
        self._control.close()
        self._process.wait()

    def _ask(self, order: Mapping[str, object], files: Sequence[int] = ()) -> bytes:
        message = json.dumps(order).encode()
        if len(message) > ORDER_BYTES_MAX:
            raise ValueError(f"{len(message)} bytes are more than the nursery takes")
        with self._lock:
            try:
                socket.send_fds(self._control, [message], files)
                answer = self._control.recv(64)
            except BaseException:
                # Interrupted. Whatever it still says would be taken for the answer to the next one.
                self._end()
                raise
            if not answer:
                self._end()
                raise RuntimeError("the nursery has ended")
        return answer

    def _end(self) -> None:
        self._process.kill()
        self.close()


class Forked:
    """A process from the nursery, to be used like a `subprocess.Popen`."""

    def __init__(self, pid: int, nursery: _Nursery) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        return self.returncode if self._ends_within(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status. subprocess.TimeoutExpired: not in time."""
        if not self._ends_within(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Harmless if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ends_within(self, timeout_s: float | None) -> bool:
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._fd, select.POLLIN)
            if not waiting.poll(None if timeout_s is None else timeout_s * 1000):
                return False
            # Until it is asked for its number is nobody else's.
            self.returncode = self._nursery.status_of(self.pid)
            os.close(self._fd)
        return True


def start(command: Sequence[str], environ: Mapping[str, str], output: int, errors: int) -> Started:
    """Start ``python -m mezzo_server ...`` from the nursery, if it can be: see `mezzo_server.testing.start_command`."""
    python, option, module, *arguments = command
    if (python, option) != (sys.executable, "-m") or module not in MODULES or not _nursery().can(environ):
        return start_command(command, environ, output, errors)
    with open(os.devnull, "rb") as nothing:
        return _nursery().start(module, arguments, environ, (nothing.fileno(), output, errors))


@contextmanager
def real_commands() -> Iterator[None]:
    """What is started within starts as it does for users."""
    before = RunningProcess.starter
    RunningProcess.starter = staticmethod(start_command)
    try:
        yield
    finally:
        RunningProcess.starter = staticmethod(before)


def run_mezzo(
    *arguments: object, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """See `run_mezzo_bytes`; what it said as text."""
    done = run_mezzo_bytes(*arguments, environ=environ)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def run_mezzo_bytes(
    *arguments: object, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, in this environment with changes; killed after `COMMAND_S`."""
    said = list(map(str, arguments))
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        files = (given.fileno(), out.fileno(), err.fileno())
        process = _nursery().start("mezzo.cli", said, {**os.environ, **(environ or {})}, files)
        try:
            status = process.wait(COMMAND_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(said, status, out.read(), err.read())


_present: list[_Nursery] = []


def _nursery() -> _Nursery:
    """The one that there is, which is made when it is first needed."""
    if not _present or _present[-1].ended:
        _present[:] = [_Nursery()]
    return _present[-1]


def _said_before_imports(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(BEFORE_IMPORTS)}
