"""Shards of a pod that reach each other over TLS alone: what is read moves, and outlives who had it before."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mezzo import TLS, Client
from mezzo.errors import MezzoError
from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo_server.metadata.engine import Write
from mezzo_server.metadata.opening import make_engine
from mezzo_server.pod.plan import Plan
from mezzo_server.pod.plan_format import encode_plan
from mezzo_server.pod.records import PLAN
from mezzo_server.pod.tuning import TUNING_ONE
from mezzo_server.tenancy.registry import Registry
from mezzo_server.testing import RunningShard, running_shard
from tests.contract.certificates import Authority
from tests.patience import eventually

LOG2 = 4
KEYS = [b"chunk-%d" % number for number in range(20)]
DATA = [bytes([number]) * 300_000 for number in range(20)]


class Metadata:
    """The metadata of a pod whose maps a test makes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _do(self, work: Callable[[Any], Awaitable[object]]) -> None:
        async def run() -> None:
            engine = make_engine(self._url)
            try:
                await work(engine)
            finally:
                await engine.close()

        asyncio.run(run())

    def begin(self) -> None:
        async def make(engine: Any) -> None:
            registry = Registry(engine, time.time, os.urandom)
            tenant = await registry.ensure_tenant("default")
            await registry.open_namespace(tenant.id, "default", None)

        self._do(make)

    def plan(self, epoch: int, owner: int, shards: list[bytes], before: int | None = None) -> None:
        """All slots are of one of the shards; another is asked still, if one had them before."""
        slots = range(1 << LOG2)
        previous = {} if before is None else dict.fromkeys(slots, before)
        places = [ShardPlace(shard, shard.hex()[:8], "", (), 1) for shard in shards]
        pod_map = PodMap(bytes(range(16)), epoch, LOG2, places, [owner] * len(slots), previous)
        tunings = dict.fromkeys(shards, TUNING_ONE)
        moved = dict.fromkeys(previous, time.time())
        value = encode_plan(Plan(pod_map, tunings, {}, {}, moved))
        self._do(lambda engine: engine.transact([], [Write(PLAN, value)]))


def id_of(shard: RunningShard) -> bytes:
    return bytes.fromhex(str(shard.readiness["id"]))


def done(call: Callable[[], bool]) -> bool:
    try:
        return call()
    except MezzoError:
        return False  # it does not serve, or does not follow the map yet


def test_chunks_move_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("shard")
    url = f"sqlite://{tmp_path}/metadata.db"
    config = (
        f'[metadata]\nengine = "{url}"\n[pod]\nenabled = true\nnode = "one"\n'
        f'[tls]\ncertificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{authority.ca}"\n'
    )
    metadata = Metadata(url)
    metadata.begin()

    def start(_: int) -> RunningShard:
        return stack.enter_context(
            running_shard(listen=["tcps://127.0.0.1:0"], devices=["memory:128MiB"], config=config)
        )

    with ExitStack() as stack:
        with ThreadPoolExecutor(2) as starting:
            old, new = starting.map(start, range(2))
        shards = [id_of(old), id_of(new)]
        metadata.plan(1, 0, shards)
        tls = TLS(ca=authority.ca)
        with Client(old.tcps, tls=tls) as client:
            eventually(lambda: done(lambda: client.put(KEYS, DATA).failed == 0), "the first shard serves")
        metadata.plan(2, 1, shards, before=0)
        with Client(new.tcps, tls=tls) as client:
            eventually(
                lambda: done(lambda: client.lookup(KEYS).prefix == len(KEYS)), "what is read has moved"
            )
            old.kill()
            targets = [bytearray(300_000) for _ in KEYS]
            assert client.get(KEYS, targets).count == len(KEYS)
            assert targets == DATA
        new.kill()
