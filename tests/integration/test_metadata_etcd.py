"""The metadata engine on a real etcd: the contract, and what is etcd's own."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import urllib.request

import grpc
import pytest

from mezzo.errors import Unavailable
from mezzo_server.metadata.engine import Compacted, Engine, Write
from mezzo_server.metadata.etcd import calls
from mezzo_server.metadata.etcd import etcd_pb2 as api
from mezzo_server.metadata.etcd.engine import EtcdEngine
from mezzo_server.metadata.etcd.place import parse_place
from mezzo_server.metadata.opening import make_engine
from tests.contract.certificates import Authority
from tests.contract.metadata import MetadataContract, Rig, put, take
from tests.contract.metadata_service import ServiceRig
from tests.integration.etcd_members import find_etcd, running_etcd

pytestmark = pytest.mark.skipif(not find_etcd(), reason="there is no etcd, and none could be fetched")
numbers = itertools.count()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


class EtcdRig(Rig):
    """A folder of one etcd. Its leases end when the rig's time has come: they are revoked then, as etcd does it."""

    logged = False

    def __init__(self, cluster) -> None:
        self.url = cluster.url(f"test-{next(numbers)}")
        self.leases: dict[int, tuple[float, float]] = {}
        self.channel = grpc.insecure_channel(cluster.members[0].endpoint)

    def open(self, changes_max: int = 10_000) -> Engine:
        rig = self

        class Noting(EtcdEngine):
            async def grant(self, ttl_s: float) -> int:
                lease = await super().grant(ttl_s)
                rig.leases[lease] = (ttl_s, rig.now + ttl_s)
                return lease

            async def keep(self, lease: int) -> bool:
                held = await super().keep(lease)
                if held:
                    rig.leases[lease] = (rig.leases[lease][0], rig.now + rig.leases[lease][0])
                return held

            async def revoke(self, lease: int) -> None:
                await super().revoke(lease)
                rig.leases.pop(lease, None)

        return Noting(parse_place(self.url))

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        for lease, (_, ends) in sorted(self.leases.items(), key=lambda item: (item[1][1], item[0])):
            if ends <= self.now:
                self.end(lease)

    def end(self, lease: int) -> None:
        del self.leases[lease]
        self.ask(calls.REVOKE, api.LeaseRevokeRequest(ID=lease))

    def ask(self, method, request):
        call = self.channel.unary_unary(
            method.path, method.asked.SerializeToString, method.answered.FromString
        )
        return call(request, timeout=10)

    def close(self) -> None:
        for lease in tuple(self.leases):
            self.end(lease)
        self.channel.close()


class TestEtcdEngine(MetadataContract):
    @pytest.fixture(autouse=True)
    def _etcd(self, etcd):
        self.cluster = etcd

    def make(self) -> Rig:
        return EtcdRig(self.cluster)

    def test_a_watch_from_what_is_not_kept_is_told_so(self, rig):
        async def work(engine):
            revisions = [await put(engine, f"{n}") for n in range(6)]
            getattr(rig, "inner", rig).ask(
                calls.COMPACT, api.CompactionRequest(revision=revisions[2], physical=True)
            )
            with pytest.raises(Compacted):
                await take(engine.watch("", revisions[1]), 1)
            assert [c.key for c in await take(engine.watch("", revisions[2]), 3)] == ["3", "4", "5"]

        self.run(rig, work)


class TestServiceOverEtcd(TestEtcdEngine):
    examples = 1

    def make(self) -> Rig:
        return ServiceRig(EtcdRig(self.cluster))


def test_a_lease_that_nobody_keeps_ends(etcd):
    async def main() -> None:
        engine = make_engine(etcd.url("leases"))
        lease = await engine.grant(0.5)  # etcd's own shortest is a second or two
        after = await put(engine, "a", lease=lease)
        kept = await engine.grant(60)
        await put(engine, "b", lease=kept)
        assert [(c.key, c.value) for c in await take(engine.watch("", after + 1), 1)] == [("a", None)]
        assert not await engine.keep(lease)
        assert await engine.keep(kept)
        await engine.revoke(kept)
        await engine.close()

    asyncio.run(main())


def test_what_was_removed_is_nowhere_in_the_history_unless_it_is_left_to_etcd(etcd):
    async def main() -> None:
        engine = make_engine(etcd.url("gone", query="?compact=no"))
        revision = await put(engine, "key", b"secret")
        await engine.transact([], [Write("key", None)])
        watch = engine.watch("", revision - 1)
        assert [change.value for change in await take(watch, 2)] == [b"secret", None]
        await engine.close()
        engine = make_engine(etcd.url("gone"))
        await put(engine, "key", b"again")
        await engine.transact([], [Write("key", None)])
        await engine.close()
        channel = grpc.insecure_channel(etcd.members[0].endpoint)
        read = channel.unary_unary(
            calls.RANGE.path, api.RangeRequest.SerializeToString, api.RangeResponse.FromString
        )
        with pytest.raises(grpc.RpcError) as refused:
            read(api.RangeRequest(key=b"gone/key", revision=revision), timeout=10)
        assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE
        channel.close()

    asyncio.run(main())


