from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo_server.config import Limits, ShardConfig, env_names, load, parse_size


def write(path: Path, text: str) -> Path:
    file = path / "shard.toml"
    file.write_text(text)
    return file


def test_defaults_are_valid() -> None:
    config = load()
    assert config == ShardConfig()
    assert config.limits == Limits()


def test_later_sources_win(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        depth = 7
        workers = 2
        policy = "lru"
        devices = ["/a"]
        [limits]
        requests_max = 9
        keys_max = 100
        """,
    )
    environ = {
        "MEZZO_SHARD_WORKERS": "3",
        "MEZZO_SHARD_LIMITS_KEYS_MAX": "50",
        "MEZZO_SHARD_DEVICES": "/b,/c",
    }
    config = load(path, environ, {"workers": None, "devices": ["/d"], "limits": {"requests_max": 4}})
    assert (config.depth, config.workers, config.policy) == (7, 3, "lru")
    assert config.devices == ["/d"]
    assert (config.limits.requests_max, config.limits.keys_max) == (4, 50)


def test_sizes_are_texts_or_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, 'capacity_bytes = "4GiB"\n[limits]\nstaging_bytes = "512 MiB"\n')
    config = load(path, {"MEZZO_SHARD_SCRUB_BYTES_PER_S": "1MB"})
    assert config.capacity_bytes == 4 << 30
    assert config.limits.staging_bytes == 512 << 20
    assert config.scrub_bytes_per_s == 1_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1k", 1024),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("2M", 2 << 20),
        ("1.5GiB", 3 << 29),
        ("1_000", 1000),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=12))
def test_parse_size_takes_or_refuses(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except InvalidArgument:
        pass


@pytest.mark.parametrize(
    ("text", "named", "near"),
    [("dept = 3", "dept", "depth"), ("[limits]\nrequest_max = 3", "request_max", "requests_max")],
)
def test_unknown_keys_are_refused_with_the_nearest(tmp_path: Path, text: str, named: str, near: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"'{named}'.*'{near}'"):
        load(write(tmp_path, text))


def test_unknown_environment_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="MEZZO_SHARD_LISTEN"):
        load(environ={"MEZZO_SHARD_LISTENS": "x"})
    assert load(environ={"MEZZO_DISABLE": "1", "HOME": "/"}) == ShardConfig()


@pytest.mark.parametrize(
    "text",
    [
        "depth = 0",
        'policy = "best"',
        'capacity_bytes = "many"',
        "listen = []",
        "depth = [",
        "[limits]\nchunk_bytes_max = 200000000",
        '[limits]\nstaging_bytes = "64MiB"',
    ],
)
def test_bad_values_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument):
        load(write(tmp_path, text))


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nowhere"):
        load(tmp_path / "nowhere.toml")


def test_every_key_has_a_variable() -> None:
    names = env_names()
    assert names["MEZZO_SHARD_LIMITS_STALL_TIMEOUT_S"] == ("limits", "stall_timeout_s")
    assert len(names) == len(set(names.values()))


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    for path in env_names().values():
        assert f"`{'.'.join(path)}`" in text, f"docs/operating.md does not list {'.'.join(path)}"
