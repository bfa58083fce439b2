"""A real shard whose devices come and go under load: through the SDK and the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import mezzo
from mezzo import Client, DeviceAction, DeviceState
from tests.integration.nursery import run_mezzo
from tests.patience import PATIENCE_S, eventually

CHUNK_BYTES = 200_000
COUNT = 100


def content(key: bytes) -> bytes:
    return (hashlib.sha256(key).digest() * (CHUNK_BYTES // 32 + 1))[:CHUNK_BYTES]


class Server:
    """One `mezzo shard` process over files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/s.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *devices: str, drain_bytes_per_s: int = 0) -> None:
        config = self.folder / "mezzo.toml"
        names = json.dumps([str(self.folder / name) for name in devices])
        config.write_text(
            f'[shard]\nlisten = ["{self.address}"]\ndevices = {names}\ncapacity_bytes = 67108864\n'
            f"segment_bytes = 4194304\nscrub_bytes_per_s = 0\ndrain_bytes_per_s = {drain_bytes_per_s}\n"
            '[shard.limits]\nchunk_bytes_max = 1048576\n[metrics]\nshard = ""\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mezzo.cli", "shard", "--config", str(config), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process = self.process
        with Client(self.address) as client:

            def serves() -> bool:
                try:
                    return client.ping() > 0
                except mezzo.Unavailable:
                    return False

            eventually(lambda: process.poll() is not None or serves(), "it serves")
        if process.poll() is not None:
            raise AssertionError(self.end())

    def end(self, *, kill: bool = False) -> str:
        """Standard error of the process that ended."""
        if self.process is None:
            return ""
        process, self.process = self.process, None
        if process.poll() is None:
            (process.kill if kill else process.terminate)()
        return process.communicate(timeout=PATIENCE_S)[1].decode()

    def device(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`mezzo device ...`"""
        paths = [str(self.folder / word) if word.startswith("dev-") else word for word in arguments]
        return run_mezzo("device", *paths, "--address", self.address)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    yield one
    one.end(kill=True)


class Load:
    """Threads that put and get all the time, and compare every byte."""

    def __init__(self, address: str) -> None:
        self.wrong: list[bytes] = []
        self.errors: list[Exception] = []
        self._address = address
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not self.wrong
        assert not self.errors, self.errors

    def _run(self, number: int) -> None:
        with Client(self._address) as client:
            turn = 0
            while not self._ends.is_set():
                key = b"load-%d-%d" % (number, turn % 12)
                turn += 1
                try:
                    client.put([key], [content(key)])
                    read_back(client, [key], self.wrong)
                except mezzo.Busy:
                    continue
                except mezzo.MezzoError as error:
                    self.errors.append(error)
                    return


def read_back(client: Client, keys: list[bytes], wrong: list[bytes]) -> int:
    """How many keys are there."""
    found = 0
    for key in keys:
        target = bytearray(CHUNK_BYTES)
        if client.get([key], [target]).found[0]:
            found += 1
            if bytes(target) != content(key):
                wrong.append(key)
    return found


def fill(address: str) -> list[bytes]:
    keys = [b"key-%d" % number for number in range(COUNT)]
    with Client(address) as client:
        for key in keys:
            client.put([key], [content(key)])
    return keys


def check(server: Server, keys: list[bytes]) -> None:
    """All are there, and right."""
    wrong: list[bytes] = []
    with Client(server.address) as client:
        assert read_back(client, keys, wrong) == len(keys)
    assert not wrong


def test_devices_change_under_load(server: Server) -> None:
    server.start("dev-a")
    keys = fill(server.address)
    with Load(server.address):
        added = server.device("add", "dev-b", "--capacity", "128MiB")
        assert added.returncode == 0, added.stderr
        assert "devices = [" in added.stderr
        drained = server.device("drain", "dev-a")
        assert drained.returncode == 0, drained.stderr
        assert "drain done" in drained.stderr
        grown = server.device("grow", "dev-b", "--capacity", "192MiB")
        assert grown.returncode == 0, grown.stderr
        replaced = server.device("replace", "dev-b", "dev-c", "--capacity", "256MiB", "--json")
        assert replaced.returncode == 0, replaced.stderr
        assert json.loads(replaced.stdout)["devices"] == [str(server.folder / "dev-c")]
    listed = json.loads(server.device("list", "--json").stdout)
    assert [(Path(one["name"]).name, one["state"]) for one in listed] == [
        ("dev-c", "serving"),
        ("dev-a", "gone"),
        ("dev-b", "gone"),
    ]
    check(server, keys)
    server.end(kill=True)
    with pytest.raises(
        AssertionError, match=r"dev-a.*took it out of its store; remove it from \[shard\] devices"
    ):
        server.start("dev-a")
    server.start("dev-c")
    check(server, keys)


def test_a_shard_that_is_killed_during_a_drain(server: Server) -> None:
    server.start("dev-a", "dev-b", drain_bytes_per_s=1_000_000)
    keys = fill(server.address)
    begun = server.device("drain", "dev-a", "--no-wait")
    assert begun.returncode == 0, begun.stderr
    with Client(server.address) as client:

        def moving() -> DeviceState | None:
            (one,) = (one for one in client.devices() if one.name.endswith("dev-a"))
            return one if one.change_bytes_done else None

        drained = eventually(moving, "chunks move")
        assert (drained.state, drained.change_state) == ("draining", "running")
        assert drained.change_bytes_done < drained.change_bytes
    server.end(kill=True)
    server.start("dev-a", "dev-b")
    check(server, keys)
    with Client(server.address) as client:
        assert {one.state for one in client.devices()} == {"serving"}
    assert server.device("drain", "dev-a").returncode == 0
    check(server, keys)


def test_refusals(server: Server) -> None:
    server.start("dev-a")
    for arguments, words in (
        (("drain", "dev-a"), "the last one"),
        (("drain", "dev-z"), "has no device"),
        (("cancel", "dev-a"), "not being drained"),
        (("add", "dev-a"), "part of the store already"),
        (("grow", "dev-a", "--capacity", "1MiB"), "cannot shrink"),
        (("grow", "dev-a"), "whole segments"),
        (("add", "dev-small", "--capacity", "1MiB"), "are the least"),
        (("add", "nowhere/at/all", "--capacity", "64MiB"), "nowhere"),
    ):
        refused = server.device(*arguments)
        assert refused.returncode == 2, arguments
        assert words in refused.stderr, refused.stderr
    assert not (server.folder / "dev-small").exists(), "a file that was made for nothing is removed"
    (server.folder / "dev-held").write_bytes(os.urandom(64 << 20))
    held = server.device("add", "dev-held")
    assert "--format" in held.stderr
    with Client(server.address) as client:
        with pytest.raises(mezzo.InvalidArgument, match="absolute path"):
            client.change_device(DeviceAction.ADD, "relative")
        with pytest.raises(mezzo.InvalidArgument, match="last one"):
            client.change_device(DeviceAction.DRAIN, str(server.folder / "dev-a"))
