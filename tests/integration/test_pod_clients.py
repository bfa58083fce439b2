"""Clients of several shards behind one front-end: the contract of every client, and what becomes of a lost shard."""

import functools
import os
import signal
import time
import uuid
from contextlib import ExitStack

import pytest
import uvloop

import mezzo
from mezzo import AsyncClient, Client, Unsupported
from mezzo.testing.blocking import Blocking
from mezzo.testing.contract import ClientContract
from mezzo.testing.in_place import InPlaceContract
from mezzo_server.testing import running_frontend, running_shard
from tests.integration.tenants import tenants
from tests.patience import PATIENCE_S, eventually

SHARDS = 3
ONE_OF_SEVERAL = f"""
    [supervisor]
    shards = {SHARDS}
    [shard.hot]
    bytes = "32MiB"
    arena_bytes = "1MiB"
"""
KEYS = [b"chunk %d" % number for number in range(60)]


class Pod:
    """Shards, and a front-end that knows them."""

    def __init__(self, stack: ExitStack) -> None:
        self.shards = [stack.enter_context(running_shard(config=ONE_OF_SEVERAL)) for _ in range(SHARDS)]
        told = ", ".join(f'"{" ".join(shard.addresses)}"' for shard in self.shards)
        self.frontends = [
            stack.enter_context(
                running_frontend(self.shards[0].unix, config=f"[frontend]\nshards = [{told}]\n")
            )
            for _ in range(2)
        ]

    @property
    def grpc(self):
        return self.frontends[0].grpc


@pytest.fixture(scope="module")
def pod():
    """Tests that hurt a shard see to it that it serves again after them; its device has forgotten then."""
    with ExitStack() as stack:
        yield Pod(stack)


class _OverShards(ClientContract):
    """What only one shard can be asked is refused, and the error says what would be right."""

    via = "direct"

    @pytest.fixture
    def namespace(self):
        return f"contract-{uuid.uuid4().hex}"

    def test_events_come_in_order_and_resume(self, client):
        with pytest.raises(Unsupported, match="a shard's own"):
            next(client.events())

    def test_a_snapshot_then_events_make_the_present_set(self, client):
        with pytest.raises(Unsupported):
            client.events(snapshot=True).poll(1.0)


class _BlockingOverShards(_OverShards):
    @pytest.fixture
    def connect(self, pod):
        return lambda namespace: Client(pod.grpc, namespace=namespace, via=self.via)


class TestBlockingOverShards(_BlockingOverShards, InPlaceContract):
    pass


class TestBlockingProxiedOverShards(_BlockingOverShards):
    via = "proxy"


class TestAsynchronousOverShards(_OverShards):
    @pytest.fixture
    def connect(self, pod):
        make = functools.partial(AsyncClient, pod.grpc, via=self.via)
        return lambda namespace: Blocking(
            functools.partial(make, namespace=namespace), new_loop=uvloop.new_event_loop
        )


class TestAsynchronousProxiedOverShards(TestAsynchronousOverShards):
    via = "proxy"


def name() -> str:
    return f"pod-{uuid.uuid4().hex}"


def fill(client, region):
    """All chunks, each of 4 KiB, of its own bytes."""
    extents = [region[4096 * place : 4096 * (place + 1)] for place in range(len(KEYS))]
    for place, extent in enumerate(extents):
        extent.view[:] = bytes([place]) * 4096
    done = client.put(KEYS, extents)
    assert (done.stored, done.unanswered) == (len(KEYS), 0)
    return extents


def check_right(extents, got):
    for place, extent in enumerate(extents):
        if got.found[place]:
            assert bytes(extent.view) == bytes([place]) * 4096


def test_chunks_are_spread_over_all_shards_and_found_in_the_callers_order(pod):
    with Client(pod.grpc, namespace=name(), via="direct") as client, client.region(4096 * 60) as region:
        extents = fill(client, region)
        shares = []
        for shard in pod.shards:
            with Client(shard.unix, namespace=client.namespace_name) as alone:
                shares.append(sum(chunk is not None for chunk in alone.stat(KEYS)))
        assert sum(shares) == len(KEYS)
        assert all(shares)
        order = list(range(len(KEYS)))[::-7] + list(range(5))
        targets = [bytearray(4096) for _ in order]
        assert client.get([KEYS[place] for place in order], targets).count == len(order)
        assert [target[0] for target in targets] == order
        assert client.lookup([*KEYS[:7], b"none", *KEYS[8:]]).prefix == 7
        with client.acquire([*KEYS[:9], b"none", *KEYS[9:]], 30.0) as lease:
            assert (lease.prefix, lease.bytes, lease.held) == (9, 9 * 4096, True)
            assert lease.renew(50.0) > 30.0
            assert sum(chunk.leased for chunk in client.stat(KEYS)) == 9
        assert sum(chunk.leased for chunk in client.stat(KEYS)) == 0
        region.view[:] = bytes(len(region))
        got = client.get(KEYS, extents)
        assert got.count == len(KEYS)
        check_right(extents, got)
        assert client.shard_stat()["chunks"] >= len(KEYS)
        assert "6 regions" in repr(client), "this one and what foreign memory is staged in, at each"


