"""Chunks used in place, against real shards: no device, no copy, and never a wrong byte."""

import gc
import os
import random
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import mezzo
from mezzo_server.testing import running_shard
from tests.patience import PATIENCE_S, eventually

MIB = 1 << 20
CHILD = Path(__file__).with_name("in_place_child.py")


def hot(total_bytes, *, held_fraction=0.5, arena_bytes="4MiB"):
    return f'[shard.hot]\nbytes = {total_bytes}\narena_bytes = "{arena_bytes}"\nheld_fraction = {held_fraction}\n'


@pytest.fixture(scope="module")
def shard():
    with running_shard(config=hot(32 * MIB)) as shard:
        yield shard


@pytest.fixture
def connect(shard):
    """Makes clients of a namespace that no other test uses."""
    namespace = uuid.uuid4().hex
    return lambda: mezzo.Client(shard.unix, namespace=namespace, timeout_s=PATIENCE_S)


@pytest.fixture
def client(connect):
    with connect() as client:
        yield client


def data_of(key, length=256 * 1024):
    return random.Random(key).randbytes(length)


def put(client, keys, length=256 * 1024):
    assert client.put(keys, [data_of(key, length) for key in keys]).failed == 0


def names(prefix, count):
    return [f"{prefix}-{index}".encode() for index in range(count)]


