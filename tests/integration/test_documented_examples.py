"""The examples of the guide run against a real shard, and pass the type checker (`make lint`)."""

import runpy
from pathlib import Path

import pytest

from mezzo_server.testing import running_shard

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EXPECTED = {
    "first_steps.py": "4 of 5 chunks are there",
    "engine_load.py": "loaded 3 of 4 chunks",
    "in_place.py": "loaded 4 of 4 chunks",
    "namespaces.py": "0 chunks in Llama-3.1-8B-fp8-",
    "layers.py": "layers 24 to 31: 131072 bytes",
    "follow_events.py": "present: []",
    "asynchronous.py": "64 chunks loaded",
    "testing_with_a_fake.py": "passed",
}


@pytest.fixture(scope="module")
def shard():
    with running_shard(config='[shard.hot]\nbytes = "32MiB"\narena_bytes = "1MiB"\n') as shard:
        yield shard


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example(name, shard, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, shard.unix])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert EXPECTED[name] in capsys.readouterr().out
