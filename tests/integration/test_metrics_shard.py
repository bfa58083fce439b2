"""A running node's metrics agree with what was done to it."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import mezzo
from mezzo.cli.app import make_app, run
from mezzo_server.metrics.catalog import catalogue
from mezzo_server.testing import running_node, running_shard
from tests.integration.nursery import run_mezzo
from tests.patience import eventually

CHUNK_BYTES = 100_000
Told = Mapping[tuple[str, ...], float]


def scrape(address: object) -> Told:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    told: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            told[(one.name, *one.labels.values())] = one.value
    return told


def health(address: object) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def payload(number: int) -> bytes:
    return number.to_bytes(4, "little") * (CHUNK_BYTES // 4)


def get(client: mezzo.Client, keys: list[bytes]) -> list[int]:
    into = [bytearray(CHUNK_BYTES) for _ in keys]
    return [at for at, found in enumerate(client.get(keys, into).found) if found]


@pytest.mark.parametrize("hot", ["0", "16MiB"])
def test_counts_agree_with_what_was_done(hot: str) -> None:
    keys = [b"key %d" % number for number in range(20)]
    config = f'[shard.hot]\nbytes = "{hot}"\narena_bytes = "1MiB"\n'
    with running_shard(config=config) as shard:
        address = shard.readiness["metrics"]
        before = scrape(address)
        stop = threading.Event()
        scraped: list[Told] = []

        def keep_scraping() -> None:
            while not stop.is_set():
                scraped.append(scrape(address))

        thread = threading.Thread(target=keep_scraping)
        thread.start()
        try:
            with mezzo.Client(shard.unix) as shm, mezzo.Client(shard.tcp) as tcp:
                shm.put(keys[:10], [payload(number) for number in range(10)])
                tcp.put(keys[10:15], [payload(number) for number in range(10, 15)])
                assert get(shm, keys) == list(range(15))
                assert get(tcp, keys[10:]) == list(range(5))
                shm.lookup(keys)
                shm.delete(keys[:2])
                lease = shm.acquire(keys[2:4], 60)
                with pytest.raises(mezzo.TooLarge):
                    shm.get(keys[2:3], [bytearray(10)])
                told = scrape(address)
                numbers = shm.shard_stat()
                lease.release()
        finally:
            stop.set()
            thread.join()
    tiers = {tier: told["mezzo_shard_get_chunks_total", tier] for tier in ("hot", "device", "miss")}
    assert tiers["hot"] + tiers["device"] == 20
    assert tiers["miss"] == 10
    assert bool(tiers["hot"]) == (hot != "0")
    found_bytes = sum(told["mezzo_shard_get_bytes_total", tier] for tier in ("hot", "device"))
    assert found_bytes == 20 * CHUNK_BYTES
    assert told["mezzo_shard_payload_received_bytes_total", "shm"] == 10 * CHUNK_BYTES
    assert told["mezzo_shard_payload_received_bytes_total", "tcp"] == 5 * CHUNK_BYTES
    assert told["mezzo_shard_payload_sent_bytes_total", "shm"] == 15 * CHUNK_BYTES
    assert told["mezzo_shard_payload_sent_bytes_total", "tcp"] == 5 * CHUNK_BYTES
    assert told["mezzo_shard_put_chunks_total",] == 15
    assert told["mezzo_shard_deleted_chunks_total",] == 2
    assert told["mezzo_shard_chunks",] == 13
    assert told["mezzo_shard_leases",] == 1
    assert told["mezzo_shard_leased_bytes",] == 2 * CHUNK_BYTES
    assert told["mezzo_shard_connections",] == 2
    assert told["mezzo_shard_requests_total", "put", "ok"] == 2
    assert told["mezzo_shard_requests_total", "lookup", "ok"] == 1
    assert told["mezzo_shard_requests_total", "get", "error"] == 1
    assert told["mezzo_shard_errors_total", "too_large"] == 1
    gets = told["mezzo_shard_request_duration_seconds_count", "get"]
    assert gets == sum(told["mezzo_shard_requests_total", "get", outcome] for outcome in ("ok", "error"))
    spent = told["mezzo_shard_request_duration_seconds_sum", "put"]
    device = told["mezzo_shard_request_device_seconds_sum", "put"]
    own = told["mezzo_shard_request_own_seconds_total", "put"]
    assert 0 < device < spent
    assert own == pytest.approx(spent - device, abs=1e-5)
    assert told["mezzo_shard_segments", "free"] > 0
    assert told["mezzo_shard_resident_memory_bytes",] > 1 << 20
    assert {name for name, value in before.items() if value and name[0].endswith("_total")} <= {
        (name, *labels) for name, *labels in told
    }
    assert sum(before[key] for key in before if key[0] == "mezzo_shard_requests_total") == 0
    assert len(scraped) > 0
    _only_rises([before, *scraped])
    # What the client was told is what was exported.
    assert numbers["chunks_missed"] == 10
    assert numbers["requests_put"] == 2
    missing = {value for metric in catalogue()["shard"] for value in _numbers_of(metric)} - set(numbers)
    assert missing == {"loop_stalled"}


def _numbers_of(metric: object) -> list[str]:
    values = getattr(getattr(metric, "source", None), "values", ())
    return [name for value in values for name in (*value.plus, *value.minus)]


def _only_rises(samples: list[Told]) -> None:
    for one, next_one in pairwise(samples):
        for name, value in one.items():
            if name[0].startswith("mezzo") and name[0].endswith(("_total", "_count", "_bucket")):
                assert next_one[name] >= value, name


def test_a_corrupt_chunk_is_counted_at_each_stage(tmp_path: Path) -> None:
    device = tmp_path / "device"
    with running_shard(devices=[str(device)], capacity="64MiB") as shard:
        with mezzo.Client(shard.unix) as client:
            client.put([b"a", b"b"], [payload(0x11223344), payload(0x55667788)])
            _corrupt(device, payload(0x55667788)[:4096])
            assert get(client, [b"a", b"b"]) == [0]
        told = scrape(shard.readiness["metrics"])
    stages = {
        stage: told["mezzo_shard_checksum_failures_total", stage] for stage in ("seen", "confirmed", "hot")
    }
    assert stages == {"seen": 1, "confirmed": 1, "hot": 0}
    assert told["mezzo_shard_lost_chunks_total",] == 1
    assert told["mezzo_shard_get_chunks_total", "miss"] == 1
    assert told["mezzo_shard_device_fenced", str(device)] == 0


def _corrupt(device: Path, block: bytes) -> None:
    at = device.read_bytes().index(block)
    fd = os.open(device, os.O_RDWR)
    try:
        os.pwrite(fd, b"\xff", at + 100)
        os.fsync(fd)
    finally:
        os.close(fd)


def test_a_port_in_use_keeps_it_from_starting() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ("shard", "--device", "memory:64MiB", "--listen", "tcp://127.0.0.1:0")
        ended = run_mezzo(*command, "--metrics", address)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == f"mezzo: metrics.shard: cannot listen on {address}: Address already in use\n"


def test_every_process_of_a_node_has_its_own() -> None:
    # Long enough between two looks to be seen as not ready.
    with running_node(hot="64MiB", config="[supervisor]\nbackoff_s_min = 1.5\n") as node:
        with mezzo.Client(node.unix) as client:
            client.put([b"a"], [payload(1)])
        addresses = node.metrics
        assert set(addresses) == {"shard", "frontend", "supervisor"}
        assert scrape(addresses["shard"])["mezzo_shard_put_chunks_total",] == 1
        frontend = scrape(addresses["frontend"])
        assert frontend["mezzo_frontend_serving",] == 1
        assert frontend["mezzo_frontend_calls_total", "Put"] == 0
        assert scrape(addresses["supervisor"])["mezzo_supervisor_part_ready", "shard"] == 1
        assert health(addresses["supervisor"]) == 200
        node.kill_shard()
        eventually(lambda: health(addresses["supervisor"]) == 503, "a node without its shard says so")
        node.wait_until_ready()
        assert scrape(addresses["supervisor"])["mezzo_supervisor_part_restarts_total", "shard"] == 1
        assert health(addresses["supervisor"]) == 200
        told = scrape(addresses["shard"])
        assert told["mezzo_shard_put_chunks_total",] == 0, "it counts from its own start"


def test_top_prints_frames_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    with running_shard() as shard:
        with mezzo.Client(shard.unix) as client:
            client.put([b"a"], [payload(1)])
        base = ["top", "--server", shard.unix, "--interval", "0.1"]
        assert run(make_app, [*base, "--once"]) == 0
        frame = capsys.readouterr().out
        assert "hit rate" in frame
        assert "serving" in frame
        assert "device 0" in frame
        assert run(make_app, [*base, "--json", "--count", "2"]) == 0
        lines = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
        assert len(lines) == 2
        assert lines[0]["numbers"]["chunks_put"] == 1
        assert lines[1]["requests_per_s"] > 0
        assert run(make_app, base) == 2
        assert "--once or --json" in capsys.readouterr().err
    assert run(make_app, [*base, "--once"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert shard.unix.removeprefix("unix://") in said.err
