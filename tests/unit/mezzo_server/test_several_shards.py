"""What each shard of a node of several gets of its settings, and what the front-end hears of them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mezzo.errors import InvalidArgument
from mezzo_server.config import (
    FrontendConfig,
    HotConfig,
    Limits,
    MetricsConfig,
    NodeConfig,
    PodConfig,
    ShardConfig,
    SupervisorConfig,
    TlsConfig,
)
from mezzo_server.config.memory import check_hot, node_memory, told
from mezzo_server.config.rules import check_together
from mezzo_server.config.several import numbered, shard_settings
from mezzo_server.config.shards import parse_shard
from mezzo_server.machine.memory import MemorySeen
from mezzo_server.supervisor.devices import Dealt
from mezzo_server.supervisor.settings import ProcessSettings

MIB = 1 << 20


def node(count: int = 2, **tables: object) -> NodeConfig:
    shard = ShardConfig(listen=["unix:///run/mezzo.sock", "tcp://127.0.0.1:7700"])
    return replace(NodeConfig(shard=shard, supervisor=SupervisorConfig(shards=count)), **tables)


def test_addresses_are_numbered_and_metrics_pass_over_what_is_taken():
    second = shard_settings(node(), 1)
    assert second.shard.listen == ["unix:///run/mezzo.sock.1", "tcp://127.0.0.1:7701"]
    metrics = [shard_settings(node(4), number).metrics.shard for number in range(4)]
    # 7722 is the front-end's
    assert metrics == ["127.0.0.1:7721", "127.0.0.1:7723", "127.0.0.1:7724", "127.0.0.1:7725"]
    assert numbered("tcps://[::1]:0", 3) == "tcps://[::1]:0"
    assert (
        shard_settings(node(2, metrics=MetricsConfig(shard="127.0.0.1:0")), 1).metrics.shard == "127.0.0.1:0"
    )
    with pytest.raises(InvalidArgument, match="no port 65536"):
        numbered("tcp://127.0.0.1:65535", 1)


def test_what_a_pod_is_told_is_numbered_too():
    config = node(3, pod=PodConfig(advertise=["tcp://gpu-1:9000"]))
    assert [shard_settings(config, number).pod.advertise for number in (0, 2)] == [
        ["tcp://gpu-1:9000"],
        ["tcp://gpu-1:9002"],
    ]


def test_memory_threads_and_rates_are_divided():
    shard = ShardConfig(
        workers=8,
        scrub_bytes_per_s=16 * MIB,
        drain_bytes_per_s=0,
        hot=HotConfig(bytes=1024 * MIB),
        limits=Limits(staging_bytes=512 * MIB, leased_chunks_max=1000),
    )
    one = shard_settings(node(4, shard=shard, tls=TlsConfig(threads=2)), 3)
    assert (one.shard.workers, one.tls.threads) == (2, 1)
    assert (one.shard.scrub_bytes_per_s, one.shard.drain_bytes_per_s) == (4 * MIB, 0)
    assert one.shard.hot.bytes == 256 * MIB
    assert one.shard.limits.staging_bytes == 128 * MIB
    assert one.shard.limits.leased_chunks_max == 250
    assert one.shard.limits.connections_max == shard.limits.connections_max


def test_a_shard_always_has_memory_for_a_chunk():
    config = node(64)
    limits = shard_settings(config, 63).shard.limits
    assert limits.staging_bytes == limits.staging_connection_bytes_max == limits.chunk_bytes_max
    check_together(replace(shard_settings(config, 63), supervisor=SupervisorConfig()), "shard")


def test_parts_of_memory_are_whole_huge_pages():
    limits = Limits(staging_bytes=500 * MIB, staging_connection_bytes_max=64 * MIB)
    shard = ShardConfig(store_staging_bytes=100 * MIB, limits=limits)
    one = shard_settings(node(3, shard=shard), 0).shard
    assert one.limits.staging_bytes == 166 * MIB
    assert one.store_staging_bytes == 32 * MIB
    # What is smaller than one is as small as it is.
    small = replace(shard, store_staging_bytes=3 * MIB)
    assert shard_settings(node(2, shard=small), 0).shard.store_staging_bytes == 3 * MIB // 2


def test_what_the_settings_let_a_node_take_is_the_sum_of_what_its_shards_take():
    hot = HotConfig(bytes=1024 * MIB, arena_bytes=64 * MIB)
    shard = ShardConfig(hot=hot, limits=Limits(staging_bytes=512 * MIB, events_bytes_max=64 * MIB))
    memory = node_memory(node(3, shard=shard))
    one = memory.shards[0]
    assert memory.shards == (one,) * 3
    assert one.hot_bytes == 5 * 64 * MIB, "whole arenas"
    assert one.staging_bytes == 170 * MIB
    # Not a third of 64 MiB: room for the longest chunk, encrypted, however many shards there are.
    assert one.store_bytes == 136 * MIB
    assert one.events_bytes == 64 * MIB // 3
    assert memory.total_bytes > 3 * one.total_bytes > 3 * one.registered_bytes
    assert memory.registered_bytes == 3 * (320 + 170 + 136) * MIB
    assert "each of 3 shards" in told(memory)
    assert told(node_memory(node(1))).startswith("the shard ")


def test_the_hot_tiers_of_all_shards_are_not_more_than_there_is():
    check_hot(4 * MIB, MemorySeen(4 * MIB, 4 * MIB, None))
    check_hot(4 * MIB, MemorySeen(0, 0, None))
    with pytest.raises(InvalidArgument, match="more memory than this machine or its control group gives"):
        check_hot(4 * MIB, MemorySeen(8 * MIB, 8 * MIB, 3 * MIB))


def test_one_shard_gets_the_settings_as_they_are():
    config = node(1)
    assert shard_settings(config, 0) is config
    settings = ProcessSettings(config)
    assert settings.shards == ("shard",)
    settings.ready("shard", {"listen": ["tcp://127.0.0.1:4001"]})
    assert settings.of("frontend").frontend.shard == "tcp://127.0.0.1:4001"
    assert settings.of("frontend").frontend.shards == []


def test_every_shard_keeps_what_it_took_and_the_front_end_hears_of_it():
    frontend = FrontendConfig(listen="127.0.0.1:0")
    settings = ProcessSettings(
        node(
            2,
            frontend=frontend,
            shard=ShardConfig(listen=["tcp://127.0.0.1:0", "unix:///s"], capacity_bytes=4 * MIB, format=True),
        ),
        Dealt((("/a.0",), ("/a.1",)), divided=True),
    )
    assert settings.shards == ("shard-0", "shard-1")
    assert settings.of("shard-1").shard.devices == ["/a.1"]
    assert settings.of("shard-1").shard.capacity_bytes == 2 * MIB
    said = {
        "listen": ["tcp://127.0.0.1:4001", "unix:///s.1"],
        "id": "07" * 16,
        "bytes_total": 5,
        "metrics": "127.0.0.1:9",
    }
    settings.ready("shard-1", said)
    assert settings.of("shard-1").shard.listen == said["listen"]
    assert not settings.of("shard-1").shard.format
    assert settings.of("shard-0").shard.format
    told = [parse_shard(text) for text in settings.of("frontend").frontend.shards]
    assert told[0].addresses == ("unix:///s.0",)
    assert told[1].addresses == ("unix:///s.1", "tcp://127.0.0.1:4001")
    assert (told[1].id, told[1].capacity_bytes) == (b"\x07" * 16, 5)
    settings.changed("shard-1", {"devices": ["/a.1", "/b"]})
    assert settings.of("shard-1").shard.devices == ["/a.1", "/b"]
    assert settings.of("shard-0").shard.devices == ["/a.0"]
    settings.ready("frontend", {"listen": "grpc://127.0.0.1:5001"})
    assert settings.of("frontend").frontend.listen == "127.0.0.1:5001"
    assert settings.of("shard-0").frontend.listen == "127.0.0.1:0"


def test_clients_are_told_what_is_advertised_and_the_front_end_asks_where_it_can():
    config = node(2, frontend=FrontendConfig(advertise=["tcp://host:7700"]))
    settings = ProcessSettings(config, Dealt((("/a",), ("/b",)), divided=False))
    told = [parse_shard(text) for text in settings.of("frontend").frontend.shards]
    assert [each.addresses for each in told] == [("tcp://host:7700",), ("tcp://host:7701",)]
    assert [each.asked_at for each in told] == ["unix:///run/mezzo.sock.0", "unix:///run/mezzo.sock.1"]


def test_a_shard_whose_store_is_known_is_told_before_it_is_ready():
    dealt = Dealt((("/a",), ("/b",)), divided=False, stores=((b"\x01" * 16, 5), (b"", 0)))
    settings = ProcessSettings(node(2), dealt)
    told = [parse_shard(text) for text in settings.of("frontend").frontend.shards]
    assert (told[0].id, told[0].capacity_bytes) == (b"\x01" * 16, 5)
    assert settings.dispensable == ("shard-0",)
    free = node(2, shard=ShardConfig(listen=["tcp://127.0.0.1:0"]))
    assert ProcessSettings(free, dealt).dispensable == ()  # nobody could say where it is
    assert ProcessSettings(node(1)).dispensable == ()


def test_shards_that_the_settings_name_stay():
    config = node(2, frontend=FrontendConfig(shards=["tcp://10.0.0.1:1", "tcp://10.0.0.2:1"]))
    settings = ProcessSettings(config, Dealt((("/a",), ("/b",)), divided=False))
    settings.ready("shard-0", {"listen": ["unix:///x"]})
    assert settings.of("frontend").frontend.shards == config.frontend.shards


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (
            {"frontend": FrontendConfig(listen="127.0.0.1:7701")},
            "frontend.listen and shard.listen[1] of shard-1",
        ),
        ({"shard": ShardConfig(hot=HotConfig(bytes=100 * MIB))}, "for each of them"),
        ({"metrics": MetricsConfig(shard="127.0.0.1:65535")}, "leaves no port for shard 1"),
        ({"frontend": FrontendConfig(shard="unix:///x", advertise=["unix:///y"])}, "frontend.advertise"),
    ],
)
def test_settings_that_do_not_do_for_several_shards(tables, words):
    with pytest.raises(InvalidArgument) as refusal:
        check_together(node(2, **tables))
    assert words in str(refusal.value)
