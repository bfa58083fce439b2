"""The metadata engine behind the metadata service: the contract, over two replicas, and what is the service's own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from mezzo.errors import InvalidArgument, Unavailable
from mezzo.v1 import metadata_pb2 as api
from mezzo_server.config import NodeConfig
from mezzo_server.metadata import trust
from mezzo_server.metadata.engine import Check, Engine, Entry, Outcome, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.remote.calls import SERVICE
from mezzo_server.metadata.remote.engine import ServiceEngine
from mezzo_server.metadata.remote.place import parse_service
from mezzo_server.pod.records import DRAINS, MEMBERS, PLAN, ROSTER, SETTINGS
from tests.contract.certificates import Authority, Files
from tests.contract.metadata import MetadataContract, Rig, put, take
from tests.contract.metadata_service import Replica, ServiceRig, service_config
from tests.patience import PATIENCE_S, eventually
from tests.unit.mezzo_server.test_metadata_memory import MemoryRig
from tests.unit.mezzo_server.test_metadata_sqlite import SqliteRig


class TestOverMemory(MetadataContract):
    examples = 2

    def make(self) -> Rig:
        return ServiceRig(MemoryRig())


class TestOverSqlite(MetadataContract):
    examples = 1

    def make(self) -> Rig:
        return ServiceRig(SqliteRig())


class Failing(MemoryEngine):
    """An engine that is away when told, and does not say whether it did what it was asked to."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.away = False
        self.silent = False
        """it does what it is asked to, and then is away"""
        self.asked = 0
        """transactions"""

    async def get(self, key: str) -> Entry | None:
        if self.away:
            raise Unavailable("played: nobody is there")
        return await super().get(key)

    async def transact(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        self.asked += 1
        outcome = await super().transact(checks, writes)
        if self.silent:
            raise Unavailable("played: the answer was lost")
        return outcome

    async def close(self) -> None:
        """It is shared: the test ends it."""


@contextmanager
def replicas(count: int, engine: Engine, config: NodeConfig | None = None) -> Iterator[list[Replica]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Replica(lambda: engine, config))
            stack.callback(made[-1].stop)
        yield made


def reached(*made: Replica, query: str = "", call_s: float = 6.0) -> ServiceEngine:
    scheme = made[0].url.partition("://")[0]
    places = ",".join(replica.endpoint for replica in made)
    return ServiceEngine(parse_service(f"{scheme}://{places}{query}"), call_s, first=0)


def run(work: Any, *engines: Engine) -> None:
    async def main() -> None:
        try:
            await work
        finally:
            for engine in engines:
                await engine.close()

    asyncio.run(main())


def test_a_watch_and_a_lease_go_on_at_another_replica() -> None:
    async def work(engine: Engine, other: Engine, stop: Callable[[], None]) -> None:
        lease = await engine.grant(60)
        watch = engine.watch("", await put(engine, "a", lease=lease))
        await put(engine, "b")
        assert [change.key for change in await take(watch, 1)] == ["b"]
        await asyncio.to_thread(stop)
        await put(other, "c")
        assert [change.key for change in await take(watch, 1)] == ["c"]
        assert await engine.keep(lease)
        await engine.revoke(lease)
        assert [change.key for change in await take(watch, 1)] == ["a"]
        assert [entry.key for entry in (await engine.scan("")).entries] == ["b", "c"]

    shared = Failing()
    with replicas(1, shared) as (two,):
        one = Replica(lambda: shared)
        engine, other = reached(one, two), reached(two)
        run(work(engine, other, one.stop), engine, other)


def test_a_write_whose_answer_is_lost_is_not_sent_again() -> None:
    beneath = Failing()

    async def work(engine: Engine) -> None:
        beneath.silent = True
        with pytest.raises(Unavailable, match="the answer was lost"):
            await put(engine, "a")
        beneath.silent = False
        assert beneath.asked == 1
        assert await engine.get("a") is not None

    with replicas(2, beneath) as made:
        engine = reached(*made)
        run(work(engine), engine)


def test_who_finds_a_replica_full_goes_to_another() -> None:
    async def work(crowd: Engine, late: Engine, full: Replica) -> None:
        after = await put(crowd, "a")
        watch = crowd.watch("", after)
        waiting = asyncio.ensure_future(take(watch, 1))
        await asyncio.to_thread(eventually, lambda: full.service.handlers.watches == 1, "it watches")
        assert await late.get("a") is not None
        assert full.service.numbers.refused
        await put(late, "b")
        assert [change.key for change in await waiting] == ["b"]

    beneath = Failing()
    with replicas(1, beneath, service_config(calls_max=1)) as (full,), replicas(1, beneath) as (other,):
        crowd, late = reached(full), reached(full, other)
        run(work(crowd, late, full), crowd, late)


def test_the_first_replica_is_not_everybodys() -> None:
    async def work(*engines: Engine) -> None:
        await asyncio.gather(*(engine.get("a") for engine in engines))

    with replicas(2, Failing()) as made:
        place = parse_service("mezzo://" + ",".join(replica.endpoint for replica in made))
        engines = [ServiceEngine(place) for _ in range(20)]
        run(work(*engines), *engines)
        assert all(replica.service.numbers.calls["GetEntry"] for replica in made)


def test_while_the_engine_is_away_calls_fail_at_once_and_heal() -> None:
    beneath = Failing()
    config = service_config(health_s=0.02)

    async def work(engine: Engine, one: Replica) -> None:
        after = await put(engine, "a")
        watch = engine.watch("", after)
        await put(engine, "b")
        await take(watch, 1)
        beneath.away = True
        await asyncio.to_thread(eventually, lambda: not one.service.numbers.serving, "it is seen")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="nobody is there"):
            await engine.transact([], [Write("c", b"")])
        assert time.monotonic() - began < PATIENCE_S / 2
        assert beneath.asked == 2, "it was not even asked"
        beneath.away = False
        await asyncio.to_thread(eventually, lambda: one.service.numbers.serving, "it is seen")
        await put(engine, "d")
        assert [change.key for change in await take(watch, 1)] == ["d"]

    with replicas(1, beneath, config) as (one,):
        engine = reached(one, call_s=0.3)
        run(work(engine, one), engine)


