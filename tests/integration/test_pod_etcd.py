"""A pod of real processes on a real etcd: shards join, are emptied, stopped and killed; the etcd stands still."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec.structs import replace

from mezzo import AsyncClient, Client
from mezzo.errors import OverQuota, Unavailable, WrongEpoch
from mezzo.frontend.via import Via
from mezzo.placement.pod_map import PodMap, apply, decode_difference, decode_map
from mezzo.testing.blocking import Blocking
from mezzo.v1 import session_pb2
from mezzo_server.commands.pod_parts import parts_report
from mezzo_server.pod.operating import PodOperator, PodSeen
from mezzo_server.tenancy.model import Limit, Quota, Tenant
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing import RunningFrontend, RunningShard, running_frontend, running_shard
from tests.integration.etcd_members import Cluster, find_etcd, running_etcd
from tests.integration.metadata_replicas import RunningReplica, running_replicas
from tests.integration.nursery import run_mezzo
from tests.integration.pod_metadata import LOOK_S, PodMetadata
from tests.patience import eventually

pytestmark = pytest.mark.skipif(not find_etcd(), reason="there is no etcd, and none could be fetched")

LEASE_S = 8
"""A shard that a busy machine keeps from renewing for so long has lost its slots, and what moves twice may be missed."""
STANDS_S = 2.0
OPEN_SESSION = "/mezzo.v1.SessionService/OpenSession"


class Pod(PodMetadata):
    """The processes of a pod, and what its metadata say."""

    def __init__(self, cluster: Cluster, stack: ExitStack, folder: Path) -> None:
        self.etcd = cluster
        self.folder = folder
        self.file = folder / "mezzo.toml"
        self._stack = stack
        super().__init__(cluster.url("pod"))
        self._reach(self.url)

    def _reach(self, url: str) -> None:
        self.url = url
        self.config = (
            f'[metadata]\nengine = "{self.url}"\n[admin]\naudit_log = "{self.folder}/audit.jsonl"\n'
            f"[pod]\nenabled = true\nlease_s = {LEASE_S}\nslots_log2 = 8\nramp_s = 0.5\nasked_s = 600\n"
        )
        self.file.write_text(self.config)
        self._shards: list[RunningShard] = []

    def through_service(self) -> list[RunningReplica]:
        """Two replicas of the metadata service, through which all that comes from now on reaches the etcd."""
        secret = self.folder / "secret"
        secret.write_text("s" * 32)
        replicas = self._stack.enter_context(running_replicas(2, self.url, self.folder, secret))
        places = ",".join(replica.endpoint for replica in replicas)
        self._reach(f"mezzo://{places}?secret_file={secret}")
        return replicas

    def shard(self, name: str) -> RunningShard:
        config = self.config + f'node = "{name}"\n'
        shard = self._stack.enter_context(running_shard(devices=["memory:64MiB"], config=config))
        self._shards.append(shard)
        return shard

    def end(self) -> None:
        """End all shards at once: without a front-end they would wait in vain for others to take over."""
        for shard in self._shards:
            shard.kill()

    def frontend(self, shard: RunningShard) -> RunningFrontend:
        return self._stack.enter_context(running_frontend(shard.unix, config=self.config))

    def asks_former_owners(self, asked_s: float) -> None:
        self.do(lambda engine: PodOperator(engine, time.time).pace({"asked_s": asked_s}))

    def becomes(self, **states: str) -> PodSeen:
        eventually(lambda: self.states() == states, f"the pod is {states}", poll_s=LOOK_S)
        return self.look()

    def keys(self, pod_map: PodMap, node: str, count: int = 20) -> list[bytes]:
        """Keys of the namespace "default" that a node's shard has."""
        of = self.ids()
        found: list[bytes] = []
        number = 0
        while len(found) < count:
            key = b"key-%d" % number
            owner = pod_map.owner(pod_map.slot(*of, key))
            if owner is not None and owner.node == node:
                found.append(key)
            number += 1
        return found

    def asked_still(self, keys: list[bytes], then: PodMap, now: PodMap) -> list[bytes]:
        """Those of which who owned them by the earlier map is asked by the later one: a slot may have moved twice."""
        of = self.ids()
        slots = {key: now.slot(*of, key) for key in keys}
        return [
            key
            for key, slot in slots.items()
            if (owner := then.owner(slot)) is not None
            and owner.id
            in {place.id for place in (now.owner(slot), now.owner_before(slot)) if place is not None}
        ]


def open_session(frontend: RunningFrontend, **had: Any) -> session_pb2.OpenSessionResponse:
    with grpc.insecure_channel(frontend.target) as channel:
        call = channel.unary_unary(
            OPEN_SESSION,
            request_serializer=session_pb2.OpenSessionRequest.SerializeToString,
            response_deserializer=session_pb2.OpenSessionResponse.FromString,
        )
        answer: session_pb2.OpenSessionResponse = call(session_pb2.OpenSessionRequest(**had), timeout=10)
        return answer


