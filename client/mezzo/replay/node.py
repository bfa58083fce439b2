"""Starts and stops a node of its own, as processes, for the demo.

Only the command line of the server is used, nothing of its code.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from mezzo.errors import Unavailable
from mezzo.replay.program import STOP_SECONDS, Program, server_command

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
        command = server_command("serve", "--json", "--config", str(self._config))
        self._program = Program("the node", command, log=log, start_s=start_s)
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
        if self._settings.tenants:
            self._make_tenants()
        self.ready = self._program.start()

    def _make_tenants(self) -> None:
        """As an operator does before the first start."""
        for tenant in self._settings.tenants:
            made = self._operator("tenant", "create", tenant)
            self.tokens[tenant] = made["credential"]["token"]
        self.operator_token = self._operator("credential", "issue", "--operator")["token"]

    def _operator(self, *arguments: str) -> dict[str, Any]:
        return self._program.run(*arguments, "--json", "--config", str(self._config))

    def stop(self) -> None:
        """Ask it to stop (SIGTERM) and wait; kill it if it takes too long. Harmless if it has ended."""
        self._program.stop()
