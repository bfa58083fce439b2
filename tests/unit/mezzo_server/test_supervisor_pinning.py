from __future__ import annotations

from msgspec.structs import replace

from mezzo_server.config import FrontendConfig, MetricsConfig, NodeConfig, ShardConfig
from mezzo_server.supervisor.pinning import pin_addresses, pin_devices

FREE = NodeConfig(
    shard=ShardConfig(listen=["tcp://127.0.0.1:0", "unix:///run/a"], format=True),
    frontend=FrontendConfig(listen="127.0.0.1:0"),
    metrics=MetricsConfig(shard="127.0.0.1:0", frontend="127.0.0.1:0"),
)


def test_a_shard_comes_back_where_it_was() -> None:
    said = {"listen": ["tcp://127.0.0.1:4001", "unix:///run/a"], "metrics": "http://127.0.0.1:4002/metrics"}
    pinned = pin_addresses(FREE, "shard", said)
    assert pinned.shard.listen == said["listen"]
    assert pinned.metrics.shard == "127.0.0.1:4002"
    assert pinned.frontend.shard == "unix:///run/a"
    assert pin_addresses(pinned, "shard", said) == pinned


def test_only_the_first_start_formats() -> None:
    assert not pin_addresses(FREE, "shard", {}).shard.format
    assert pin_addresses(FREE, "frontend", {}).shard.format


def test_a_front_end_comes_back_where_it_was() -> None:
    said = {"listen": "127.0.0.1:5001", "admin": "127.0.0.1:5002", "metrics": "127.0.0.1:5003"}
    pinned = pin_addresses(FREE, "frontend", said)
    assert (pinned.frontend.listen, pinned.frontend.admin_listen) == ("127.0.0.1:5001", "127.0.0.1:5002")
    assert pinned.metrics.frontend == "127.0.0.1:5003"


def test_the_shard_of_the_settings_stays() -> None:
    config = replace(FREE, frontend=FrontendConfig(shard="tcp://10.0.0.1:7700"))
    pinned = pin_addresses(config, "shard", {"listen": ["unix:///run/a"]})
    assert pinned.frontend.shard == "tcp://10.0.0.1:7700"


def test_a_shard_without_a_socket_is_reached_over_tcp() -> None:
    pinned = pin_addresses(FREE, "shard", {"listen": ["tcp://127.0.0.1:4001"]})
    assert pinned.frontend.shard == "tcp://127.0.0.1:4001"


def test_devices_that_came_and_went_are_those_of_the_next_start() -> None:
    config = NodeConfig(shard=ShardConfig(devices=["/a", "memory:1GiB", "b"]))
    pinned = pin_devices(config, {"devices": ["/c", "memory", "b"]})
    assert sorted(pinned.shard.devices) == ["/c", "b", "memory:1GiB"]
    for nothing in ({}, {"devices": []}, {"devices": "x"}):
        assert pin_devices(config, nothing) == config