def test_folders_do_not_see_one_another(etcd):
    async def main() -> None:
        one, two = make_engine(etcd.url("pods/a")), make_engine(etcd.url("pods/ab"))
        await put(one, "k", b"1")
        await put(two, "k", b"2")
        assert [e.value for e in (await one.scan("")).entries] == [b"1"]
        assert [e.value for e in (await two.scan("")).entries] == [b"2"]
        for engine in (one, two):
            await engine.close()

    asyncio.run(main())


# -- a cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_etcd(tmp_path_factory.mktemp("etcd3"), 3) as cluster:
        yield cluster


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_any_one_member_may_go(cluster, how):
    """Killed, or as good as cut off: whichever it is, leader or not, asked by us or not."""

    async def main() -> None:
        engine = make_engine(cluster.url(f"one-{int(how)}"))
        watch = engine.watch("", await put(engine, "began"))
        lease = await engine.grant(60)
        for number, member in enumerate(cluster.members):
            member.signal(how)
            written = 0
            while written < 3:
                try:
                    await put(engine, f"{number}/{written}", lease=lease)
                except Unavailable:  # it may have been made
                    pass
                else:
                    written += 1
            assert len((await engine.scan(f"{number}/")).entries) == 3
            assert await engine.keep(lease)
            seen: list[str] = []
            while f"{number}/2" not in seen:
                seen += [change.key for change in await take(watch, 1)]
            # One that may have been made, and was made again, is there twice.
            ours = [key for key in dict.fromkeys(seen) if key.startswith(f"{number}/")]
            assert ours == [f"{number}/{n}" for n in range(3)]
            if how is signal.SIGKILL:
                member.kill()
                member.start()
            else:
                member.signal(signal.SIGCONT)
            cluster.wait()
        await engine.close()

    asyncio.run(main())


def test_without_a_majority_calls_fail_in_time_and_heal(cluster):
    async def main() -> None:
        engine = EtcdEngine(parse_place(cluster.url("majority")), call_s=2.0)
        await put(engine, "a")
        for member in cluster.members[:2]:
            member.signal(signal.SIGSTOP)
        with pytest.raises(Unavailable):
            await engine.get("a")
        with pytest.raises(Unavailable):
            await put(engine, "b")
        for member in cluster.members[:2]:
            member.signal(signal.SIGCONT)
        while True:
            try:
                await put(engine, "b")
                break
            except Unavailable:
                continue
        assert await engine.get("a") is not None
        await engine.close()

    asyncio.run(main())


# -- TLS, and a user


def test_tls_with_certificates_on_both_sides(tmp_path):
    authority = Authority(tmp_path)
    server, ours = authority.issue("etcd"), authority.issue("mezzo", client=True)
    options = [f"--cert-file={server.certificate}", f"--key-file={server.key}"]
    options += [f"--trusted-ca-file={authority.ca}", "--client-cert-auth=true"]

    async def main(cluster) -> None:
        engine = make_engine(
            cluster.url("tls", query=f"?ca={authority.ca}&certificate={ours.certificate}&key={ours.key}")
        )
        await put(engine, "a")
        assert await engine.get("a") is not None
        await engine.close()
        for ca in (authority.ca, Authority(tmp_path, "another").ca):
            engine = EtcdEngine(parse_place(cluster.url("tls", query=f"?ca={ca}")), call_s=0.5)
            with pytest.raises(Unavailable, match="no member of etcd answers"):
                await engine.get("a")
            await engine.close()

    with running_etcd(tmp_path / "data", more=options) as cluster:
        asyncio.run(main(cluster))


def test_a_user_with_a_password_from_a_file(tmp_path):
    password = tmp_path / "password"
    password.write_text("as good as any\n")

    async def main(cluster) -> None:
        def ask(path: str, **body: str) -> None:
            request = urllib.request.Request(
                f"http://{cluster.members[0].endpoint}/v3/auth/{path}", json.dumps(body).encode()
            )
            urllib.request.urlopen(request, timeout=10).close()

        engine = make_engine(cluster.url("auth"))
        await put(engine, "a")
        ask("user/add", name="root", password="as good as any")
        ask("role/add", name="root")
        ask("user/grant", user="root", role="root")
        ask("enable")
        with pytest.raises(Unavailable, match="user name is empty"):
            await engine.get("a")
        await engine.close()
        query = f"?password_file={password}"
        engine = make_engine(cluster.url("auth", query=query, user="root"))
        assert await engine.get("a") is not None
        watch = engine.watch("", await put(engine, "b"))
        await put(engine, "c")
        assert [c.key for c in await take(watch, 1)] == ["c"]
        engine._calls._token = "expired.1"  # what etcd says is the same
        await put(engine, "d")
        assert await engine.keep(await engine.grant(10))
        await engine.close()
        password.write_text("wrong")
        engine = make_engine(cluster.url("auth", query=query, user="root"))
        with pytest.raises(Unavailable, match="'root'"):
            await engine.get("a")
        await engine.close()
        password.unlink()
        engine = make_engine(cluster.url("auth", query=query, user="root"))
        with pytest.raises(Unavailable, match="cannot read"):
            await engine.get("a")
        await engine.close()

    with running_etcd(tmp_path / "data") as cluster:
        asyncio.run(main(cluster))
