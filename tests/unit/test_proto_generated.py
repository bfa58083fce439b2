"""client/mezzo/v1 is what `make proto` makes of proto/mezzo/v1."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "proto" / "mezzo" / "v1").glob("*.proto"))
GENERATED = ROOT / "client" / "mezzo" / "v1"


def test_generated_files_are_up_to_date(tmp_path):
    versions = {
        tuple(map(int, match.groups()))
        for path in GENERATED.glob("*_pb2.py")
        for match in [re.search(r"Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", path.read_text())]
        if match
    }
    assert len(versions) == 1
    made = subprocess.run(
        ["proto/generate", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    fresh = {path.name: path.read_text() for path in (tmp_path / "mezzo" / "v1").iterdir()}
    assert len(fresh) == 2 * len(PROTOS)
    newer = re.search(r"Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", fresh["store_pb2.py"])
    if tuple(map(int, newer.groups())) not in versions:
        pytest.skip(f"this environment's generator is of another version: {newer.group()}")
    committed = {path.name: path.read_text() for path in GENERATED.iterdir() if "_pb2" in path.name}
    assert committed == fresh, "run make proto"


def test_the_lowest_protobuf_that_is_allowed_runs_what_was_generated():
    text = (GENERATED / "store_pb2.py").read_text()
    generator = tuple(map(int, re.search(r"Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", text).groups()))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in ("grpc", "server"):
        (requirement,) = [text for text in extras[extra] if text.startswith("protobuf")]
        assert tuple(map(int, requirement.removeprefix("protobuf>=").split("."))) >= generator


def test_the_baseline_has_every_file():
    """What it does not have could be changed in any way: `proto/lint` compares with it."""
    from google.protobuf import descriptor_pb2

    image = (ROOT / "proto" / "breaking" / "baseline.binpb").read_bytes()
    had = {file.name for file in descriptor_pb2.FileDescriptorSet.FromString(image).file}
    assert {f"mezzo/v1/{path.name}" for path in PROTOS} <= had, "run proto/lint --baseline"
