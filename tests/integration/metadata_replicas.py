"""Replicas of the metadata service in processes of their own, killed and started again at will."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mezzo_server.testing import RunningProcess
from tests.integration.etcd_members import free_ports


class RunningReplica(RunningProcess):
    """One replica; it comes back at its address."""

    what = "metadata service"

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        super().__init__(command, None, log)
        self.port = port

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"


def made_replicas(count: int, engine: str, folder: Path, secret: Path) -> list[RunningReplica]:
    """So many over one engine, called with ``secret``, each to be started at a port of its own."""
    replicas = []
    for number, port in enumerate(free_ports(count)):
        command = [sys.executable, "-m", "mezzo_server", "meta", "serve", "--json", "--engine", engine]
        command += ["--listen", f"127.0.0.1:{port}", "--secret-file", str(secret)]
        replicas.append(RunningReplica(command, port, folder / f"metadata-{number}.log"))
    return replicas


@contextmanager
def running_replicas(count: int, engine: str, folder: Path, secret: Path) -> Iterator[list[RunningReplica]]:
    """The same, started; killed at the end."""
    replicas = made_replicas(count, engine, folder, secret)
    try:
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(RunningReplica.start, replicas))
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()
