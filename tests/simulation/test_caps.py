"""Limits of a simulated shard: each is looked at after each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from mezzo.protocol.messages import Kind
from mezzo_server.blockstore.io import Op, Transfer
from mezzo_server.testing.simulation import Options
from mezzo_server.testing.simulation.caps import Caps, check_session
from mezzo_server.testing.simulation.pod import GATHER_S, Pod
from mezzo_server.testing.simulation.shard import Life
from mezzo_server.testing.simulation.trace import Trace
from mezzo_server.testing.simulation.violation import Violation


@dataclass
class Running:
    """A pod whose first shard has started."""

    pod: Pod
    life: Life

    def step(self) -> None:
        """Let it do something."""
        self.life.poke()
        self.pod.clockwork.run(self.pod.clockwork.now + 0.001)


@pytest.fixture
def running() -> Iterator[Running]:
    pod = Pod(1, Options(faults=0), Trace())
    pod.clockwork.run(GATHER_S, lambda: pod.shards[0].life is not None)
    life = pod.shards[0].life
    assert life is not None
    yield Running(pod, life)
    pod.close()


def too_many(count: int) -> dict[int, None]:
    return dict.fromkeys(range(count))


class Held(dict[int, None]):
    """So many leases, that are not looked into."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


BREAK: dict[str, Callable[[Caps], None]] = {
    "segments of the device": lambda caps: caps._log.free.append(caps._log.free[0]),
    "open segments": lambda caps: caps._log.open.update(too_many(caps._open_max + 1)),
    "bytes of puts that wait": lambda caps: vars(caps._puts).update(
        in_flight=2, waiting_bytes=caps._puts_max + 1
    ),
    "requests that wait for memory": lambda caps: vars(caps._staging).update(
        _waiting=caps._staging.waiting_max + 1
    ),
    "of the store's that wait for memory": lambda caps: vars(caps._store_staging).update(
        _waiting=caps._store_staging.waiting_max + 1
    ),
    "leased bytes": lambda caps: vars(caps._leases).update(bytes_leased=caps._leases.bytes_max + 1),
    "leased chunks": lambda caps: vars(caps._leases).update(chunks_leased=caps._leases.chunks_max + 1),
    "leases": lambda caps: vars(caps._leases).update(_leases=Held(caps._leases.leases_max + 1)),
    "sessions": lambda caps: vars(caps).update(_sessions=too_many(caps._limits.connections_max + 1)),
    "keys that are to be moved": lambda caps: vars(caps._moves).update(_queued=caps._queue_max + 1),
    "keys of one tenant that are to be moved": lambda caps: vars(caps._moves).update(
        _queued=caps._queue_max, _queued_of={b"t": caps._queue_max}
    ),
    "keys that are to be moved or are moving": lambda caps: vars(caps._moves).update(
        _known=too_many(caps._known_max + 1)
    ),
    "pulls": lambda caps: caps._moves._under_way.update(too_many(5)),
    "deleted keys that are remembered": lambda caps: caps._moves._forgotten._order.extend(
        [(0.0, 0, 0)] * (caps._forgotten_max + 1)
    ),
    "absent keys that are remembered": lambda caps: caps._moves._absent._order.extend([(0.0, 0, 0)] * 16385),
    "sources that failed": lambda caps: caps._moves._sources.update(too_many(1025)),
    "bytes of popular copies": lambda caps: vars(caps._copies).update(_kept_bytes=1 << 30),
}


def caps_of(life: Life) -> Caps:
    caps = getattr(life.loop.look, "__self__", None)
    assert isinstance(caps, Caps)
    return caps


def test_all_is_within_its_limits(running: Running) -> None:
    caps = caps_of(running.life)
    assert [what for what, _, _ in caps.each()] == list(BREAK)
    running.step()
    assert all(count <= most for _, count, most in caps.each())


@pytest.mark.parametrize("what", BREAK)
def test_what_is_over_its_limit_ends_the_run_after_the_step(running: Running, what: str) -> None:
    BREAK[what](caps_of(running.life))
    with pytest.raises(Violation, match=f"s0 has .* {what}; .* the most"):
        running.step()


def test_what_one_connection_has_is_looked_at_as_well(running: Running) -> None:
    pod = running.pod
    pod.clockwork.run(GATHER_S)
    pod.clients[0].worker.start()
    pod.clockwork.run(
        GATHER_S + 3.0, lambda: any(shard.life and shard.life.connections for shard in pod.shards)
    )
    life = next(shard.life for shard in pod.shards if shard.life and shard.life.connections)
    session = next(iter(life.connections.values())).session
    session.share.bytes_held = session.share.bytes_max + 1
    with pytest.raises(Violation, match="bytes of memory"):
        check_session("s0 and c0", session)
    session.share.bytes_held = 0
    session._window_used = session.limits.in_flight_bytes_max + 1
    with pytest.raises(Violation, match="bytes in flight"):
        check_session("s0 and c0", session)
    session._window_used = 0
    session.requests.update(dict.fromkeys(range(Kind.PING, 100)))  # type: ignore[dict-item]
    with pytest.raises(Violation, match="requests"):
        check_session("s0 and c0", session)


def test_nothing_is_written_behind_the_end_of_a_device(running: Running) -> None:
    device = running.life.device
    with pytest.raises(Violation, match="behind the end"):
        device.submit([Transfer(Op.WRITE, device.size_bytes, (running.life.staging.memory.span(0, 4096),))])
