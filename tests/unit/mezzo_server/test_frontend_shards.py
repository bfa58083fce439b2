"""What a front-end says of several shards, when all answer and when some do not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from mezzo.errors import ConnectionLost, Unavailable
from mezzo.placement.pod_map import decode_map
from mezzo_server.config.shards import ShardTold
from mezzo_server.frontend.shards import NodeShards

IDS = [bytes([number] * 16) for number in range(1, 4)]


class FakeShard:
    """A client of a shard that answers, or does not."""

    def __init__(self, shard_id: bytes) -> None:
        self.there = True
        self.asked = 0
        self.welcome = SimpleNamespace(
            shard_id=shard_id, shard_incarnation=shard_id[::-1], chunk_bytes_max=1 << 20, epoch=0
        )

    async def shard_stat(self, *, timeout_s: float) -> dict[str, float]:
        await self.ping(timeout_s=timeout_s)
        return {"bytes_total": 1 << 30}

    async def ping(self, *, timeout_s: float) -> None:
        self.asked += 1
        if not self.there:
            raise ConnectionLost("it is away")


def node(count: int, *, known: bool = False, plans: bool = True) -> tuple[NodeShards, list[FakeShard]]:
    fakes = {f"unix:///{number}": FakeShard(IDS[number]) for number in range(count)}
    told = [
        ShardTold((at, "tcp://h:1"), IDS[number] if known else bytes(16), (1 << 30) * known)
        for number, at in enumerate(fakes)
    ]
    return NodeShards(told, fakes.__getitem__, "node", plans=plans), list(fakes.values())


def test_one_shard_needs_no_map():
    shards, _ = node(1)
    seen = asyncio.run(shards.look(1.0))
    assert (seen.encoded, seen.epoch) == (b"", 0)
    assert [shard.id for shard in seen.shards] == IDS[:1]


def test_the_map_has_all_shards_with_their_addresses():
    shards, _ = node(3)
    seen = asyncio.run(shards.look(1.0))
    pod_map = decode_map(seen.encoded)
    assert (seen.epoch, pod_map.epoch) == (1, 1)
    assert [shard.id for shard in pod_map.shards] == IDS
    assert pod_map.shards[1].addresses == ("unix:///1", "tcp://h:1")
    assert [shard.capacity_bytes for shard in seen.shards] == [1 << 30] * 3


def test_a_shard_that_is_away_keeps_its_slots():
    shards, fakes = node(3)
    before = asyncio.run(shards.look(1.0))
    fakes[0].there = False
    after = asyncio.run(shards.look(1.0))
    assert after.encoded == before.encoded
    assert len(after.shards) == 3


def test_nobody_waits_for_a_shard_that_was_away_until_it_is_back():
    shards, fakes = node(2)
    asyncio.run(shards.look(1.0))
    fakes[0].there = False
    asyncio.run(shards.ping(1.0))
    asked = fakes[0].asked
    asyncio.run(shards.look(1.0))
    assert fakes[0].asked == asked
    fakes[0].there = True
    asyncio.run(shards.ping(1.0))
    asyncio.run(shards.look(1.0))
    assert fakes[0].asked == asked + 2
    for fake in fakes:
        fake.there = False
    with pytest.raises(ConnectionLost):
        asyncio.run(shards.ping(1.0))
    fakes[1].there = True  # all were away: all are asked
    assert len(asyncio.run(shards.look(1.0)).shards) == 2


def test_a_shard_that_the_settings_know_is_in_the_map_before_it_answers():
    shards, fakes = node(3, known=True)
    fakes[2].there = False
    seen = asyncio.run(shards.look(1.0))
    assert len(decode_map(seen.encoded).shards) == 3
    assert [shard.id for shard in seen.shards] == IDS[:2]


def test_without_knowing_every_shard_there_is_no_map():
    shards, fakes = node(3)
    fakes[2].there = False
    with pytest.raises(ConnectionLost):
        asyncio.run(shards.look(1.0))


def test_where_a_pod_plans_a_node_does_not():
    shards, fakes = node(3, plans=False)
    fakes[2].there = False
    seen = asyncio.run(shards.look(1.0))
    assert (seen.encoded, shards.map_source) == (b"", None)
    assert [shard.id for shard in seen.shards] == IDS[:2]


def test_one_shard_that_serves_is_enough_for_health():
    shards, fakes = node(2)
    fakes[0].there = False
    asyncio.run(shards.ping(1.0))
    fakes[1].there = False
    with pytest.raises(ConnectionLost):
        asyncio.run(shards.ping(1.0))


def test_connections_of_our_own_go_where_we_ask_shards_ourselves():
    """Clients are told other addresses, which we may not reach; and not knowing all shards is no map."""
    fakes = {f"unix:///{number}": FakeShard(IDS[number]) for number in range(2)}
    told = [ShardTold(("tcps://outside:1",), asked_at=at) for at in fakes]
    shards = NodeShards(told, fakes.__getitem__, "node")

    async def run() -> None:
        assert shards.map_source is not None
        with pytest.raises(Unavailable):
            shards.map_source()
        seen = await shards.look(1.0)
        ours, theirs = shards.map_source(), decode_map(seen.encoded)
        assert [place.addresses for place in theirs.shards] == [("tcps://outside:1",)] * 2
        assert [place.addresses for place in ours.shards] == [(at, "tcps://outside:1") for at in fakes]
        assert (ours.epoch, ours.table) == (theirs.epoch, theirs.table)
        assert shards.map_source() is ours
        for shard in shards.shards:
            shard.client.close = lambda: asyncio.sleep(0)
        await shards.close()

    asyncio.run(run())