def map_of(frontend: RunningFrontend) -> PodMap:
    return decode_map(open_session(frontend).map.encoded)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with running_etcd(tmp_path / "etcd") as cluster, ExitStack() as stack:
        pod = Pod(cluster, stack, tmp_path)
        yield pod
        pod.end()


def test_a_pod_begins_grows_shrinks_and_rides_out_faults(pod: Pod) -> None:
    one, two = pod.shard("one"), pod.shard("two")
    frontends = [pod.frontend(one), pod.frontend(two)]
    first = pod.becomes(one="serving", two="serving")
    assert sum(shard.slots for shard in first.shards) == 256
    maps = [map_of(frontend) for frontend in frontends]
    assert maps[0] == maps[1]
    assert maps[0].epoch == first.epoch
    of_one, of_two = pod.keys(maps[0], "one"), pod.keys(maps[0], "two")
    keys = [key for pair in zip(of_one, of_two, strict=True) for key in pair]
    chunks = [b"x" * 3000] * len(keys)
    with (
        Client(one.unix) as alone,
        Client(frontends[0].grpc) as direct,
        Client(frontends[1].grpc, via="proxy") as proxied,
    ):
        clients = (direct, proxied)
        assert direct.put(keys, chunks).stored == len(keys)
        assert [client.lookup(keys).prefix for client in clients] == [len(keys)] * 2
        # Each has its own; of the other's it is second, but takes no puts.
        assert alone.lookup(of_one).prefix == len(of_one)
        assert alone.lookup(of_two).prefix == 0
        with pytest.raises(WrongEpoch) as caught:
            alone.put(of_two, chunks[: len(of_two)])
        assert caught.value.epoch == first.epoch

        # A third joins in steps; what it took over is with its former owners still, for a while.
        three = pod.shard("three")
        grown = pod.becomes(one="serving", two="serving", three="serving")
        now = eventually(lambda: (here := map_of(frontends[0])).epoch == grown.epoch and here, "the map")
        there = pod.asked_still(keys, maps[0], now)
        assert len(there) > len(keys) // 2
        assert [client.lookup(there).prefix for client in clients] == [len(there)] * 2

        # Then nobody is asked any more, and what nobody has read is missing.
        pod.asks_former_owners(0.5)
        grown = eventually(
            lambda: (seen := pod.look()).moved == 0 and seen, "nobody is asked any more", poll_s=LOOK_S
        )
        proxied.put(keys, chunks)
        assert direct.lookup(keys).prefix == len(keys)
        # The etcd stands still: nobody minds, and nothing changes.
        pod.etcd.members[0].signal(signal.SIGSTOP)
        until = time.monotonic() + STANDS_S
        while time.monotonic() < until:
            assert [client.lookup(keys).prefix for client in clients] == [len(keys)] * 2
            time.sleep(0.1)
        assert map_of(frontends[1]).epoch == grown.epoch
        pod.etcd.members[0].signal(signal.SIGCONT)
        assert pod.becomes(one="serving", two="serving", three="serving").epoch == grown.epoch

        quota_goes_where_it_is_wanted(pod, direct, map_of(frontends[0]), frontends[1])
        assert direct.put(keys, chunks).failed == 0

        # One is emptied: it keeps what it had for those who ask, and then refuses.
        pod.asks_former_owners(600)
        run_mezzo("pod", "drain", "two", "--config", str(pod.file))
        pod.becomes(one="serving", two="draining", three="serving")
        assert [client.lookup(keys).prefix for client in clients] == [len(keys)] * 2
        pod.asks_former_owners(0.5)
        said = run_mezzo("pod", "drain", "two", "--wait", "--json", "--config", str(pod.file))
        drained = next(shard for shard in json.loads(said.stdout)["shards"] if shard["node"] == "two")
        assert (drained["state"], drained["slots"], drained["slots_before"]) == ("draining", 0, 0)
        assert '"pod.drain"' in (pod.folder / "audit.jsonl").read_text()
        with Client(two.unix) as other, pytest.raises(WrongEpoch):
            other.lookup(keys)

        # It stops cleanly, and is gone at once; one that stands still when its lease ends.
        two.stop()
        began = time.monotonic()
        pod.becomes(one="serving", three="serving")
        assert time.monotonic() - began < LEASE_S
        for client in clients:
            eventually(lambda: not client.put(keys, chunks).failed, "it learns that a shard is gone")  # noqa: B023
        now = eventually(lambda: (here := map_of(frontends[0])).epoch == pod.look().epoch and here, "the map")
        of_three = pod.keys(now, "three", 40)[20:]
        with Client(three.unix, timeout_s=60) as paused, ThreadPoolExecutor(1) as thread:
            paused.lookup(of_three)
            os.kill(three.pid, signal.SIGSTOP)
            late = thread.submit(paused.put, of_three, chunks[:20])
            left = owned(alone, now, "one", keys)
            assert [client.lookup(left).prefix for client in clients] == [len(left)] * 2
            pod.becomes(one="serving")
            assert alone.put(keys, chunks).failed == 0
            # It wakes up with a put before it, and slots that are another's by now.
            os.kill(three.pid, signal.SIGCONT)
            with pytest.raises((Unavailable, WrongEpoch)):
                late.result()
        pod.becomes(one="serving", three="serving")

        # Two copies are asked for: one of the two is lost, and nothing is missing.
        run_mezzo("tenant", "set", "default", "--copies", "2", "--config", str(pod.file))
        now = eventually(lambda: (here := map_of(frontends[0])).epoch == pod.look().epoch and here, "the map")
        of_three = pod.keys(now, "three", 400)[380:]
        values = [b"%02d" % number * 1000 for number in range(20)]
        eventually(lambda: {copies_told(one), copies_told(three)} == {2}, "both shards have heard of it")
        with Client(frontends[0].grpc) as two_copies, Client(frontends[1].grpc, via="proxy") as by_proxy:
            assert two_copies.put(of_three, values).stored == 20
            eventually(lambda: all(alone_has(alone, key) for key in of_three), "its second has them too")
            # What is deleted is at neither.
            assert two_copies.delete(of_three[:3]).count == 3
            assert not any(alone_has(alone, key) for key in of_three[:3])
            assert by_proxy.lookup(of_three[3:]).prefix == 17
            three.kill()
            targets = [bytearray(len(value)) for value in values[3:]]
            assert two_copies.get(of_three[3:], targets).count == 17
            assert [bytes(target) for target in targets] == values[3:]
            for client in (two_copies, by_proxy):
                assert client.lookup(of_three[3:]).prefix == 17
            with two_copies.acquire(of_three[3:], ttl_s=5.0) as lease:
                assert lease.prefix == 17
        pod.becomes(one="serving")
        # Its slots are the other's, whose second copies are its own now.
        assert alone.put(of_three[3:], values[3:]).exists == 17
        located = run_mezzo("locate", keys[0].decode(), "--json", "--config", str(pod.file))
        assert json.loads(located.stdout)["node"] == "one"


