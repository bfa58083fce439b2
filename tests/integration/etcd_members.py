"""An etcd of our own for tests: one member or several on loopback, started, killed and cut off at will."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STARTED_S = 30.0
ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".venv" / "etcd"


def find_etcd() -> str:
    """The program; empty: there is none. `.ci/etcd` fetches it where it can."""
    found = subprocess.run(
        [ROOT / ".ci" / "etcd", UNPACKED], capture_output=True, text=True, check=False, timeout=120
    )
    return found.stdout.strip()


PORTS = range(12_000, 32_000)
"""None that the system gives away by itself: who is started again finds its own free still."""


def free_ports(count: int, together: int = 1) -> list[int]:
    """Ports that nobody listens on; of so many that follow one another the first."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        if any(abs(port - other) < together for other in found):
            continue
        try:
            for each in range(port, port + together):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        found.append(port)
    return found


class Member:
    """One process. Its data survive `kill`."""

    def __init__(
        self, program: str, folder: Path, number: int, ports: list[tuple[int, int]], more: list[str]
    ) -> None:
        self.endpoint = f"127.0.0.1:{ports[number][0]}"
        self.log = folder / f"etcd-{number}.log"
        scheme = "https" if any(each.startswith("--cert-file") for each in more) else "http"
        client, peer = f"{scheme}://{self.endpoint}", f"http://127.0.0.1:{ports[number][1]}"
        self._command = [
            program,
            f"--name=m{number}",
            f"--data-dir={folder}/m{number}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            "--initial-cluster=" + ",".join(f"m{n}=http://127.0.0.1:{p}" for n, (_, p) in enumerate(ports)),
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--logger=zap",
            *more,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            # Not to wait for the disk: what these tests are about is not whether etcd syncs.
            environment = {**os.environ, "ETCD_UNSAFE_NO_FSYNC": "true", "ETCD_UNSUPPORTED_ARCH": ""}
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)

    def signal(self, number: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            # On a busy machine its threads go on for a while. (Nothing is taken from who waits for its end.)
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """All members; `url` leads to them."""

    def __init__(self, members: list[Member], *, tls: bool) -> None:
        self.members = members
        self._scheme = "etcds" if tls else "etcd"

    def url(self, folder: str, *, query: str = "", user: str = "") -> str:
        places = ",".join(member.endpoint for member in self.members)
        return f"{self._scheme}://{user and user + '@'}{places}/{folder}{query}"

    def wait(self) -> None:
        """Until every member accepts connections."""
        until = time.monotonic() + STARTED_S
        for member in self.members:
            host, port = member.endpoint.rsplit(":", 1)
            while True:
                try:
                    socket.create_connection((host, int(port)), 1).close()
                    break
                except OSError:
                    alive = member.process is not None and member.process.poll() is None
                    if not alive or time.monotonic() > until:
                        raise RuntimeError(f"etcd did not start:\n{member.log.read_text()[-2000:]}") from None
                    time.sleep(0.02)


@contextmanager
def running_etcd(folder: Path, count: int = 1, more: list[str] | None = None) -> Iterator[Cluster]:
    """So many members, for as long as the block lasts."""
    program = find_etcd()
    if not program:
        raise FileNotFoundError("there is no etcd")
    numbers = free_ports(2 * count)
    ports = list(zip(numbers[:count], numbers[count:], strict=True))
    options = more or []
    folder.mkdir(parents=True, exist_ok=True)
    members = [Member(program, folder, number, ports, options) for number in range(count)]
    try:
        for member in members:
            member.start()
        cluster = Cluster(members, tls=any(each.startswith("--cert-file") for each in options))
        cluster.wait()
        yield cluster
    finally:
        for member in members:
            member.signal(signal.SIGCONT)
            member.kill()
        shutil.rmtree(folder, ignore_errors=True)