@contextmanager
def child(client, ttl_s, keys):
    process = subprocess.Popen(
        [
            sys.executable,
            str(CHILD),
            str(client.address),
            client.namespace_name,
            str(ttl_s),
            *(key.decode() for key in keys),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == f"ready {len(keys)}\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_views_are_the_bytes_and_the_device_is_not_asked(client):
    keys = names("k", 12)
    chunks = [data_of(key, 200_001 + index * 500) for index, key in enumerate(keys)]
    client.put(keys, chunks)
    client.acquire(keys, 30.0, in_place=True, load=True).release()
    before = client.shard_stat()
    with client.acquire(keys, 30.0, in_place=True) as lease:
        assert lease.hot == 12
        assert [bytes(view) for view in lease.views] == chunks
        during = client.shard_stat()
        assert during["hot_bytes_held"] >= sum(map(len, chunks))
    after = client.shard_stat()
    for name in ("chunks_got_device", "bytes_got_device"):
        assert after[name] == before[name]
    assert (after["hot_bytes_held"], after["leases"], after["leases_overdue"]) == (0, 0, 0)


def test_two_clients_hold_the_same_slots(connect, client):
    put(client, [b"k"])
    with connect() as other:
        first = client.acquire([b"k"], 30.0, in_place=True)
        second = other.acquire([b"k"], 30.0, in_place=True)
        held = client.shard_stat()["hot_bytes_held"]
        assert bytes(first.views[0]) == bytes(second.views[0]) == data_of(b"k")
        assert first.release()
        assert client.shard_stat()["hot_bytes_held"] == held
        second.check()
    eventually(lambda: client.shard_stat()["hot_bytes_held"] == 0, "a closed client lets go")
    with pytest.raises(mezzo.Gone, match="connection has ended"):
        second.check()


def test_loading_after_a_restart(tmp_path):
    keys = names("k", 40)
    with (
        running_shard(devices=[str(tmp_path / "device")], capacity="128MiB", config=hot(32 * MIB)) as shard,
        mezzo.Client(shard.unix, timeout_s=PATIENCE_S) as client,
    ):
        put(client, keys)
        shard.restart()
        with client.acquire(keys, 30.0, in_place=True) as lease:
            assert (lease.prefix, lease.hot, lease.views) == (40, 0, (None,) * 40)
        with client.acquire([*keys, b"absent"], 30.0, in_place=True, load=True) as lease:
            assert (lease.prefix, lease.hot) == (40, 40)
            assert [bytes(view) for view in lease.views] == [data_of(key) for key in keys]


def mappings():
    gc.collect()
    with open("/proc/self/maps") as maps:
        return sum("memfd:mezzo-hot" in line for line in maps)


def test_a_mapping_is_made_once(client):
    before = mappings()
    put(client, [b"k"])
    for _ in range(3):
        with client.acquire([b"k"], 30.0, in_place=True) as lease:
            assert bytes(lease.views[0]) == data_of(b"k")
    assert mappings() == before + 1
    client.close()
    del lease
    assert mappings() == before


def test_views_outlive_the_client_but_are_not_to_be_believed(connect):
    with connect() as client:
        put(client, [b"k"])
        lease = client.acquire([b"k"], 30.0, in_place=True)
        view = lease.views[0]
    assert len(bytes(view)) == 256 * 1024
    with pytest.raises(mezzo.Gone, match="acquire again"):
        lease.check()


def test_a_killed_client_lets_go(client):
    keys = names("k", 8)
    put(client, keys)
    with child(client, 600, keys) as process:
        assert client.shard_stat()["hot_bytes_held"] >= 8 * 256 * 1024
        process.kill()
        eventually(lambda: client.shard_stat()["hot_bytes_held"] == 0, "a killed client lets go")


def test_an_expired_lease_is_good_while_nobody_wants_the_room(client):
    keys = names("k", 8)
    put(client, keys)
    with child(client, 0.05, keys) as process:
        eventually(lambda: client.shard_stat()["leases_overdue"] == 1, "the lease is overdue")
        assert client.shard_stat()["hot_bytes_overdue"] == 8 * 256 * 1024
        assert process.communicate("go\n", PATIENCE_S)[0] == "fine same\n"
    numbers = client.shard_stat()
    assert (numbers["leases_overdue"], numbers["hot_bytes_held"], numbers["connections_ended_overdue"]) == (
        0,
        0,
        0,
    )


@pytest.fixture
def small():
    """A shard whose hot tier clients may hold as a whole."""
    with running_shard(config=hot(16 * MIB, held_fraction=1.0)) as shard:
        yield shard


def test_a_stopped_client_wakes_to_gone(small):
    """Its lease expires, its slots are wanted, overwritten with others' chunks: it must not believe them.

    In the end the shard is killed, which is `Gone` too.
    """
    with mezzo.Client(small.unix, timeout_s=PATIENCE_S) as client:
        stopped_client(client)
        killed_shard(small, client)


def stopped_client(client):
    keys = names("k", 16)
    put(client, keys)
    with child(client, 0.2, keys) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        eventually(lambda: client.shard_stat()["leases_overdue"] == 1, "the lease is overdue")
        # Others use up the hot tier: each holds a slot in place, until none is left that nobody holds.
        with mezzo.Client(str(client.address), timeout_s=PATIENCE_S) as others:
            filled = []

            def wanted():
                key = b"other-%d" % len(filled)
                put(others, [key])
                filled.append((key, others.acquire([key], 600.0, in_place=True, load=True)))
                return client.shard_stat()["connections_ended_overdue"]

            eventually(wanted, "its connection is ended")
            assert client.shard_stat()["leases_overdue"] == 0
            # Its slots are free now, and the next ones are put into them.
            for turn in range(32):
                key = b"more-%d" % turn
                put(others, [key])
                filled.append((key, others.acquire([key], 600.0, in_place=True, load=True)))
            # Others always get right bytes: in place, from a slot or from the device.
            for key, lease in filled:
                with lease.using() as views:
                    assert views[0] is None or bytes(views[0]) == data_of(key)
            with client.acquire(keys, 30.0, in_place=True) as lease:
                assert (lease.prefix, lease.hot) == (16, 0), "its slots have others' chunks"
            targets = [bytearray(256 * 1024) for _ in keys]
            assert client.get(keys, targets).count == 16
            assert [bytes(target) for target in targets] == [data_of(key) for key in keys]
            assert client.shard_stat()["hot_bytes"] <= 16 * MIB
            process.send_signal(signal.SIGCONT)
            assert process.communicate("go\n", PATIENCE_S)[0] == "gone changed\n"


def killed_shard(shard, client):
    put(client, [b"last"])
    lease = client.acquire([b"last"], 30.0, in_place=True, load=True)
    assert bytes(lease.views[0]) == data_of(b"last")
    shard.kill()
    with pytest.raises(mezzo.Unavailable):
        client.ping()
    with pytest.raises(mezzo.Gone):
        lease.check()
    with pytest.raises(mezzo.Gone):
        lease.release()


def test_a_hot_tier_full_of_leases():
    """Puts and gets go on through the device, nothing is in place any more, nothing grows or hangs."""
    with (
        running_shard(config=hot(8 * MIB, held_fraction=1.0)) as shard,
        mezzo.Client(shard.unix, timeout_s=PATIENCE_S) as client,
    ):
        keys = names("k", 64)
        held = []
        for key in keys:
            put(client, [key])
            held.append(client.acquire([key], 600.0, in_place=True))
        assert held[0].hot == 1
        full = client.shard_stat()
        assert held[-1].hot == 0, "16 MiB are not held in 8"
        assert full["hot_bytes_held"] <= full["hot_bytes"] <= 8 * MIB
        others = names("other", 32)
        put(client, others)
        targets = [bytearray(256 * 1024) for _ in others]
        assert client.get(others, targets).count == 32
        assert [bytes(target) for target in targets] == [data_of(key) for key in others]
        with client.acquire(others, 30.0, in_place=True, load=True) as lease:
            assert (lease.prefix, lease.hot) == (32, 0)
        after = client.shard_stat()
        assert after["hot_bytes"] == full["hot_bytes"]
        assert after["hot_bytes_held"] == full["hot_bytes_held"]
        assert after["connections_ended_overdue"] == 0, "leases that have not expired are kept"
        for key, lease in zip(keys, held, strict=True):
            with lease.using() as views:
                assert views[0] is None or bytes(views[0]) == data_of(key)
            lease.release()
        assert client.shard_stat()["hot_bytes_held"] == 0
        with client.acquire(others, 30.0, in_place=True, load=True) as lease:
            assert lease.hot > 0


def test_only_a_part_of_the_tier_may_be_held():
    with (
        running_shard(config=hot(8 * MIB, held_fraction=0.25)) as shard,
        mezzo.Client(shard.unix, timeout_s=PATIENCE_S) as client,
    ):
        keys = names("k", 16)
        put(client, keys)
        with client.acquire(keys, 30.0, in_place=True) as lease:
            assert 0 < lease.hot <= 8
            assert client.shard_stat()["hot_bytes_held"] <= 2 * MIB


def test_everything_at_once_is_right_or_gone(connect):
    """Clients use chunks in place while others put and delete: what passes the check is right."""
    keys = names("k", 96)  # 24 MiB in 32, of which each may hold a part

    def use(seed):
        draw = random.Random(seed)
        used = gone = 0
        with connect() as client:
            for _ in range(40):
                some = draw.sample(keys, 4)
                try:
                    with client.acquire(some, 10.0, in_place=True, load=draw.random() < 0.5) as lease:
                        read = [view and bytes(view) for view in lease.views]
                except mezzo.Gone:
                    gone += 1
                    continue
                for key, chunk in zip(some, read, strict=False):
                    if chunk is not None:
                        assert chunk == data_of(key)
                        used += 1
        return used

    def churn(seed):
        draw = random.Random(seed)
        with connect() as client:
            for _ in range(60):
                key = draw.choice(keys)
                if draw.random() < 0.4:
                    client.delete([key])
                else:
                    client.put([key], [data_of(key)])

    with connect() as client:
        put(client, keys)
    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use, seed) for seed in range(2)]
        churners = [pool.submit(churn, seed) for seed in range(2)]
        for future in churners:
            future.result()
        assert sum(future.result() for future in users) > 0


def test_without_a_hot_tier_nothing_is_in_place():
    with running_shard() as shard, mezzo.Client(shard.unix) as client:
        put(client, [b"k"])
        with client.acquire([b"k"], 30.0, in_place=True, load=True) as lease:
            assert (lease.prefix, lease.hot, lease.views) == (1, 0, (None,))
