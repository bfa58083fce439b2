"""A node as a whole: it starts, comes back after crashes of its parts, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from mezzo import Client
from mezzo.errors import MezzoError
from mezzo_server.testing import RunningNode, running_node
from tests.integration.chunks import chunks, reads_back
from tests.integration.nursery import run_mezzo
from tests.patience import PATIENCE_S, eventually


def exists(pid: int) -> bool:
    """Whether a process is there, and has not ended already."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def events(node: RunningNode, event: str) -> list[dict[str, object]]:
    lines = [line for line in node.log.read_bytes().splitlines() if line.startswith(b"{")]
    decoded = [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
    return [line for line in decoded if line["event"] == event]


def warnings(node: RunningNode) -> list[dict[str, object]]:
    lines = [line for line in node.log.read_bytes().splitlines() if line.endswith(b"}")]
    decoded = [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
    return [line for line in decoded if line["level"] == "warning"]


@pytest.fixture
def device(tmp_path: Path) -> str:
    return str(tmp_path / "device")


def test_a_node_starts_serves_and_stops(device: str) -> None:
    with running_node(
        devices=[device], capacity="64MiB", hot="8MiB", config="[shard.hot]\narena_bytes = '4MiB'\n"
    ) as node:
        pids = (node.pid, node.shard_pid, node.frontend_pid)
        assert len({*pids}) == 3
        assert msgspec.convert(node.readiness["shard"], dict[str, object])["pid"] == node.shard_pid
        assert set(node.metrics) == {"shard", "frontend", "supervisor"}
        stored = chunks(0, 20, 20_000)
        for address, via in ((node.unix, "auto"), (node.tcp, "auto"), (node.grpc, "proxy")):
            with Client(address, via=via) as client:
                client.put(list(stored), list(stored.values()))
                assert reads_back(client, stored) == 20
        os.kill(node.pid, signal.SIGHUP)
        eventually(lambda: any("SIGHUP" in str(line["event"]) for line in warnings(node)), "it says so")
        assert all(map(exists, pids))
        for _ in range(5):
            os.kill(node.pid, signal.SIGTERM)  # more than one changes nothing
        assert node.stop() == 0
        assert not any(map(exists, pids))
        stopped = [line["part"] for line in events(node, "a process has stopped")]
        assert stopped == ["frontend", "shard"]
        assert not Path(node.unix.removeprefix("unix://")).exists()
        node.start()
        with Client(node.unix) as client:
            assert reads_back(client, stored) == 20


def goes_on(done: dict[str, int]) -> None:
    """Wait until both clients have done something more."""
    before = dict(done)
    eventually(
        lambda: all(done.get(via, 0) > before.get(via, 0) for via in ("direct", "proxy")), "both go on"
    )


def test_a_shard_killed_under_load_comes_back_with_what_it_had(device: str) -> None:
    """Clients go on, directly and through the front-end, which is the same process as before."""
    with running_node(devices=[device], capacity="128MiB") as node:
        before = chunks(0, 200, 20_000)
        with Client(node.unix) as client:
            assert client.put(list(before), list(before.values())).stored == 200
        done: dict[str, int] = {}
        stop = threading.Event()

        def load(address: str, via: str) -> None:
            with Client(address, via=via, timeout_s=5) as client:
                number = 0
                while not stop.is_set():
                    number += 1
                    mine = chunks(1000 + number, 3, 20_000)
                    try:
                        client.put(list(mine), list(mine.values()))
                        reads_back(client, mine)
                        reads_back(client, dict(random.Random(number).sample(sorted(before.items()), 5)))
                    except MezzoError:
                        time.sleep(0.01)  # the store is away; the caller goes on without it
                        continue
                    done[via] = done.get(via, 0) + 1

        threads = [
            threading.Thread(target=load, args=(node.unix, "direct")),
            threading.Thread(target=load, args=(node.grpc, "proxy")),
        ]
        for thread in threads:
            thread.start()
        try:
            frontend = node.frontend_pid
            for _ in range(2):
                goes_on(done)
                node.kill_shard()
                node.wait_until_ready()
            goes_on(done)
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert node.frontend_pid == frontend
        with Client(node.tcp) as client:
            assert reads_back(client, before) == 200
        restarts = events(node, "a process ended and is started again")
        assert [(line["part"], line["status"]) for line in restarts] == [("shard", "SIGKILL")] * 2


def test_a_front_end_killed_comes_back_at_its_address() -> None:
    with running_node() as node, Client(node.unix) as direct, Client(node.grpc, via="proxy") as proxied:
        address, shard = node.grpc, node.shard_pid
        stored = chunks(0, 10, 20_000)
        assert proxied.put(list(stored), list(stored.values())).stored == 10
        node.kill_frontend()
        assert reads_back(direct, stored) == 10
        node.wait_until_ready()
        assert node.grpc == address
        assert node.shard_pid == shard

        def served() -> bool:
            try:
                return reads_back(proxied, stored) == 10
            except MezzoError:
                return False

        eventually(served, "the proxied client goes on")


def test_a_device_that_was_added_is_there_after_a_restart(device: str) -> None:
    added = f"{device}-2"
    with running_node(devices=[device], capacity="64MiB", frontend=False) as node:
        done = run_mezzo("device", "add", added, "--capacity", "64MiB", "-a", node.unix)
        assert done.returncode == 0, done
        stored = chunks(0, 100, 20_000)
        with Client(node.unix) as client:
            assert client.put(list(stored), list(stored.values())).stored == 100
            node.kill_shard()
            node.wait_until_ready()
        with Client(node.unix) as client:
            assert {state.name for state in client.devices()} == {device, added}
            assert reads_back(client, stored) == 100


def test_a_supervisor_killed_takes_its_processes_along(device: str) -> None:
    with running_node(devices=[device], capacity="64MiB") as node:
        stored = chunks(0, 10, 20_000)
        with Client(node.unix) as client:
            assert client.put(list(stored), list(stored.values())).stored == 10
        pids = (node.shard_pid, node.frontend_pid)
        os.kill(node.shard_pid, signal.SIGSTOP)  # not even a stopped one stays
        os.kill(node.pid, signal.SIGKILL)
        eventually(lambda: not any(exists(pid) for pid in pids), "no process is left")
        node.kill()
        node.start()
        with Client(node.unix) as client:
            assert reads_back(client, stored) == 10


def serve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``serve`` where it must not come up; what it said."""
    return run_mezzo("serve", *arguments, environ=environ)


def fails(said: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that has these words, and exit status 2."""
    assert said.returncode == 2, said
    assert said.stdout == ""
    assert said.stderr.count("\n") == 1, said.stderr
    for word in words:
        assert word in said.stderr


def test_a_node_that_cannot_start_says_why_in_one_line(tmp_path: Path, device: str) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[shard]\ndept = 1\n")
    fails(serve("--config", str(config)), "'dept'", "'depth'", "node.toml")
    fails(serve(), "--device")
    # These are noticed by the shard, and by the front-end: the supervisor does not try for ever.
    fails(serve("--device", "memory:64MiB", "--listen", "unix:///nowhere/at/all"), "nowhere")
    with running_node(devices=[device], capacity="64MiB") as node:
        fails(serve("--device", device, "--listen", "tcp://127.0.0.1:0"), device, "another process")
        taken = node.grpc.removeprefix("grpc://")
        fails(serve("--device", "memory:64MiB", "--listen", f"unix://{tmp_path}/s", "--grpc", taken), taken)
        assert node.is_alive()


def test_what_it_says_to_people(tmp_path: Path) -> None:
    flags = ["--device", "memory:64MiB", "--listen", f"unix:///tmp/mezzo-test-{os.getpid()}", "--no-frontend"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mezzo_server", "serve", *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = []
    while not lines or "metrics" not in lines[-1]:
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    text = "".join(lines)
    for word in ("mezzo node ready in", "mezzo shard ready", "listens on  unix:///tmp/", "memory"):
        assert word in text
