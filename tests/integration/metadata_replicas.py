"""Replicas of the metadata service in processes of their own, killed and started again at will."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mezzo_server.testing import RunningProcess
from tests.integration.etcd_members import free_ports


class RunningReplica(RunningProcess):
    """One replica; it comes back at its address."""

    what = "metadata service"

    @property
    def endpoint(self) -> str:
        return str(self.readiness["listen"]).partition("://")[2]


@contextmanager
def running_replicas(count: int, engine: str, folder: Path, secret: Path) -> Iterator[list[RunningReplica]]:
    """So many over one engine, called with ``secret``; killed at the end."""
    replicas = []
    try:
        for number, port in enumerate(free_ports(count)):
            command = [sys.executable, "-m", "mezzo_server", "meta", "serve", "--json", "--engine", engine]
            command += ["--listen", f"127.0.0.1:{port}", "--secret-file", str(secret)]
            replicas.append(RunningReplica(command, None, folder / f"metadata-{number}.log"))
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(RunningReplica.start, replicas))
        yield replicas
    finally:
        for replica in replicas:
            replica.kill()
