"""Starts and stops a node of its own, as processes, for the demo.

Only the command line of the server is used, nothing of its code.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

import msgspec
from msgspec import Struct

from mezzo.errors import Unavailable

STOP_SECONDS = 30.0
READY_BYTES_MAX = 64 * 1024
POLL_S = 0.01


class NodeSettings(Struct, frozen=True, kw_only=True):
    """What the node is made of."""

    device: str
    """path of a file"""
    capacity_bytes: int
    listen: Sequence[str]
    """addresses of the shard"""
    hot_bytes: int = 0
    fill: str = "puts"
    tenants: Sequence[str] = ()
    """those that it has, each with a token; none: there is no metadata engine, and everybody is of one tenant"""


class NodeProcess:
    """A node: a shard on one device file, and its front-end, under their supervisor.

    Used as a context manager: at its end everything is stopped, if it still runs.
    """

    def __init__(self, settings: NodeSettings, *, folder: Path, log: Path, start_s: float = 60.0) -> None:
        """``folder`` takes the file of settings, ``log`` what the node writes to its standard error;
        ``start_s``: time to get ready.
        """
        self._settings = settings
        self._config = folder / "node.toml"
        self._log = log
        self._start_s = start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self.tokens: dict[str, str] = {}
        """by tenant"""
        self.operator_token = ""
        self.ready: dict[str, object] = {}
        """what the node said when it was ready"""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The shard's first address. Raises `Unavailable` if it named none."""
        listen = self._part("shard").get("listen")
        if isinstance(listen, list) and listen and isinstance(listen[0], str):
            return listen[0]
        raise Unavailable(f"the node did not say where its shard listens: {self.ready}")

    @property
    def grpc(self) -> str:
        """Address of the front-end, ``grpc://host:port``. Raises `Unavailable` if there is none."""
        listen = self._part("frontend").get("listen")
        if isinstance(listen, str) and listen:
            return listen if "://" in listen else f"grpc://{listen}"
        raise Unavailable(f"the node did not say where its front-end listens: {self.ready}")

    @property
    def io(self) -> str:
        """How the shard does its I/O, as a sentence; empty if it did not say."""
        return str(self._part("shard").get("io", ""))

    @property
    def metrics(self) -> dict[str, str]:
        """URL of each process's metrics, by its name."""
        addresses = self.ready.get("metrics")
        if not isinstance(addresses, dict):
            return {}
        return {str(name): f"http://{address}/metrics" for name, address in addresses.items() if address}

    def kill_shard(self) -> None:
        """End the first shard at once (SIGKILL) and wait until it is gone; the supervisor starts another.

        Once only: the process of the next one is not known here. Raises `Unavailable` if it does not go.
        """
        pid = self._part("shard").pop("pid", None)
        if not isinstance(pid, int) or pid <= 1:
            raise Unavailable(f"the node did not name its shard's process: {self.ready}")
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline_s:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(POLL_S)
        raise Unavailable(f"process {pid} is still there {STOP_SECONDS:g} s after SIGKILL")

    def _part(self, name: str) -> dict[str, object]:
        part = self.ready.get(name)
        return part if isinstance(part, dict) else {}

    def _write_config(self) -> None:
        settings = self._settings
        lines = [
            "[shard]",
            f"listen = {json.dumps(list(settings.listen))}",
            f"devices = {json.dumps([settings.device])}",
            f"capacity_bytes = {settings.capacity_bytes}",
            "[shard.hot]",
            f"bytes = {settings.hot_bytes}",
            f"fill = {json.dumps(settings.fill)}",
            "[frontend]",
            'listen = "127.0.0.1:0"',
            "[metrics]",
            *(f'{name} = "127.0.0.1:0"' for name in ("shard", "frontend", "supervisor")),
        ]
        if settings.tenants:
            engine = f"sqlite://{self._config.parent.resolve()}/metadata.db"
            lines += ["[metadata]", f"engine = {json.dumps(engine)}", "[access]", 'anonymous = ""']
        self._config.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start the process and wait until it serves. Raises `Unavailable` if it does not."""
        self._write_config()
        command = [sys.executable, "-m", "mezzo_server", "serve", "--json", "--config", str(self._config)]
        # Settings of a node of yours are not meant for this one.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MEZZO_")}
        if self._settings.tenants:
            self._make_tenants(environ)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environ
            )
        self._process = process
        if process.stdout is None:
            raise Unavailable("no pipe to the node")
        lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        self._reader.start()
        try:
            line = lines.get(timeout=self._start_s)
        except queue.Empty:
            self.stop()
            raise Unavailable(
                f"the node was not ready after {self._start_s:g} s{self._last_words()}"
            ) from None
        if not line:
            self.stop()
            raise Unavailable(f"the node did not start{self._last_words()}")
        try:
            self.ready = msgspec.json.decode(line, type=dict[str, object])
        except msgspec.DecodeError:
            self.stop()
            raise Unavailable(f"the node said {line[:200]!r} where one line of JSON was due") from None

    def _make_tenants(self, environ: dict[str, str]) -> None:
        """As an operator does before the first start."""
        for tenant in self._settings.tenants:
            made = self._operator(environ, "tenant", "create", tenant)
            self.tokens[tenant] = made["credential"]["token"]
        self.operator_token = self._operator(environ, "credential", "issue", "--operator")["token"]

    def _operator(self, environ: dict[str, str], *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "mezzo_server", *arguments, "--json", "--config", str(self._config)]
        done = subprocess.run(command, capture_output=True, env=environ, timeout=self._start_s, check=False)
        if done.returncode:
            raise Unavailable(f"{' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
        return msgspec.json.decode(done.stdout, type=dict[str, Any])

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
