"""Shards that start in milliseconds, to be killed: forked from a process that has all imports done.

`Nursery` talks to that process over pipes: a line of configuration in, a line of readiness out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

_NURSERY = """
import os, signal, sys
import msgspec
from mezzo_server.config import ShardConfig
from mezzo_server.shard.main import serve

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
answers = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # logs go there
for line in sys.stdin.buffer:
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def announce(readiness):
        os.write(answers, msgspec.json.encode(readiness) + b"\\n")

    try:
        serve(msgspec.json.decode(line, type=ShardConfig), announce)
    except Exception as error:
        os.write(answers, msgspec.json.encode({"error": f"{type(error).__name__}: {error}"}) + b"\\n")
    os._exit(0)
"""


class Nursery:
    """Starts and kills shards. A context manager."""

    def __init__(self) -> None:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        self._pids: set[int] = set()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in tuple(self._pids):
            self.kill(pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def start(self, device: Path, socket: Path, **settings: object) -> int:
        """Start a shard on a file; its process id once it is ready."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        config = {"listen": [f"unix://{socket}"], "devices": [str(device)], **settings}
        self._process.stdin.write(msgspec.json.encode(config) + b"\n")
        self._process.stdin.flush()
        ready = msgspec.json.decode(self._process.stdout.readline())
        assert "error" not in ready, ready
        self._pids.add(ready["pid"])
        return int(ready["pid"])

    def kill(self, pid: int) -> None:
        """SIGKILL, at once and without waiting."""
        self._pids.discard(pid)
        os.kill(pid, signal.SIGKILL)