def test_what_does_not_fit_into_a_message_comes_in_several() -> None:
    beneath = Failing()

    async def work(engine: Engine) -> None:
        began = (await engine.scan("")).revision
        large = [Write(f"large/{n}", bytes([n]) * (700 << 10)) for n in range(5)]
        await engine.transact([], large)
        watch = engine.watch("", began)
        assert [change.value for change in await anext(watch)] == [write.value for write in large]
        for n in range(24):
            await beneath.transact([], [Write(f"small/{n}/{k}", b"") for k in range(100)])
        assert len((await engine.scan("")).entries) == 2405
        with pytest.raises(InvalidArgument, match="at most"):
            await engine.transact([], [Write(f"{n}", bytes(1 << 20)) for n in range(4)])

    with replicas(1, beneath) as (one,):
        engine = reached(one)
        run(work(engine), engine)


# -- who may call


def secrets(tmp_path: Path) -> tuple[Path, Path]:
    of_all, of_shards = tmp_path / "pod.secret", tmp_path / "shard.secret"
    of_all.write_text("a" * 40 + "\n")
    of_shards.write_text("s" * 40 + "\n")
    return of_all, of_shards


def test_who_shows_no_secret_of_the_pod_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    of_all, of_shards = secrets(tmp_path)
    config = service_config(secret_file=str(of_all), shard_secret_file=str(of_shards), health_s=0.02)
    wrong = tmp_path / "wrong"
    wrong.write_text("w" * 40)
    old = tmp_path / "old"
    old.write_text("a" * 40)
    over = threading.Event()
    with replicas(1, Failing(), config) as (one,), grpc.insecure_channel(one.endpoint) as channel:
        for shown in ((), (("authorization", "Bearer " + "w" * 40),), (("authorization", "a" * 40),)):
            for method in api.DESCRIPTOR.services_by_name["MetadataService"].methods:
                with pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary(f"/{SERVICE}/{method.name}")(b"\xff\xff", timeout=10, metadata=shown)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, method.name
                # Whoever it is need not even send the message.
                silent = channel.stream_unary(f"/{SERVICE}/{method.name}")
                with pytest.raises(grpc.RpcError) as refused:
                    silent(sent_after(over), timeout=10, metadata=shown)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, method.name
            tools = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            with pytest.raises(grpc.RpcError) as refused:
                next(channel.stream_stream(tools)(iter([b""]), timeout=10, metadata=shown))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        over.set()
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == b"\x08\x01"

        async def work(*engines: Engine) -> None:
            one, shard, stranger, former = engines
            await put(one, "catalog/tenants/1")
            assert await shard.get("catalog/tenants/1") is not None
            lease = await shard.grant(60)
            assert (await shard.transact([], [Write(f"{MEMBERS}1", b"", lease), Write(ROSTER, b"")])).done
            for key in ("catalog/tenants/1", PLAN, SETTINGS, f"{DRAINS}1", "pod/members"):
                with pytest.raises(Unavailable, match="a shard may not write"):
                    await shard.transact([], [Write(f"{MEMBERS}1", b"", lease), Write(key, None)])
            with pytest.raises(Unavailable, match="no credential"):
                await stranger.get("a")
            # A secret is changed: first here beside the old one, then where it is shown, then the old one goes.
            revision = (await one.scan("")).revision
            watch, watched = one.watch("b", revision), former.watch("b", revision)
            waiting = asyncio.ensure_future(anext(watched))
            of_all.write_text("a" * 40 + "\n" + "n" * 40 + "\n")
            new = tmp_path / "new"
            new.write_text("n" * 40)
            with_new = engine(new)
            while True:
                try:
                    await with_new.get("a")
                    break
                except Unavailable:
                    continue
            of_all.write_text("n" * 40)
            with pytest.raises(Unavailable, match="no credential"):
                await waiting
            await put(one, "b")
            assert [change.key for change in await take(watch, 1)] == ["b"]
            await with_new.close()

        def engine(secret: Path) -> Engine:
            return reached(one, query=f"?secret_file={secret}", call_s=1.0)

        engines = [engine(path) for path in (of_all, of_shards, wrong, old)]
        run(work(*engines), *engines)


