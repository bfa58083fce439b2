from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo_server.config import Limits, NodeConfig, env_names, keys, load, load_with_origins, parse_duration


def write(path: Path, text: str) -> Path:
    file = path / "node.toml"
    file.write_text(text)
    return file


def test_defaults_are_valid() -> None:
    config = load()
    assert config == NodeConfig()
    assert config.shard.limits == Limits()


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(write(tmp_path, "# nothing\r\n[shard]\r\n")) == NodeConfig()


def test_later_sources_win(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [shard]
        depth = 7
        workers = 2
        policy = "lru"
        devices = ["/a"]
        [shard.limits]
        requests_max = 9
        keys_max = 100
        """,
    )
    environ = {
        "MEZZO_SHARD_WORKERS": "3",
        "MEZZO_SHARD_LIMITS_KEYS_MAX": "50",
        "MEZZO_SHARD_DEVICES": "/b,/c",
    }
    flags = {"shard": {"workers": None, "devices": ["/d"], "limits": {"requests_max": "4"}}}
    loaded = load_with_origins(path, environ, flags, {"shard.devices": "--device"})
    shard = loaded.config.shard
    assert (shard.depth, shard.workers, shard.policy) == (7, 3, "lru")
    assert shard.devices == ["/d"]
    assert (shard.limits.requests_max, shard.limits.keys_max) == (4, 50)
    assert loaded.origins["shard.depth"] == str(path)
    assert loaded.origins["shard.workers"] == "MEZZO_SHARD_WORKERS"
    assert loaded.origins["shard.devices"] == "flag --device"
    assert loaded.origins["shard.limits.leases_max"] == "default"
    assert set(loaded.origins) == set(keys())


def test_sizes_and_durations_are_texts_or_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[shard]\ncapacity_bytes = "4GiB"\n'
        '[shard.limits]\nstaging_bytes = "512 MiB"\nlease_ms_max = "2min"\nstall_timeout_s = "1500ms"\n'
        "[supervisor]\nstart_s = 7\n",
    )
    config = load(path, {"MEZZO_SHARD_SCRUB_BYTES_PER_S": "1MB", "MEZZO_SUPERVISOR_STOP_S": "7.5"})
    assert config.shard.capacity_bytes == 4 << 30
    assert config.shard.limits.staging_bytes == 512 << 20
    assert config.shard.limits.lease_ms_max == 120_000
    assert config.shard.limits.stall_timeout_s == 1.5
    assert config.shard.scrub_bytes_per_s == 1_000_000
    assert (config.supervisor.start_s, config.supervisor.stop_s) == (7.0, 7.5)


def test_lists_and_truths_from_the_environment() -> None:
    environ = {
        "MEZZO_SHARD_LISTEN": "unix:///a, tcp://127.0.0.1:1,",
        "MEZZO_FRONTEND_ENABLED": "False",
        "MEZZO_SHARD_FORMAT": "1",
        "MEZZO_METRICS_SHARD": "",
    }
    config = load(environ=environ)
    assert config.shard.listen == ["unix:///a", "tcp://127.0.0.1:1"]
    assert (config.frontend.enabled, config.shard.format) == (False, True)
    assert config.metrics.shard == ""


def test_other_variables_are_none_of_ours() -> None:
    environ = {
        "MEZZO_DISABLE": "1",
        "MEZZO_ADDRESS": "unix:///x",
        "HOME": "/",
        # Kubernetes, in every pod beside a service named mezzo-shard
        "MEZZO_SHARD_SERVICE_HOST": "10.0.0.1",
        "MEZZO_SHARD_SERVICE_PORT": "7700",
        "MEZZO_SHARD_SERVICE_PORT_DATA": "7700",
        "MEZZO_SHARD_PORT": "tcp://10.0.0.1:7700",
        "MEZZO_SHARD_PORT_7700_TCP_ADDR": "10.0.0.1",
    }
    assert load(environ=environ) == NodeConfig()


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5.0), ("500ms", 0.5), ("1.5h", 5400.0), ("2 min", 120.0), ("1d", 86400.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.text(max_size=12))
def test_durations_are_taken_or_refused(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except InvalidArgument:
        pass


def test_every_key_has_a_variable_of_its_own() -> None:
    names = env_names()
    assert names["MEZZO_SHARD_LIMITS_STALL_TIMEOUT_S"] == ("shard", "limits", "stall_timeout_s")
    assert len(names) == len(set(names.values())) == len(keys())


def test_every_key_is_explained() -> None:
    assert [key.name for key in keys().values() if len(key.meaning) < 10] == []


@pytest.mark.parametrize("key", keys().values(), ids=lambda key: key.name)
def test_every_default_can_be_written_down(tmp_path: Path, key: object) -> None:
    """What documents show as default means the default, in a file and in a variable."""
    key = keys()[key.name]  # type: ignore[attr-defined]
    shown = key.shown(key.default)
    if key.is_list:
        shown = ",".join(key.default)  # type: ignore[arg-type]
    config = load(environ={key.variable: shown})
    assert config == NodeConfig()


def test_a_process_minds_its_own_addresses_only(tmp_path: Path) -> None:
    path = write(
        tmp_path, "[shard]\nlisten = ['tcp://127.0.0.1:7710']\n[metrics]\nshard = '127.0.0.1:7722'\n"
    )
    assert load_with_origins(path, process="shard").config.metrics.shard == "127.0.0.1:7722"
    assert load_with_origins(path, process="frontend").config.frontend.enabled
    with pytest.raises(InvalidArgument, match=r"frontend\.listen and shard\.listen"):
        load(path)
    path.write_text(path.read_text() + "frontend = '127.0.0.1:9000'\n[frontend]\nenabled = false\n")
    assert not load(path).frontend.enabled
