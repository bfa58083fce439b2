"""Second copies in a simulated pod: they come, and the simulator knows who may have them."""

from __future__ import annotations

import pytest

from mezzo.placement.pod_map import PodMap, ShardPlace
from mezzo_server.testing.simulation import Options, simulate
from mezzo_server.testing.simulation.catalog import Erasure, Space
from mezzo_server.testing.simulation.history import History, Version
from mezzo_server.testing.simulation.placement import Placement
from mezzo_server.testing.simulation.violation import Violation

A, B, C = (bytes([number]) * 16 for number in range(3))
SPACE = Space("t0", b"t" * 16, b"n" * 16, 0, b"", 2)
SLOTS = 1 << 4


def test_chunks_of_who_asks_for_two_copies_and_popular_ones_are_pulled_by_their_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mezzo_server.testing.simulation.pod.TENANTS", ((2, 1),))
    monkeypatch.setattr("mezzo_server.testing.simulation.pod.POPULAR_GETS_PER_S", (0.1,))
    outcome = simulate(3, Options(faults=0, seconds=15))
    assert outcome.failure is None
    assert outcome.numbers["copied"] > 0
    assert outcome.numbers["popular"] > 0


def pod_map(epoch: int, owner: int, second: int, before: int | None = None) -> PodMap:
    shards = [ShardPlace(shard, f"n{shard[0]}", "", ("tcp://s:1",), 100) for shard in (A, B, C)]
    previous = {} if before is None else dict.fromkeys(range(SLOTS), before)
    return PodMap(b"p" * 16, epoch, 4, shards, [owner] * SLOTS, previous, [second] * SLOTS)


def planned(*, copies: bool) -> Placement:
    """A slot whose second changes at 2 s, as all know at 3 s."""
    now = [1.0]
    placement = Placement(4, lambda: now[0], copies=copies)
    placement.planned(pod_map(1, 0, 1))
    placement.acted_by([1])
    now[0] = 2.0
    placement.planned(pod_map(2, 0, 2))
    now[0] = 3.0
    placement.acted_by([2])
    now[0] = 5.0
    return placement


def test_with_copies_a_slot_is_settled_when_its_second_is() -> None:
    slot = planned(copies=True).slot(SPACE, b"k")
    assert planned(copies=True).settled_since(slot) == 3.0
    assert planned(copies=False).settled_since(slot) == 1.0


def test_a_chunk_is_deleted_everywhere_when_all_who_were_second_have_deleted_it_too() -> None:
    placement = planned(copies=True)
    for shard in (A, C):
        placement.deleted(shard, SPACE, b"k")
    assert placement.deleted_everywhere(SPACE, b"k", 2.5, 4.0, 6.0)
    assert not placement.deleted_everywhere(SPACE, b"k", 1.5, 4.0, 6.0), "B was second then"
    placement.deleted(B, SPACE, b"k")
    assert placement.deleted_everywhere(SPACE, b"k", 1.5, 4.0, 6.0)
    placement.lost(B, lies=True)
    assert not placement.deleted_everywhere(SPACE, b"k", 1.5, 4.0, 6.0)


def test_the_device_of_a_second_that_lies_is_believed_nothing() -> None:
    placement = planned(copies=True)
    slot = placement.slot(SPACE, b"k")
    placement.lost(B, lies=True)
    assert not placement.lies(slot), "it is second no more"
    placement.lost(C, lies=True)
    assert placement.lies(slot)


def moved(before: int | None) -> tuple[list[float], Placement, History, Version]:
    """The clock, and a version that was put before its slot moved, at 2 s; ``before``: who is asked still."""
    now = [1.0]
    placement = Placement(4, lambda: now[0], copies=True)
    history = History("1", placement)
    placement.planned(pod_map(1, 0, 1))
    placement.acted_by([1])
    older = history.put(SPACE, b"k", 1.5, 100)
    history.stored(older, 1.6)
    now[0] = 2.0
    placement.planned(pod_map(2, 2, 1, before))
    placement.acted_by([2])
    return now, placement, history, older


@pytest.mark.parametrize("asked_still", [False, True])
def test_what_was_put_before_the_slot_moved_is_not_seen_after_a_put_unless_its_former_owner_is_asked_still(
    asked_still: bool,
) -> None:
    now, placement, history, older = moved(0 if asked_still else None)
    newer = history.put(SPACE, b"k", 3.0, 100)
    assert history.got(SPACE, b"k", older.data, 3.5, 3.6) is older, "the put has not ended"
    history.stored(newer, 3.7)
    assert history.got(SPACE, b"k", newer.data, 4.0, 4.1) is newer
    if asked_still:
        assert history.got(SPACE, b"k", older.data, 4.0, 4.1) is older
        return
    with pytest.raises(Violation, match=r"version 0 was got at 4\.100 although version 1 was stored"):
        history.got(SPACE, b"k", older.data, 4.0, 4.1)
    now[0] = 3.8
    placement.lost(C)
    assert history.got(SPACE, b"k", older.data, 4.0, 4.1) is older, (
        "the power cut may have taken the later one"
    )


def test_what_a_former_owner_had_may_come_while_he_is_asked_and_so_be_seen_later() -> None:
    now, placement, history, older = moved(0)
    newer = history.put(SPACE, b"k", 3.0, 100)
    history.stored(newer, 3.1)
    now[0] = 4.0
    placement.planned(pod_map(3, 2, 1))
    slot = placement.slot(SPACE, b"k")
    assert placement.alone_since(slot) == float("inf"), "somebody asks him by the map before"
    now[0] = 4.5
    placement.acted_by([3])
    assert placement.alone_since(slot) == 4.5
    assert history.got(SPACE, b"k", older.data, 5.0, 5.1) is older
    last = history.put(SPACE, b"k", 6.0, 100)
    history.stored(last, 6.1)
    with pytest.raises(Violation, match=r"version 0 was got at 7\.100 although version 2 was stored"):
        history.got(SPACE, b"k", older.data, 7.0, 7.1)


def test_while_an_erasure_is_heard_of_what_was_before_may_be_seen_at_who_has_not() -> None:
    space = Space("t0", b"t" * 16, b"n" * 16, 0, b"", 2)
    assert space.heard(1.0, 2.0)
    space.erasures.append(Erasure(1, at=1.5, known=1.8))
    assert not space.heard(1.0, 2.0)
    assert not space.heard(1.0, 1.6)
    assert space.heard(1.0, 1.4)
    assert space.heard(1.9, 2.0)
