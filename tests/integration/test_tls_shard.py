"""Connections at tcps:// after the handshake: many at once, faults on both sides, certificates that change."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest

from mezzo import (
    TLS,
    AsyncClient,
    Client,
    ClientClosed,
    Unavailable,
)
from mezzo.protocol.frame import encode
from mezzo.protocol.messages import Get, GetData, Kind, Ping, Pong, Put, PutData, PutGrant, Refuse
from mezzo_server.testing import running_shard
from tests.contract.certificates import Authority
from tests.integration.shard_wire import numbers
from tests.integration.tls_wire import TlsWire, at_rest, table
from tests.patience import PATIENCE_S, eventually

MIB = 1 << 20


@pytest.fixture(scope="module")
def shard(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "s"
    listen = [f"unix://{path}", "tcps://127.0.0.1:0"]
    with running_shard(listen=listen, config=table(authority.issue("shard"))) as shard:
        yield shard


@pytest.mark.parametrize("stripes", [1, 3])
def test_many_chunks_go_over_all_connections_and_come_back_right(shard, trust, stripes):
    keys = [os.urandom(16) for _ in range(24)]
    chunks = [os.urandom(MIB + 7 * index) for index in range(24)]
    with Client(shard.tcps, tls=trust, stripes=stripes, namespace=f"many-{stripes}") as client:

        def opened() -> bool:  # the others, beside the first calls that could use them
            assert client.put(keys, chunks).failed == 0
            return numbers(shard.unix)["tls_connections"] == stripes

        eventually(opened, "all connections are used")
        targets = [bytearray(2 * MIB) for _ in keys]
        got = client.get(keys, targets)
        assert got.count == 24
        assert all(target[: len(chunk)] == chunk for target, chunk in zip(targets, chunks, strict=True))
        assert numbers(shard.unix)["tls_connections"] == stripes
    at_rest(shard)


def test_threads_and_tasks_share_the_connections(shard, trust):
    chunk = os.urandom(MIB)

    def work(client: Client, number: int, bad: list[object]) -> None:
        target = bytearray(MIB)
        for turn in range(8):
            key = b"%d/%d" % (number, turn)
            if client.put([key], [chunk]).stored != 1 or client.get([key], [target]).count != 1:
                bad.append(key)
            if target != chunk or client.lookup([key]).prefix != 1:
                bad.append(key)

    with Client(shard.tcps, tls=trust, namespace="threads") as client:
        bad: list[object] = []
        threads = [threading.Thread(target=work, args=(client, number, bad)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bad == []

    async def tasks() -> None:
        async with AsyncClient(shard.tcps, tls=trust, namespace="threads") as client:

            async def get(number: int) -> bool:
                target = bytearray(MIB)
                return (await client.get([b"%d/3" % number], [target])).count == 1 and target == chunk

            assert all(await asyncio.gather(*(get(number % 6) for number in range(24))))

    asyncio.run(tasks())
    at_rest(shard)


def test_a_peer_that_vanishes_in_the_middle_of_a_record_leaves_nothing(shard, authority, trust):
    wire = TlsWire(shard, authority)
    # The beginning of a record that never ends, beside TLS.
    socket.socket.send(wire.sock, b"\x17\x03\x03\x40\x00" + b"\xaa" * 100)
    os.close(wire.sock.detach())
    at_rest(shard)


def begin_put(wire: TlsWire, key: bytes, length: int, sent: int) -> None:
    """Announce a chunk, and send a part of it once it is granted."""
    wire.send(Kind.PUT, 7, Put([key], [length], [], 0, [], 0, 0))
    assert wire.expect(PutGrant).indexes == [0]
    wire.sock.sendall(encode(Kind.PUT_DATA, 7, PutData(0, [0]), length) + bytes(sent))


def test_one_that_vanishes_in_the_middle_of_a_payload_leaves_nothing(shard, authority):
    wires = [TlsWire(shard, authority) for _ in range(3)]
    for number, wire in enumerate(wires):
        begin_put(wire, b"half %d" % number, 7 * MIB, (3 + number) * MIB + number)
    for wire in wires:
        os.close(wire.sock.detach())
    at_rest(shard)


def test_one_that_stalls_in_the_middle_of_a_payload_is_told_and_cut_off(authority, tmp_path):
    config = table(authority.issue("stalling")) + "[shard.limits]\nstall_timeout_s = 1.0\n"
    listen = [f"unix://{tmp_path}/s", "tcps://127.0.0.1:0"]
    with running_shard(listen=listen, config=config) as shard:
        with TlsWire(shard, authority) as wire:
            begin_put(wire, b"stalled", 7 * MIB, 5 * MIB + 1)
            assert "payload did not come" in wire.expect(Refuse).message
            assert wire.ended()
        with TlsWire(shard, authority) as reader, Client(shard.unix) as client:
            # One that reads nothing of what it asked for has more under way than any buffer holds.
            keys = [b"unread %d" % index for index in range(16)]
            client.put(keys, [bytes(4 * MIB)] * 16)
            reader.send(Kind.GET, 1, Get(keys, 0, [], 0, 0, [4 * MIB] * 16, 0))
            eventually(lambda: numbers(shard.unix)["connections"] == 2, "it is cut off")
        at_rest(shard)


def test_a_record_that_was_tampered_with_ends_the_connection(shard, authority):
    wire = TlsWire(shard, authority)
    socket.socket.send(wire.sock, b"\x17\x03\x03\x00\x20" + b"\xaa" * 32)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        wire.expect(Pong)
    wire.sock.close()
    at_rest(shard)


def test_a_client_that_stops_reading_a_get_is_cut_off_without_harm(shard, authority, trust):
    with Client(shard.tcps, tls=trust, namespace="default") as client:
        keys = [b"big %d" % index for index in range(8)]
        client.put(keys, [os.urandom(4 * MIB)] * 8)
        wire = TlsWire(shard, authority)
        wire.send(Kind.GET, 1, Get(keys, 0, [], 0, 0, [4 * MIB] * 8, 0))
        assert wire.expect(GetData).index == 0
        # Much is under way; others are served, and when it goes all is given back.
        assert client.get(keys[:1], [bytearray(4 * MIB)]).count == 1
        os.close(wire.sock.detach())
    at_rest(shard)


def test_what_breaks_the_protocol_is_refused_over_tls(shard, authority):
    with TlsWire(shard, authority, hello=False) as wire:
        wire.send(Kind.PING, 1, Ping())
        assert wire.expect(Refuse).message
        assert wire.ended()
    with TlsWire(shard, authority) as wire:
        wire.sock.sendall(b"this is no frame at all, however one looks at it")
        assert "no frame of Mezzo" in wire.expect(Refuse).message
        assert wire.ended()
    at_rest(shard)


def test_a_lost_stripe_costs_its_part_only_and_is_opened_again(shard, trust):
    keys = [b"stripe %d" % index for index in range(16)]
    chunks = [os.urandom(MIB) for _ in keys]
    with Client(shard.tcps, tls=trust, stripes=3, namespace="lost") as client:

        def opened() -> bool:
            return client.put(keys, chunks).failed == 0 and client._link.connections == 3

        eventually(opened, "all connections are used")
        for round_number in range(4):
            lost = client._link._stripes[1 + round_number % 2]
            socket.socket.shutdown(lost._sock, socket.SHUT_RDWR)
            targets = [bytearray(MIB) for _ in keys]
            assert client.get(keys, targets).count == len(keys)
            assert targets == chunks

            def anew(lost: object = lost) -> bool:
                assert client.get(keys, [bytearray(MIB) for _ in keys]).count == len(keys)
                return client._link.connections == 3 and lost not in client._link._stripes

            eventually(anew, "it is opened again")
        assert client.statistics().connections == 1
        assert client.statistics().connections_lost == 0
        assert client.statistics().retries == 0  # of whole calls
        # The first one is the link: without it the client connects anew, and a get is made again.
        socket.socket.shutdown(client._link._first._sock, socket.SHUT_RDWR)
        assert client.get(keys, [bytearray(MIB) for _ in keys]).count == len(keys)
        assert client.statistics().connections == 2
    at_rest(shard)


def test_a_client_that_is_forgotten_takes_its_threads_with_it(shard, trust):
    before = set(threading.enumerate())

    def threads() -> set[threading.Thread]:
        return set(threading.enumerate()) - before

    client = Client(shard.tcps, tls=trust, stripes=2)
    client.put([b"forgotten 1", b"forgotten 2"], [os.urandom(2 * MIB), os.urandom(2 * MIB)])
    assert threads()
    del client
    gc.collect()
    eventually(lambda: not threads(), "its threads end")
    at_rest(shard)


def test_the_collector_may_end_a_client_in_the_middle_of_its_own_step(shard, trust):
    client = Client(shard.tcps, tls=trust)
    client.put([b"collected"], [b"bytes"])
    link = client._link

    def collected() -> None:
        with link._lock, link._first.lock:
            link.end(ClientClosed("collected"), wait=False)

    step = threading.Thread(target=collected, daemon=True)
    step.start()
    step.join(PATIENCE_S)
    assert not step.is_alive()
    client.close()
    at_rest(shard)


def test_a_killed_shard_is_an_error_of_the_calls_under_way_and_no_more(authority, trust):
    chunk = os.urandom(4 * MIB)
    with (
        running_shard(
            listen=["tcps://127.0.0.1:0"], config=table(authority.issue("killed")), devices=["memory:512MiB"]
        ) as shard,
        Client(shard.tcps, tls=trust, timeout_s=PATIENCE_S) as client,
    ):
        keys = [b"%d" % index for index in range(24)]
        client.put(keys, [chunk] * 24)
        outcome: list[object] = []

        def get() -> None:
            try:
                while True:
                    client.get(keys, [bytearray(4 * MIB) for _ in keys])
                    began.set()
            except Unavailable as error:
                outcome.append(error)

        began = threading.Event()
        thread = threading.Thread(target=get)
        thread.start()
        assert began.wait(PATIENCE_S)
        shard.kill()
        thread.join(PATIENCE_S)
        assert len(outcome) == 1
        with pytest.raises(Unavailable):
            client.ping()


def test_a_stop_under_load_is_clean(authority, trust):
    config = table(authority.issue("stopped"))
    with running_shard(listen=["tcps://127.0.0.1:0"], config=config) as shard:
        stopped = threading.Event()

        def work(number: int) -> None:
            keys = [b"%d/%d" % (number, index) for index in range(8)]
            try:
                with Client(shard.tcps, tls=trust, stripes=2) as client:
                    client.put(keys, [bytes(MIB)] * 8)
                    while not stopped.is_set():
                        client.get(keys, [bytearray(MIB) for _ in keys])
            except Unavailable:
                pass

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        with Client(shard.tcps, tls=trust) as client:
            eventually(
                lambda: client.shard_stat()["chunks_got_hot"] + client.shard_stat()["chunks_got_device"] > 30,
                "it is loaded",
            )
        assert shard.stop() == 0
        stopped.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert "fault" not in shard.log.read_text()
        assert "Traceback" not in shard.log.read_text()


def test_certificates_rotate_under_load_without_a_failed_call(tmp_path):
    """S8 on both planes: every client, old and new, is served while the files change under the node."""
    authority = Authority(tmp_path)
    files = authority.issue("rotating")
    config = table(files, "reload_s = 0.05", f"ca = {authority.ca!r}")
    trust = TLS(ca=authority.ca)
    with running_shard(listen=["tcps://127.0.0.1:0"], config=config) as shard:
        chunk = os.urandom(MIB)
        stop = threading.Event()
        errors: list[BaseException] = []
        calls = [0, 0]

        def steady() -> None:
            try:
                with Client(shard.tcps, tls=trust, namespace="steady") as client:
                    client.put([b"k"], [chunk])
                    while not stop.is_set():
                        target = bytearray(MIB)
                        if client.get([b"k"], [target]).count != 1 or target != chunk:
                            raise AssertionError("a miss, or wrong bytes")
                        calls[0] += 1
            except BaseException as error:
                errors.append(error)

        def coming_and_going() -> None:
            try:
                while not stop.is_set():
                    with Client(shard.tcps, tls=trust) as client:
                        client.ping()
                        calls[1] += 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for work in (steady, coming_and_going)]
        for thread in threads:
            thread.start()
        with Client(shard.tcps, tls=trust) as client:
            for wanted in (1, 2, 3):
                authority.issue("rotating")
                eventually(
                    lambda wanted=wanted: client.shard_stat()["tls_certificate_reloads"] >= wanted,
                    "the new certificate is taken in",
                )
            Path(files.key).write_text("nothing")  # what cannot be used changes nothing
            eventually(lambda: client.shard_stat()["tls_certificate_reload_failures"] >= 1, "it is counted")
        at = list(calls)
        eventually(lambda: calls[0] > at[0] and calls[1] > at[1], "both go on")
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
