"""What a pod asks of its metadata, counted: ``python -m benchmarks.metadata_calls [SECONDS]``.

Two nodes of one shard each over a metadata service, which counts its calls: for so many seconds at rest, and for as many
while a client puts and gets chunks as fast as it can.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mezzo import Client
from mezzo.errors import MezzoError
from mezzo_server.testing import RunningNode, RunningProcess, running_node

CHUNK_BYTES = 64 << 10
BATCH = 32
READY_S = 60.0
ACTING = ("GetEntry", "ScanEntries", "Transact", "GrantLease", "KeepLease", "RevokeLease")


class _Service(RunningProcess):
    what = "metadata service"

    def calls(self) -> Counter[str]:
        with urllib.request.urlopen(f"http://{self.readiness['metrics']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        counted: Counter[str] = Counter()
        for line in lines:
            if line.startswith("mezzo_metadata_calls_total{"):
                counted[line.split('"')[1]] = int(float(line.rsplit(" ", 1)[1]))
        return counted


@contextmanager
def _service(folder: Path) -> Iterator[tuple[_Service, str]]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [sys.executable, "-m", "mezzo_server", "meta", "serve", "--json", "--listen", listen]
    service = _Service([*command, "--engine", f"sqlite://{folder}/metadata.db"], None, folder / "log")
    service.start()
    try:
        yield service, f"mezzo://{listen}"
    finally:
        service.stop()


def _load(client: Client, seconds: float) -> int:
    """Chunks that were put and got."""
    until, number = time.monotonic() + seconds, 0
    target = [bytearray(CHUNK_BYTES) for _ in range(BATCH)]
    while time.monotonic() < until:
        keys = [b"chunk-%d" % (number + each) for each in range(BATCH)]
        client.put(keys, [bytes(CHUNK_BYTES)] * BATCH)
        client.get(keys, target)
        number += BATCH
    return number


def _ready(node: RunningNode) -> Client:
    until = time.monotonic() + READY_S
    while True:
        client = Client(node.grpc)
        try:
            if client.put([b"first"], [b"x"]).stored:
                return client
        except MezzoError:
            if time.monotonic() > until:
                raise
        client.close()
        time.sleep(0.5)


def _line(what: str, before: Counter[str], after: Counter[str], seconds: float) -> str:
    counts = " | ".join(f"{(after[name] - before[name]) * 60 / seconds:.0f}" for name in ACTING)
    return f"| {what} | {counts} |"


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as (service, url):
        texts = [
            f'[metadata]\nengine = "{url}"\n[admin]\naudit_log = "-"\n[pod]\nenabled = true\nramp_s = 0\nnode = "n{n}"\n'
            for n in (1, 2)
        ]
        with running_node(config=texts[0]) as one, running_node(config=texts[1]), _ready(one) as client:
            time.sleep(10)  # the second has joined
            first = service.calls()
            time.sleep(seconds)
            second = service.calls()
            chunks = _load(client, seconds)
            third = service.calls()
    print("calls a minute | " + " | ".join(ACTING))
    print("|---" * (len(ACTING) + 1) + "|")
    print(_line("at rest", first, second, seconds))
    print(_line(f"{chunks:,} chunks put and got", second, third, seconds))


if __name__ == "__main__":
    main()