def quota_goes_where_it_is_wanted(
    pod: Pod, client: Client, pod_map: PodMap, frontend: RunningFrontend
) -> None:
    """A tenant fills one shard of three up to more than that shard's part of its quota."""
    said = run_mezzo("credential", "issue", "--operator", "--json", "--config", str(pod.file)).stdout

    def limit(nbytes: int) -> Tenant:
        quota = Quota(capacity_bytes=Limit(0, nbytes))

        async def change(engine: Any) -> Tenant:
            registry = Registry(engine, time.time, os.urandom)
            return await registry.set_tenant("default", lambda tenant: replace(tenant, quota=quota))

        return pod.do(change)

    tenant = limit(8 << 20)
    of_three = pod.keys(pod_map, "three", 90)
    pieces = [of_three[at : at + 15] for at in range(0, 90, 15)]
    together, report = [], None

    def all_kept() -> bool:
        nonlocal report
        for piece in pieces:
            with suppress(OverQuota):
                client.put(piece, [b"q" * (64 << 10)] * len(piece))
        view = pod.do(lambda engine: PodOperator(engine, time.time).view())
        report = parts_report(view, tenant, Quota())
        together.append(sum(shard.part for shard in report.limits[0].shards))
        return client.lookup(of_three).prefix == 90

    eventually(all_kept, "the shard's part becomes what is wanted", poll_s=LOOK_S)
    assert max(together) <= 1 + 1 / 16 + 1e-3
    assert report is not None
    parts = {shard.node: shard.part for shard in report.limits[0].shards}
    assert report.limits[0].weighed
    assert parts["three"] >= 90 * 64 / 8192 > 2 * parts["two"]
    credential = ("--admin", frontend.admin, "--token", json.loads(said)["token"])
    shown = run_mezzo("tenant", "show", "default", "--json", *credential)
    assert 90 * (64 << 10) <= json.loads(shown.stdout)["usage"]["bytes"] <= 8 << 20
    limit(0)


def copies_told(shard: RunningShard) -> int:
    """How many copies are kept, by what a shard says at the hello."""
    with Client(shard.unix) as client:
        client.ping()
        assert client.welcome is not None
        return client.welcome.copies


