"""Get and lookup of a prefix of 64 chunks that are spread over 4 shards, beside the same from one shard.

All shards have devices of memory, so what is compared is what the way costs: four requests that run at a time
instead of one, on the same cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import mezzo
from benchmarks.harness import Row, compared, latency_us, take_pairs
from benchmarks.settings import KIB, MIB, Settings
from benchmarks.shard import chunk_keys
from mezzo import mapping
from mezzo_server.testing import running_frontend, running_shard

KEYS = 64
SHARDS = 4
GET_TARGET = 1.3


def rows(settings: Settings) -> Iterator[Row]:
    """Two sizes of chunks, and what only asks."""
    yield from _rows(settings, 64 * KIB)
    yield from _rows(settings, 1 * MIB)


def _rows(settings: Settings, chunk_bytes: int) -> Iterator[Row]:
    keys = chunk_keys("spread", KEYS)
    with ExitStack() as stack:
        region = mapping.owned(KEYS * chunk_bytes)
        targets = [region[index * chunk_bytes : (index + 1) * chunk_bytes] for index in range(KEYS)]
        one = _client(stack, 1, 4 * KEYS * chunk_bytes)
        several = _client(stack, SHARDS, 4 * KEYS * chunk_bytes)
        for client in (one, several):
            if client.put(keys, targets).stored != KEYS:
                raise RuntimeError("a chunk was not stored")

        def get(client: mezzo.Client) -> None:
            if client.get(keys, targets).count != KEYS:
                raise RuntimeError("a chunk was not found")

        def lookup(client: mezzo.Client) -> None:
            if client.lookup(keys).prefix != KEYS:
                raise RuntimeError("a chunk was not found")

        size = f"{chunk_bytes // KIB} KiB"
        for name, call, target in (("get", get, GET_TARGET), ("lookup", lookup, None)):
            samples = take_pairs(
                lambda call=call: latency_us(lambda: call(one), settings.sample_s),  # type: ignore[misc]
                lambda call=call: latency_us(lambda: call(several), settings.sample_s),  # type: ignore[misc]
                settings.pairs,
            )
            yield compared(
                samples,
                name=f"{name} of {KEYS} chunks of {size}, p50",
                unit="us",
                reference="one shard has them all",
                ours=f"spread over {SHARDS} shards; blocking client, Unix sockets",
                better="lower",
                target=target,
            )


def _client(stack: ExitStack, shards: int, device_bytes: int) -> mezzo.Client:
    """A client of so many shards, which its front-end told it of."""
    config = f"[supervisor]\nshards = {shards}\n"
    devices = [f"memory:{device_bytes + 128 * MIB}"]
    running = [stack.enter_context(running_shard(devices=devices, config=config)) for _ in range(shards)]
    told = ", ".join(f'"{" ".join(shard.addresses)}"' for shard in running)
    frontend = stack.enter_context(
        running_frontend(running[0].unix, config=f"[frontend]\nshards = [{told}]\n")
    )
    return stack.enter_context(mezzo.Client(frontend.grpc, via="direct", timeout_s=30.0))
