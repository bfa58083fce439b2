"""Hot gets over TLS, beside a bare ``SSLSocket.recv_into`` of the same bytes on as many connections."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mezzo
from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.hot import ARENA_BYTES, check_hot, make_hot
from benchmarks.reference_tls import Files, bare, certificate
from benchmarks.settings import MIB, Settings, size_name
from benchmarks.shard import TIMEOUT_S, Window, chunk_keys, window
from mezzo_server.testing import RunningShard, running_shard

CHUNK_BYTES = 4 * MIB
SLOTS = 64
KEYS = chunk_keys("tls", SLOTS)
BATCH = 16
"""chunks of one get: 64 MiB"""
CALLERS = 2
"""threads that get: what is compared with has no calls, and so no ends of calls at which connections stand idle"""
CONNECTIONS = (1, 4)


def rows(settings: Settings) -> Iterator[Row]:
    """One row for each number of connections, and one for what more of them bring."""
    with tempfile.TemporaryDirectory(prefix="mezzo-bench-") as folder:
        files = certificate(Path(folder))
        with _shard(Path(folder), files) as server:
            for connections in CONNECTIONS:
                yield _beside_bare(server, files, connections, settings)
            yield _more(server, files, settings)


def _beside_bare(server: RunningShard, files: Files, connections: int, settings: Settings) -> Row:
    with (
        bare(files, connections, CHUNK_BYTES, SLOTS) as reference,
        _getting(server, files, connections, settings) as get,
    ):
        samples = take_pairs(lambda: reference(settings.sample_s), get, settings.pairs)
        check_hot(server)
    plural = "s" if connections > 1 else ""
    return compared(
        samples,
        name=f"Hot TLS get of {size_name(CHUNK_BYTES)}, {connections} connection{plural}",
        unit="GB/s",
        reference="bare SSLSocket.recv_into, a thread for each connection",
        ours=f"tcps://, {BATCH} chunks in a call, {CALLERS} callers, verified",
        target=0.9,
    )


def _more(server: RunningShard, files: Files, settings: Settings) -> Row:
    fewer, more = CONNECTIONS[0], CONNECTIONS[-1]
    with (
        _getting(server, files, fewer, settings) as one,
        _getting(server, files, more, settings) as several,
    ):
        samples = take_pairs(one, several, settings.pairs)
    return compared(
        samples,
        name=f"Hot TLS get of {size_name(CHUNK_BYTES)}, {more} connections beside {fewer}",
        unit="GB/s",
        reference=f"ours with {fewer}",
        ours="the total of all",
        target=1.0,
    )


@contextmanager
def _shard(folder: Path, files: Files) -> Iterator[RunningShard]:
    need = (SLOTS + 8) * CHUNK_BYTES
    hot_bytes = (-(-need // ARENA_BYTES) + 1) * (ARENA_BYTES + MIB)
    config = (
        f'[shard.hot]\nbytes = {hot_bytes}\n[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\n'
    )
    with running_shard(
        devices=["memory:2GiB"],
        listen=[f"unix://{folder}/shard", "tcps://127.0.0.1:0"],
        arguments=["--format", "--scrub", "0"],
        config=config,
    ) as server:
        with window(server, server.unix, CHUNK_BYTES, SLOTS, batch=BATCH) as filling:
            make_hot(server, filling, KEYS, BATCH)
        yield server


@contextmanager
def _getting(
    server: RunningShard, files: Files, connections: int, settings: Settings
) -> Iterator[Callable[[], Sample]]:
    trust = mezzo.TLS(ca=str(files.certificate))

    def client(address: str) -> mezzo.Client:
        return mezzo.Client(address, tls=trust, stripes=connections, timeout_s=TIMEOUT_S)

    getting = Window(server, server.tcps, CHUNK_BYTES, SLOTS, batch=BATCH, requests=CALLERS, client=client)
    try:
        getting.get(KEYS, settings.sample_s)  # then all connections are open
        yield lambda: getting.get(KEYS, settings.sample_s)
    finally:
        getting.close()
