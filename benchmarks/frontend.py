"""Calls through the front-end, beside a trivial gRPC server that has the answers at hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

import mezzo
from benchmarks.harness import Row, Sample, Skipped, compared, median, take_pairs
from benchmarks.processes import STOP_S
from benchmarks.settings import KIB, MIB, Settings, size_name
from benchmarks.shard import TIMEOUT_S, chunk_keys, client_of, shard
from mezzo.v1 import store_pb2
from mezzo_server.testing import running_frontend

KEYS = 64
LOOKUP_CHUNK_BYTES = 4 * KIB
GET_BYTES = MIB
PIECE_BYTES = MIB
"""of a message of the stream, for both"""
GRPC_US = 500.0
"""what a unary call through Python's gRPC may add"""
MESSAGE_BYTES_MAX = 64 * MIB


def rows(settings: Settings) -> Iterator[Row]:
    """Get of one chunk, and lookup."""
    with (
        shard("memory:512MiB") as server,
        running_frontend(server.unix, config=f"[frontend]\npiece_bytes = {PIECE_BYTES}\n") as frontend,
        plain() as reference,
        mezzo.Client(frontend.grpc, via="proxy", timeout_s=TIMEOUT_S) as proxied,
        client_of(server.unix) as direct,
    ):
        yield _get(settings, reference, proxied)
        yield from _lookup(settings, reference, proxied, direct)


def _get(settings: Settings, reference: Plain, client: mezzo.Client) -> Row:
    keys = chunk_keys("frontend", 16)
    source = bytes(range(256)) * (GET_BYTES // 256)
    if client.put(keys, [source] * len(keys)).stored != len(keys):
        raise RuntimeError("chunks were not stored")
    target = bytearray(GET_BYTES)
    turn = iter(range(sys.maxsize))

    def get() -> None:
        if client.get([keys[next(turn) % len(keys)]], [target]).count != 1:
            raise RuntimeError("a chunk is missing")

    def stream() -> None:
        if reference.get(keys[0], GET_BYTES) != GET_BYTES:
            raise RuntimeError("bytes are missing")

    get()
    if target != source:
        raise RuntimeError("the bytes are not those that were put")
    samples = take_pairs(
        lambda: _rate(stream, GET_BYTES, settings.sample_s),
        lambda: _rate(get, GET_BYTES, settings.sample_s),
        settings.pairs,
    )
    return compared(
        samples,
        name=f"get of {size_name(GET_BYTES)} through the front-end",
        unit="GB/s",
        reference=f"trivial gRPC stream, generated classes, messages of {size_name(PIECE_BYTES)}",
        ours="proxied client, one call at a time, into the caller's memory",
        target=1.0,
    )


def _lookup(
    settings: Settings, reference: Plain, proxied: mezzo.Client, direct: mezzo.Client
) -> Iterator[Row]:
    keys = chunk_keys("frontend-lookup", KEYS)
    direct.put(keys, [bytes(LOOKUP_CHUNK_BYTES)] * KEYS)
    if proxied.lookup(keys).prefix != KEYS:
        raise RuntimeError("chunks that were put are not found")

    calls = (lambda: reference.lookup(keys), lambda: direct.lookup(keys), lambda: proxied.lookup(keys))
    samples = [_turns(calls, settings.sample_s) for _ in range(settings.pairs)]
    yield compared(
        samples,
        name=f"lookup of {KEYS} keys through the front-end, p50",
        unit="us",
        reference="trivial gRPC unary call, and twice our direct lookup",
        ours="proxied client; a call of each kind in turn",
        better="lower",
        target=1.0,
    )
    allowed = [(Sample(2 * one.detail["direct_us"] + GRPC_US, one.detail), ours) for one, ours in samples]
    yield compared(
        allowed,
        name=f"the same, beside what it may take: twice a direct lookup, and {GRPC_US:.0f} us",
        unit="us",
        reference=f"twice our direct lookup, and {GRPC_US:.0f} us",
        ours="proxied client; a call of each kind in turn",
        better="lower",
        target=1.0,
    )


class Plain:
    """A client of the trivial server, with the generated classes and nothing else."""

    def __init__(self, channel: grpc.Channel) -> None:
        service = "/mezzo.v1.StoreService"
        self._get: Any = channel.unary_stream(
            f"{service}/Get",
            request_serializer=store_pb2.GetRequest.SerializeToString,
            response_deserializer=store_pb2.GetResponse.FromString,
        )
        self._lookup: Any = channel.unary_unary(
            f"{service}/Lookup",
            request_serializer=store_pb2.LookupRequest.SerializeToString,
            response_deserializer=store_pb2.LookupResponse.FromString,
        )

    def get(self, key: bytes, length: int) -> int:
        """Bytes received."""
        request = store_pb2.GetRequest(namespace="default", keys=[key], capacities=[length])
        return sum(len(piece.data) for message in self._get(request) for piece in message.pieces)

    def lookup(self, keys: list[bytes]) -> int:
        """The prefix."""
        return int(self._lookup(store_pb2.LookupRequest(namespace="default", keys=keys)).prefix)


@contextmanager
def plain() -> Iterator[Plain]:
    """The trivial server in a process of its own, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.grpc_plain", str(PIECE_BYTES)], stdout=subprocess.PIPE
    )
    try:
        # A server that does not start ends, and its output with it.
        line = b"" if process.stdout is None else process.stdout.readline()
        if not line:
            raise Skipped("the trivial gRPC server did not start")
        port = int(line.split()[1])
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("SingleThreadedUnaryStream", 1),
        ]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield Plain(channel)
    finally:
        process.terminate()
        process.wait(STOP_S)
        if process.stdout is not None:
            process.stdout.close()


def _rate(call: Callable[[], None], length: int, sample_s: float) -> Sample:
    """GB/s of calls that move ``length`` bytes each."""
    calls = 0
    began = time.perf_counter()
    until = began + sample_s
    while (now := time.perf_counter()) < until:
        call()
        calls += 1
    return Sample(calls * length / (now - began) / 1e9, {"us_per_call": (now - began) / calls * 1e6})


def _turns(calls: Sequence[Callable[[], object]], sample_s: float) -> tuple[Sample, Sample]:
    """Median times of (unary, direct, proxied), microseconds: what is allowed, and ours.

    One call of each after the other: each finds caches and sleeping processes as it would between a
    caller's other work.  A loop of nothing but direct lookups keeps its shard awake, which no shard behind
    a front-end is.
    """
    clock = time.perf_counter_ns
    times: list[list[float]] = [[] for _ in calls]
    until = clock() + int(sample_s * 1e9)
    while clock() < until:
        for call, taken in zip(calls, times, strict=True):
            began = clock()
            call()
            taken.append((clock() - began) / 1000)
    unary, direct, proxied = map(median, times)
    return Sample(unary + 2 * direct, {"unary_us": unary, "direct_us": direct}), Sample(proxied)
