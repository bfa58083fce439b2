"""One simulated shard: what holds for the product's event loop must hold for what stands in for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mezzo.protocol.frame import FROM_SERVER, Frame, FrameReader
from mezzo.protocol.messages import Kind
from mezzo_server.blockstore.api import PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.memory import Memory
from mezzo_server.testing.simulation import Options
from mezzo_server.testing.simulation.clockwork import Process
from mezzo_server.testing.simulation.network import Host
from mezzo_server.testing.simulation.pod import GATHER_S, Pod
from mezzo_server.testing.simulation.shard import Life, Shard
from mezzo_server.testing.simulation.trace import Trace


@pytest.fixture
def make_shard() -> Iterator[Callable[[float], tuple[Pod, Shard, Life]]]:
    """A shard of a pod that serves, by the rate of its clock."""
    pods: list[Pod] = []

    def make(rate: float) -> tuple[Pod, Shard, Life]:
        pod = Pod(1, Options(faults=0), Trace())
        pods.append(pod)
        shard = pod.shards[0]
        shard._boot_rate = rate
        pod.clockwork.run(GATHER_S)
        assert shard.life is not None
        return pod, shard, shard.life

    yield make
    for pod in pods:
        pod.close()


@pytest.mark.parametrize("rate", [0.9995, 1.0, 1.0005])
def test_what_a_device_has_done_is_looked_at_when_it_is_done_whatever_the_rate_of_the_clock(
    make_shard: Callable[[float], tuple[Pod, Shard, Life]], monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    monkeypatch.setattr(Life, "_tick", lambda life: None)  # it would look, too, some time later
    pod, _, life = make_shard(rate)
    space = pod.spaces.all[0]
    scope = Scope(space.tenant_id, space.namespace_id)
    outcomes: list[PutOutcome] = []
    memory = Memory.anonymous(4096)
    life.store.register(memory)
    life.store.put(scope, [PutChunk(b"k", (4096,), (memory.span(0, 4096),))], outcomes.append)
    life.poke()
    pod.clockwork.run(GATHER_S + 2.0)
    assert [outcome.statuses for outcome in outcomes] == [[PutStatus.STORED]]


def test_a_clean_stop_goes_on_ticking_until_nothing_moves_to_it_any_more(
    make_shard: Callable[[float], tuple[Pod, Shard, Life]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the product's loop does: what a pull has begun may wait for space, and is refused in time by a tick."""
    pod, shard, life = make_shard(1.0)
    assert life.service.puller is not None
    refused = life.virtual_loop.create_future()

    async def stop() -> None:
        monkeypatch.setattr(life.store, "tick", lambda: refused.done() or refused.set_result(None))
        await refused

    monkeypatch.setattr(life.service.puller, "stop", stop)
    shard.stop(for_good=True)
    pod.clockwork.run(GATHER_S + 60.0)
    assert refused.done()
    assert shard.life is None


def test_who_is_refused_is_told_why(make_shard: Callable[[float], tuple[Pod, Shard, Life]]) -> None:
    """At once, as by the product: who hears nothing waits until his time is over, and takes it for a shard that hangs."""
    pod, shard, _ = make_shard(1.0)
    clockwork, told = pod.clockwork, bytearray()
    opening = pod.network.connect(Process(clockwork, "x"), Host("x"), shard.address)
    clockwork.run(clockwork.now + 0.1)
    end = opening.result()
    end.received = told.extend
    end.send(b"this is no HELLO" * 4)
    clockwork.run(clockwork.now + 0.1)
    refused = FrameReader(FROM_SERVER, body_bytes_max=4096, payload_bytes_max=0)
    refused.buffer()[: len(told)] = told
    refused.received(len(told))
    event = refused.next_event()
    assert isinstance(event, Frame)
    assert event.kind is Kind.REFUSE
