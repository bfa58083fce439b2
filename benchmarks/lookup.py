"""Lookup of 64 keys over a Unix socket, beside a bare echo of frames of the same sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, compared, latency_us, take_pairs
from benchmarks.processes import placed
from benchmarks.reference_network import echo
from benchmarks.settings import KIB, Settings
from benchmarks.shard import chunk_keys, client_of, shard
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Kind, LookedUp, Lookup

KEYS = 64
CHUNK_BYTES = 4 * KIB


def rows(settings: Settings) -> Iterator[Row]:
    """All keys present, so that none ends the lookup early."""
    keys = chunk_keys("lookup", KEYS)
    request_bytes = len(encode(Kind.LOOKUP, 1, Lookup(keys)))
    answer_bytes = len(encode(Kind.LOOKED_UP, 1, LookedUp(KEYS, KEYS * CHUNK_BYTES, 1000)))
    with (
        tempfile.TemporaryDirectory(prefix="mezzo-bench-") as home,
        shard("memory:256MiB") as server,
        client_of(server.unix) as client,
        echo(Path(home), request_bytes, answer_bytes) as reference,
    ):
        region = client.region(KEYS * CHUNK_BYTES)
        client.put(keys, [region[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES] for i in range(KEYS)])
        if client.lookup(keys).prefix != KEYS:
            raise RuntimeError("chunks that were put are not found")
        for apart in (True, False):
            with placed([server.pid, reference.pid], apart=apart):
                samples = take_pairs(
                    lambda: latency_us(reference.exchange, settings.sample_s),
                    lambda: latency_us(lambda: client.lookup(keys), settings.sample_s),
                    settings.pairs,
                )
            yield compared(
                samples,
                name=f"lookup of {KEYS} keys, p50, {'two cores' if apart else 'one core'}",
                unit="us",
                reference=f"echo, {request_bytes} bytes out, {answer_bytes} back",
                ours="blocking client, Unix socket",
                better="lower",
                target=3.0 if apart else None,
            )