def sent_after(over: threading.Event) -> Iterator[bytes]:
    """A message that comes after that, of a call that is not ended before."""
    over.wait(PATIENCE_S)
    yield b""


def test_connections_are_bounded_and_who_goes_makes_room() -> None:
    def answers(channel: grpc.Channel) -> bool:
        try:
            return bool(channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10))
        except grpc.RpcError:
            return False

    apart = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)]
    with replicas(1, Failing(), service_config(connections_max=2)) as (one,), ExitStack() as stack:
        first, second, third = [
            stack.enter_context(grpc.insecure_channel(one.endpoint, options=apart)) for _ in range(3)
        ]
        assert answers(first)
        assert answers(second)
        assert not answers(third)
        first.close()
        eventually(lambda: answers(third), "who went makes room for another")
        assert answers(second)


def test_over_tls_with_certificates_of_the_pod(tmp_path: Path) -> None:
    authority, others = Authority(tmp_path), Authority(tmp_path, "another")
    server, ours = authority.issue("metadata"), authority.issue("shard", client=True)
    theirs = others.issue("client", client=True)
    tls = {"certificate": str(server.certificate), "key": str(server.key)}
    config = service_config(tls, client_ca=str(authority.ca))

    async def work(good: Engine, *bad: Engine) -> None:
        await put(good, "a")
        for engine in bad:
            with pytest.raises(Unavailable, match="no replica of the metadata service answers"):
                await engine.get("a")

    with replicas(1, Failing(), config) as (one,):
        shown = [f"&certificate={each.certificate}&key={each.key}" for each in (ours, theirs)]
        queries = [
            f"?ca={authority.ca}{shown[0]}",
            f"?ca={authority.ca}",
            f"?ca={authority.ca}{shown[1]}",
            f"?ca={others.ca}{shown[0]}",
        ]
        engines = [reached(one, query=query, call_s=0.5) for query in queries]
        run(work(*engines), *engines)


def test_certificates_are_replaced_while_somebody_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another authority signs for all: calls and watches go on, and who connects anew does so by what is new."""
    monkeypatch.setattr(trust, "LOOK_S", 0.0)

    def issue() -> tuple[str, Files, Files]:
        authority = Authority(tmp_path)
        return authority.ca, authority.issue("metadata"), authority.issue("shard", client=True)

    ca, server, ours = issue()
    tls = {"certificate": server.certificate, "key": server.key, "reload_s": 0.02}
    query = f"?ca={ca}&certificate={ours.certificate}&key={ours.key}"

    async def work(engine: ServiceEngine, one: Replica, two: Replica) -> None:
        watch = engine.watch("", await put(engine, "a"))
        await put(engine, "b")
        assert [change.key for change in await take(watch, 1)] == ["b"]
        issue()
        both = [replica.service.certificates for replica in (one, two)]
        await asyncio.to_thread(
            eventually, lambda: all(each is not None and each.reloads for each in both), "read again"
        )
        await put(engine, "c")
        assert [change.key for change in await take(watch, 1)] == ["c"]
        await asyncio.to_thread(one.stop)
        assert await engine.get("c")
        await put(engine, "d")
        assert [change.key for change in await take(watch, 1)] == ["d"]

    shared = Failing()
    config = service_config(tls, client_ca=ca)
    one = Replica(lambda: shared, config)
    with replicas(1, shared, config) as (two,):
        engine = reached(one, two, query=query)
        run(work(engine, one, two), engine)
