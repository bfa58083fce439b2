"""What the simulator knows of tenants: whose bytes are whose, and what was erased."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo_server.blockstore.api import Scope
from mezzo_server.testing.simulation import Options
from mezzo_server.testing.simulation.pod import GATHER_S, Pod
from mezzo_server.testing.simulation.trace import Trace
from mezzo_server.testing.simulation.violation import Violation

SECONDS = 12.0


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pod]:
    """Of two tenants, that has gathered."""
    monkeypatch.setattr("mezzo_server.testing.simulation.pod.TENANTS", ((1, 1),))
    made = Pod(3, Options(faults=0), Trace())
    made.clockwork.run(GATHER_S)
    yield made
    made.close()


def test_the_bytes_of_one_tenant_are_wrong_bytes_for_another(pod: Pod) -> None:
    one, other = pod.spaces.all
    version = pod.history.put(one, b"k1", 5.0, 100)
    pod.history.put(other, b"k1", 5.0, 100)
    assert pod.history.got(one, b"k1", version.data, 6.0, 6.1) is version
    with pytest.raises(Violation, match="wrong bytes: 100 bytes of b'k1' of t1 are of b'k1' of t0"):
        pod.history.got(other, b"k1", version.data, 6.0, 6.1)


def test_a_session_of_one_tenant_is_in_no_namespace_of_another(pod: Pod) -> None:
    one, other = pod.spaces.all
    assert pod.spaces.of(Scope(one.tenant_id, one.namespace_id, 0, 3)) is one
    with pytest.raises(Violation, match="namespace of another"):
        pod.spaces.of(Scope(one.tenant_id, other.namespace_id))


def test_what_was_erased_is_seen_by_nobody_once_all_shards_have_heard_of_it(pod: Pod) -> None:
    one, other = pod.spaces.all
    for client in pod.clients:
        client.worker.start()
    pod.clockwork.run(SECONDS)
    version = pod.history.put(one, b"none of theirs", pod.clockwork.now, 100)
    kept = pod.history.put(other, b"none of theirs", pod.clockwork.now, 100)
    pod.history.stored(version, pod.clockwork.now)
    pod.history.stored(kept, pod.clockwork.now)
    pod.clockwork.run(SECONDS + 0.1)
    pod.spaces.erase(one)
    assert not pod.spaces.settled
    asked = pod.clockwork.now
    assert pod.history.got(one, b"none of theirs", version.data, asked, asked) is version
    pod.clockwork.run(SECONDS + 1.0)
    assert pod.spaces.settled
    asked = pod.clockwork.now
    with pytest.raises(Violation, match="was erased at"):
        pod.history.got(one, b"none of theirs", version.data, asked, asked)
    assert pod.history.got(other, b"none of theirs", kept.data, asked, asked) is kept
    for life in (shard.life for shard in pod.shards):
        assert life is not None
        assert life.store.report().chunks == sum(index.count for index in life.store._context.index)
        assert all(
            index.scope.namespace_generation == (index.scope.namespace == one.namespace_id)
            for index in life.store._context.index
            if index.count
        )