def alone_has(client: Client, key: bytes) -> bool:
    try:
        return client.lookup([key]).prefix == 1
    except WrongEpoch:
        return False


def test_clients_lose_nothing_while_a_pod_grows_and_metadata_services_go(pod: Pod) -> None:
    """What is put stays there to be found, whoever has its slot by then, and no call fails.

    What is read moves to the new owner, and outlives the former; what is deleted meanwhile does not come back.
    """
    replicas = pod.through_service()
    one = pod.shard("one")
    frontend = pod.frontend(one)
    pod.becomes(one="serving")
    keys = [b"chunk-%d" % number for number in range(100)]
    ways: tuple[Via, Via] = ("direct", "proxy")
    with (
        Client(frontend.grpc, via=ways[0]) as direct,
        Client(frontend.grpc, via=ways[1]) as proxied,
        Client(frontend.grpc, via=ways[0]) as idle,
        closing(Blocking(lambda: AsyncClient(frontend.grpc, via=ways[0]))) as idle_too,
    ):
        assert direct.put(keys, [b"%d" % number for number in range(100)]).stored == 100
        cold, gone = [b"cold-%d" % number for number in range(40)], [b"gone-%d" % n for n in range(40)]
        assert direct.put(cold + gone, [b"cold"] * 80).stored == 80
        assert [client.lookup(keys).prefix for client in (idle, idle_too)] == [100] * 2
        first = map_of(frontend)
        replicas[0].kill()
        two = pod.shard("two")
        more: list[bytes] = []

        def all_there() -> bool:
            for client in (direct, proxied):
                more.append(b"more-%d" % len(more))
                done = client.put(more[-1:], [b"bytes"])
                assert (done.stored, done.unanswered) == (1, 0)
                targets = [bytearray(3) for _ in keys]
                got = client.get(keys, targets)
                assert (got.count, got.unanswered) == (100, 0)
                assert [int(target.rstrip(b"\0")) for target in targets] == list(range(100))
                assert client.lookup(keys).prefix == 100
            return pod.states() == {"one": "serving", "two": "serving"}

        eventually(all_there, "the second shard serves")
        # Who asked nothing meanwhile has the first map still, and misses nothing that came since.
        fresh = [b"fresh-%d" % number for number in range(100)]
        assert direct.put(fresh, [b"x"] * 100).stored == 100
        for client in (idle, idle_too):
            assert client.get(fresh, [bytearray(1) for _ in fresh]).count == 100
            assert client.lookup(more).prefix == len(more)
        assert [client.lookup(more).prefix for client in (direct, proxied)] == [len(more)] * 2
        # Who has the present map is not told it again; who has an earlier one is told what leads to it.
        now = map_of(frontend)
        told = open_session(frontend, pod_had=first.pod, epoch_had=first.epoch).map
        if told.difference:  # in a pod of so few slots it may be more than the whole
            assert apply(first, decode_difference(told.difference)) == now
        assert open_session(frontend, pod_had=now.pod, epoch_had=now.epoch).map.as_had
        assert all(shard.slots for shard in pod.look().shards)

        with Client(two.unix) as alone:
            theirs = owned(alone, now, "two", keys + cold)
            # Nobody read these since: they are where they were.
            assert not any(alone_has(alone, key) for key in theirs if key in cold)
            for key in gone:
                assert direct.lookup([key]).prefix == 1
                assert direct.delete([key]).count == 1
            assert direct.get(cold, [bytearray(4) for _ in cold]).count == 40
            eventually(lambda: all(alone_has(alone, key) for key in theirs), "what was read has moved")
            assert not any(alone_has(alone, key) for key in owned(alone, now, "two", gone))
            assert direct.lookup(gone).prefix == 0
            one.kill()
            targets = [bytearray(4) for _ in theirs]
            assert direct.get(theirs, targets).count == len(theirs)
            values = [b"cold" if key in cold else key.removeprefix(b"chunk-") for key in theirs]
            assert [bytes(target).rstrip(b"\0") for target in targets] == values
    # Without front-ends the metadata service makes the maps, and without that nothing changes.
    frontend.kill()
    replicas[1].kill()
    with Client(two.unix) as alone:
        assert alone.lookup(theirs[:1]).prefix == 1
    replicas[1].start()
    pod.becomes(two="serving")


def owned(alone: Client, pod_map: PodMap, node: str, keys: list[bytes]) -> list[bytes]:
    """Those of the namespace "default" whose slots a node's shard owns."""
    alone.ping()
    welcome = alone.welcome
    assert welcome is not None
    of = (welcome.tenant_id, welcome.namespace_id)
    owners = [pod_map.owner(pod_map.slot(*of, key)) for key in keys]
    return [key for key, owner in zip(keys, owners, strict=True) if owner is not None and owner.node == node]
