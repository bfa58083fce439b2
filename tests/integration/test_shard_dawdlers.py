"""Clients that make a shard wait: silent ones, such as read no answers, such as send no payload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo import Client
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, Kind, Lookup, Put, PutData, PutGrant, Refuse, ShardStat
from mezzo_server.testing import RunningShard
from tests.integration.shard_wire import LOOPS, Wire, key_of, nothing_stays_behind, numbers, shard_on, stored
from tests.patience import eventually

MIB = 1 << 20
CONFIG = """
[shard]
scrub_bytes_per_s = 0
[shard.limits]
staging_bytes = "32MiB"
staging_connection_bytes_max = "8MiB"
chunk_bytes_max = "4MiB"
output_bytes_max = "64KiB"
stall_timeout_s = 1.0
handshake_timeout_s = 2.0
"""


@pytest.fixture(scope="module", params=LOOPS)
def shard(request: pytest.FixtureRequest) -> Iterator[RunningShard]:
    with shard_on(request.param, CONFIG) as shard:
        yield shard


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, shard: RunningShard) -> str:
    return shard.unix if request.param == "unix" else shard.tcp


@pytest.fixture(autouse=True)
def _nothing_stays_behind(shard: RunningShard) -> Iterator[None]:
    with nothing_stays_behind(shard):
        yield


def test_silent_newcomers_are_closed(shard: RunningShard) -> None:
    wires = [Wire(address, hello=False) for address in (shard.unix, shard.tcp)]
    for wire in wires:
        with wire:
            assert "HELLO" in wire.expect(Refuse).message
            assert wire.ended()


def test_who_reads_nothing_is_read_no_more_and_holds_up_nobody(address: str) -> None:
    """Requests without end, answers unread: bounded memory, an end, and others are served meanwhile."""
    filler = encode(Kind.LOOKUP, 1, Lookup([b"%060d" % n for n in range(4096)]))
    with Wire(address) as wire:
        wire.sock.settimeout(0.3)
        sent = 0
        try:
            # More answers than all buffers on the way hold, then requests that fill those of this side.
            wire.sock.sendall(encode(Kind.SHARD_STAT, 1, ShardStat()) * 10_000)
            while sent < 1000:
                wire.sock.sendall(filler)
                sent += 1
        except (TimeoutError, ConnectionError):
            pass
        assert sent < 1000, "the shard went on reading"
        with Client(address) as client:
            assert client.lookup([b"a"]).prefix == 0
        eventually(lambda: numbers(address)["connections"] == 1, "the client is disconnected")


def test_who_does_not_read_payload_holds_up_nobody(shard: RunningShard) -> None:
    chunks = stored(shard.tcp, *[4 * MIB] * 4)
    with Wire(shard.tcp) as wire:
        wire.send(Kind.GET, 1, Get(list(chunks) * 20))
        with Client(shard.tcp) as client:
            out = bytearray(4 * MIB)
            for key, data in chunks.items():
                assert client.get([key], [out]).count == 1
                assert out == data
        eventually(lambda: numbers(shard.unix)["connections"] == 1, "the client is disconnected")


def test_who_sends_no_payload_holds_up_nobody(shard: RunningShard, address: str) -> None:
    key = key_of("half")
    with Wire(address) as wire:
        wire.send(Kind.PUT, 1, Put([key, key + b"2", key + b"3"], [4 * MIB] * 3))
        assert wire.expect(PutGrant).indexes == [0, 1]
        wire.send(Kind.PUT_DATA, 1, PutData(0, [0]), 4 * MIB)
        wire.sock.sendall(bytes(MIB))
        other = stored(address, 4 * MIB, 4 * MIB)
        assert len(other) == 2
        assert wire.expect(Refuse).message
        assert wire.ended()
    with Client(address) as client:
        assert client.lookup([key]).prefix == 0
