"""A client that has the descriptor of an arena cannot change a byte of it, nor its size.

Each trick runs in a process of its own (arena_tricks.py): refused by an error or by a signal, and
afterwards every byte that the shard serves is as it was.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import mezzo
from mezzo_server.testing import running_shard
from tests.integration.arena_tricks import ALLOWED, TRICKS

SCRIPT = Path(__file__).with_name("arena_tricks.py")
KEYS = [b"a-%d" % index for index in range(4)]
CHUNKS = [random.Random(index).randbytes(3 * 65536) for index in range(4)]


@pytest.fixture(scope="module")
def shard():
    with running_shard(config='[shard.hot]\nbytes = "8MiB"\narena_bytes = "1MiB"\n') as shard:
        with mezzo.Client(shard.unix) as client:
            client.put(KEYS, CHUNKS)
            client.acquire(KEYS, 1.0, in_place=True, load=True).release()
        yield shard


@pytest.fixture(scope="module")
def client(shard):
    with mezzo.Client(shard.unix) as client:
        yield client


@pytest.fixture(scope="module")
def attacker(shard):
    """Gets the name of a trick, says what came of it."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), shard.unix, KEYS[0].decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SHARD_PID": str(shard.pid)},
    )
    try:
        assert process.stdout.readline() == "ready 1\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def attempt(attacker, name):
    attacker.stdin.write(name + "\n")
    attacker.stdin.flush()
    return attacker.stdout.readline().strip()


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_changes_nothing(attacker, client, name):
    before = client.shard_stat()
    outcome = attempt(attacker, name)
    if name in ALLOWED:
        assert outcome == "let through"
    else:
        assert outcome.startswith(("refused", "signal")), outcome
    with client.acquire(KEYS, 30.0, in_place=True) as lease:
        assert lease.hot == len(KEYS)
        assert [bytes(view) for view in lease.views] == CHUNKS
    targets = [bytearray(len(chunk)) for chunk in CHUNKS]
    assert client.get(KEYS, targets).count == len(KEYS)
    assert [bytes(target) for target in targets] == CHUNKS
    after = client.shard_stat()
    for number in ("hot_mismatches", "hot_bytes", "chunks_got_device", "hot_bytes_held"):
        assert after[number] == before[number], number


def test_the_shard_itself_can_still_write(client):
    """No trick sealed the memory against its owner."""
    more = random.Random(9).randbytes(3 * 65536)
    assert client.put([b"more"], [more]).failed == 0
    with client.acquire([b"more"], 30.0, in_place=True, load=True) as lease:
        assert bytes(lease.views[0]) == more
