"""`mezzo check` as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mezzo_server.blockstore.format.superblock import DATA_OFFSET
from mezzo_server.cli import register
from tests.unit.mezzo_server.blockstore_format.driver import Driver, device_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    device = device_of()
    driver = Driver(device)
    driver.put([b"a key"])
    driver.close()
    result = tmp_path / "device"
    result.write_bytes(device.memory.view)
    return result


def check(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["check", *arguments])
    return result.exit_code, result.stdout


def test_a_whole_device(path: Path) -> None:
    code, output = check(str(path))
    assert code == 0
    assert "ok" in output
    code, output = check(str(path), "--json")
    assert code == 0
    found = json.loads(output)
    assert found["ok"] is True
    assert found["devices"][0]["chunks"] == 1


def test_a_rotten_device(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[DATA_OFFSET + 2 * 4096] ^= 1
    path.write_bytes(data)
    code, output = check(str(path))
    assert code == 1
    assert b"a key".hex() in output
    code, output = check(str(path), "--json")
    assert code == 1
    (problem,) = json.loads(output)["devices"][0]["problems"]
    assert (problem["segment"], problem["block"], problem["key"]) == (0, 2, b"a key".hex())