@pytest.mark.parametrize("via", ["direct", "proxy"])
def test_a_killed_shard_is_its_chunks_and_nothing_else(pod, via):
    shard = pod.shards[1]
    with Client(pod.grpc, namespace=name(), via=via) as client, client.region(4096 * 60) as region:
        extents = fill(client, region)
        shard.kill()
        try:
            got = client.get(KEYS, extents)
            assert 0 < got.count < len(KEYS)
            check_right(extents, got)
            lost = got.found.index(False)
            found = client.lookup(KEYS)
            assert found.prefix == lost
            with client.acquire(KEYS, 5.0) as lease:
                assert lease.prefix == lost
            done = client.put(KEYS, extents)
            assert (done.exists, done.failed, done.unanswered) == (got.count, *[got.unanswered] * 2)
            assert got.unanswered == len(KEYS) - got.count
            assert found.unanswered
            assert client.stat(KEYS).unanswered == got.unanswered
            began = time.monotonic()
            assert client.get(KEYS, extents).count == got.count
            assert time.monotonic() - began < 2.0, "a dead shard costs no time"
        finally:
            shard.start()
        # Its device forgot; what is put goes to it again.
        eventually(lambda: client.put(KEYS, extents).failed == 0, "the shard takes chunks again")
        assert client.get(KEYS, extents).count == len(KEYS)
        region.view[:] = b"x" * len(region)


@pytest.mark.parametrize("kind", ["blocking", "asynchronous", "proxied"])
def test_a_stopped_shard_delays_nothing_beyond_the_deadline(pod, kind):
    # What there is must come through before the deadline: with less time a busy machine is too slow. A call that waits
    # for the stopped shard would not end at all.
    shard, within_s, late_s = pod.shards[2], 1.5, PATIENCE_S
    if kind == "proxied":
        client = Client(pod.grpc, namespace=name(), via="proxy")
    elif kind == "blocking":
        client = Client(pod.grpc, namespace=name(), via="direct")
    else:
        make = functools.partial(AsyncClient, pod.grpc, namespace=name(), via="direct")
        client = Blocking(make, new_loop=uvloop.new_event_loop)
    with client.region(4096 * 60) as region:
        extents = fill(client, region)
        os.kill(shard.pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: client.get(KEYS, [bytearray(4096) for _ in KEYS], deadline_s=within_s),
                lambda: client.get(KEYS, extents, deadline_s=within_s),
            ):
                began = time.monotonic()
                got = call()
                assert time.monotonic() - began < late_s
                assert 0 < got.count < len(KEYS)
                assert got.unanswered == len(KEYS) - got.count
            check_right(extents, got)
            began = time.monotonic()
            assert client.lookup(KEYS, timeout_s=within_s).prefix == got.found.index(False)
            assert time.monotonic() - began < late_s
            done = client.put(KEYS, extents, timeout_s=within_s)
            assert (done.exists, done.failed, done.unanswered) == (got.count, *[got.unanswered] * 2)
        finally:
            os.kill(shard.pid, signal.SIGCONT)
        eventually(lambda: client.get(KEYS, extents).count == len(KEYS), "the shard answers again")
        assert not region.tainted
    client.close()


def test_another_front_end_takes_over(pod):
    first, second = pod.frontends
    both = f"{first.grpc},{second.grpc.removeprefix('grpc://')}"
    with Client(both, namespace=name(), via="proxy") as client:
        assert client.put([b"k"], [b"bytes"]).stored == 1
        first.kill()
        try:
            assert client.get([b"k"], [bytearray(5)]).count == 1
            with Client([first.grpc, second.grpc], namespace=client.namespace_name) as late:
                assert late.lookup([b"k"]).prefix == 1
            with pytest.raises(mezzo.Unavailable), Client(first.grpc) as alone:
                alone.lookup([b"k"])
        finally:
            first.start()


def test_tickets_are_renewed_at_each_shard(tmp_path):
    """On the same connections, whoever of the clients asks; and a tenant is none at any of them without a token."""
    settings = "[supervisor]\nshards = 2\n"
    with tenants(tmp_path, config=settings, session_s=0.8) as those, ExitStack() as stack:
        clients = [stack.enter_context(those.client("a", way)) for way in ("unix", "tcp", "proxy")]
        make = functools.partial(AsyncClient, those.node.grpc, token=those.tokens["a"], via="direct")
        clients.append(Blocking(make))
        stack.callback(clients[-1].close)
        assert clients[0].put(KEYS, [b"%02d" % place for place in range(60)]).stored == 60
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for client in clients:
                targets = [bytearray(2) for _ in KEYS]
                # A shard that does not answer at once, on a machine that stands still, keeps nobody waiting.
                eventually(lambda: client.get(KEYS, targets).count == 60, "both answer")  # noqa: B023
                assert [int(target) for target in targets] == list(range(60))
        assert [client.statistics().connections for client in clients] == [2, 2, 1, 2]
        with pytest.raises(mezzo.Unauthenticated), those.client("revoked") as revoked:
            revoked.lookup(KEYS)
        with those.client("b-reads") as reads:
            assert reads.lookup(KEYS).prefix == 0
            with pytest.raises(mezzo.Denied):
                reads.put(KEYS, [b"x"] * 60)
