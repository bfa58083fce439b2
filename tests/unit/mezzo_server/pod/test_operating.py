"""What operators see and ask of a pod."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from typer.main import get_command

from mezzo.cli.app import make_app, run
from mezzo.errors import InvalidArgument
from mezzo.placement.pod_map import decode_map
from mezzo_server.metadata.engine import Write
from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.operating import PodOperator, seen
from mezzo_server.pod.records import SETTINGS, Settings, encode
from mezzo_server.tenancy.registry import Registry
from tests.unit.mezzo_server.pod.rig import POD, World, at_once, shard_id

MEZZO = get_command(make_app())


@pytest.fixture
def world() -> World:
    world = World()
    world.planner()
    return world


def operator(world: World) -> PodOperator:
    return PodOperator(world.engine, lambda: world.now)


def test_it_sees_what_each_shard_does(world):
    one, _two = world.shard(1), world.shard(2)
    world.run(5)
    world.shard(3)
    world.run(2)
    one.crash()
    pod = at_once(operator(world).look())
    assert (pod.id, pod.epoch, pod.slots, pod.behind) == (POD, 2, 16, 0)
    by_node = {shard.node: shard for shard in pod.shards}
    assert [by_node[node].state for node in ("n1", "n2", "n3")] == ["serving", "serving", "joining"]
    assert 590 < by_node["n3"].left_s <= 600
    assert sum(shard.slots for shard in pod.shards) == 16
    assert by_node["n2"].epoch == 2
    world.actors = [actor for actor in world.actors if actor is one]
    world.now += 100
    gone = {shard.node: shard.state for shard in seen(world.view(), world.now).shards}
    assert gone == {"n1": "gone", "n2": "gone", "n3": "gone"}


def test_a_drain_by_any_of_its_names(world):
    world.shard(1)
    world.shard(2)
    world.run(5)
    assert at_once(operator(world).drain("n1")) == shard_id(1)
    assert at_once(operator(world).drain("0101")) == shard_id(1)
    world.run(2)
    first = {shard.node: shard for shard in at_once(operator(world).look()).shards}["n1"]
    assert (first.state, first.slots) == ("draining", 0)
    assert first.slots_before > 0
    assert 3590 < first.left_s <= 3600
    assert at_once(operator(world).join("01010101")) == shard_id(1)
    world.run(2)
    assert {shard.state for shard in at_once(operator(world).look()).shards} == {"serving"}


def test_the_pace_of_a_pod_is_changed_while_it_changes(world):
    world.shard(1)
    world.run(5)
    world.shard(2)
    world.run(5)
    assert {shard.state for shard in at_once(operator(world).look()).shards} == {"serving", "joining"}
    changed = at_once(operator(world).pace({"ramp_s": 20.0, "asked_s": 60.0}))
    assert (changed.ramp_s, changed.asked_s, changed.remembered_s) == (
        20.0,
        60.0,
        world.settings.remembered_s,
    )
    assert at_once(operator(world).pace({})) == changed
    world.run(30)
    assert {shard.state for shard in at_once(operator(world).look()).shards} == {"serving"}
    world.run(60)
    pod = at_once(operator(world).look())
    assert (pod.id, pod.moved) == (POD, 0)
    for change in ({"ramp_s": -1.0}, {"asked_s": float("nan")}, {"remembered_s": 1e12}):
        with pytest.raises(InvalidArgument, match="is 0 to"):
            at_once(operator(world).pace(change))
    with pytest.raises(InvalidArgument, match="no pod was made"):
        at_once(operator(World()).pace({}))


def test_what_a_later_release_says_of_a_pod_stays_when_its_pace_is_changed(world):
    at_once(world.engine.transact([], [Write(SETTINGS, encode(world.settings)[:-1] + b',"later":[1]}')]))
    at_once(operator(world).pace({"asked_s": 7}))
    entry = at_once(world.engine.get(SETTINGS))
    assert entry is not None
    assert json.loads(entry.value)["later"] == [1]


def test_names_that_mean_none_or_several_are_refused(world):
    world.shard(1, node="n")
    world.shard(2, node="n")
    world.run(5)
    for text, why in (
        ("n", "any of 01010101, 02020202"),
        ("n9", "called 'n9'"),
        ("01", "called '01'"),
        ("", "called ''"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            at_once(operator(world).drain(text))


def test_without_a_pod_there_is_nothing_to_see(world):
    with pytest.raises(InvalidArgument, match="no pod was made"):
        at_once(operator(World()).look())


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MEZZO_CONFIG", raising=False)
    url = f"sqlite://{tmp_path}/metadata.db"
    config = tmp_path / "mezzo.toml"
    config.write_text(f'[metadata]\nengine = "{url}"\n')

    def mezzo(*arguments: str, status: int = 0) -> tuple[str, str]:
        capsys.readouterr()
        assert run(lambda: MEZZO, [*arguments, "--config", str(config)]) == status
        said = capsys.readouterr()
        return said.out, said.err

    async def prepare(writes: list[Write]) -> None:
        engine = make_engine(url)
        try:
            await Registry(engine, time.time, os.urandom).ensure_tenant("default")
            await engine.transact([], writes)
        finally:
            await engine.close()

    asyncio.run(prepare([Write(SETTINGS, encode(Settings(POD, 4)))]))
    assert "no map was made yet" in mezzo("pod", "status")[1]
    world = World()
    world.planner()
    world.shard(1)
    world.shard(2)
    world.run(5)
    stored = at_once(world.engine.scan("pod/")).entries
    asyncio.run(prepare([Write(entry.key, entry.value) for entry in stored]))
    status = json.loads(mezzo("pod", "status", "--json")[0])
    assert (status["epoch"], len(status["shards"])) == (1, 2)
    out, _ = mezzo("pod", "status")
    assert "01010101" in out
    assert "serving" in out
    told = json.loads(mezzo("pod", "parts", "default", "--json")[0])
    assert (told["round"], told["settled"], told["limits"]) == (1, True, [])
    assert "no quota" in mezzo("pod", "parts", "default")[1]
    mezzo("tenant", "set", "default", "--capacity", "1GiB", "--requests", "100:200")
    capacity, requests = json.loads(mezzo("pod", "parts", "default", "--json")[0])["limits"]
    assert (capacity["limit"], capacity["hard"], capacity["weighed"]) == ("capacity_bytes", 1 << 30, False)
    assert sum(shard["part"] for shard in requests["shards"]) == pytest.approx(17 / 16, abs=0.001)
    out, _ = mezzo("pod", "parts", "default")
    assert "capacity_bytes (by slots)" in out
    file = tmp_path / "pod.map"
    out, err = mezzo("pod", "map", "--out", str(file))
    assert "tcp://n2:7700" in out
    assert "wrote" in err
    pod_map = decode_map(file.read_bytes())
    located = json.loads(mezzo("locate", "some key", "--json")[0])
    place = pod_map.owner(located["slot"])
    assert place is not None
    assert (located["shard"], located["addresses"]) == (place.id.hex(), list(place.addresses))
    assert f"on {place.node}" in mezzo("locate", "some key")[0]
    assert "to be emptied" in mezzo("pod", "drain", "n1")[0]
    assert "its share" in mezzo("pod", "join", "n1")[0]
    assert "'n7'" in mezzo("pod", "drain", "n7", status=2)[1]
    assert "over 600 s" in mezzo("pod", "pace")[0]
    assert json.loads(mezzo("pod", "pace", "--ramp", "5min", "--json")[0])["ramp_s"] == 300
    assert "--asked: 'x' is no duration" in mezzo("pod", "pace", "--asked", "x", status=2)[1]
    thought = json.loads(mezzo("pod", "rebalance", "--dry-run", "--json")[0])
    assert (thought["made"], len(thought["shards"])) == (False, 2)
    out, _ = mezzo("pod", "rebalance", "--wait")
    assert "01010101" in out
    assert ("epoch 2 moves" in out) == bool(thought["moves"])
    assert "it has its share" in mezzo("pod", "join", "n1", "--wait")[0]
    audit = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line["outcome"]) for line in audit] == [
        ("tenant.set", "done"), ("pod.drain", "done"), ("pod.join", "done"), ("pod.drain", "refused"),
        ("pod.pace", "done"), ("pod.rebalance", "done"), ("pod.join", "done"),
    ]  # fmt: skip
    assert run(lambda: MEZZO, ["pod", "status"]) == 2
