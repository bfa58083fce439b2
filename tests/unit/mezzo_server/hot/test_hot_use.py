"""Slots of a store's hot tier that somebody uses: streams have pieces of them, leases hold them or warm them."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import PutStatus
from mezzo_server.blockstore.hot_stream import HotStream
from mezzo_server.memory import Span
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, content
from tests.unit.mezzo_server.hot.looking import slot_of, the_slot, tiers, word

STORED = PutStatus.STORED


@pytest.mark.parametrize("fill_puts", [True, False])
def test_streams(fill_puts: bool) -> None:
    rig = Rig(hot={"fill_puts": fill_puts})
    rig.put(b"k", 150_001)
    for _ in range(2):
        assert rig.stream(b"k") == content(b"k", 150_001)
    assert tiers(rig) == ((2, 0) if fill_puts else (1, 1))
    rig.drain()


def test_a_slot_is_not_reused_while_a_stream_has_pieces_of_it() -> None:
    rig = Rig(hot={"bytes_max": 128 << 10, "arena_bytes": 64 << 10})
    rig.put(b"k", 60_000)
    stream = rig.store.stream(SCOPE, b"k")
    assert isinstance(stream, HotStream)
    pieces: list[Span | None] = []
    stream.next(pieces.append)
    piece = pieces[0]
    assert piece is not None
    rig.delete(b"k")
    for number in range(5):
        rig.put(b"%d" % number, 60_000)
    assert bytes(piece.view) == content(b"k", 60_000)
    assert stream.finish()
    assert bytes(piece.view) == content(b"k", 60_000)
    stream.drop(piece)
    rig.drain()
    with pytest.raises(RuntimeError, match="once"):
        stream.finish()


def test_a_stream_that_ends_early_gives_its_slot_back() -> None:
    rig = Rig(hot={})
    rig.put(b"k", 60_000)
    stream = rig.store.stream(SCOPE, b"k")
    assert stream is not None
    assert not stream.finish()
    rig.drain()


def test_hold_and_let_go() -> None:
    rig = Rig(hot={"held_fraction": 0.2})
    assert rig.store.hold(SCOPE, b"k") is None
    rig.put(b"k", 60_000)
    first, again = rig.store.hold(SCOPE, b"k"), rig.store.hold(SCOPE, b"k")
    assert first is again is the_slot(rig, b"k")
    assert first is not None
    assert (first.holds, first.length, first.generation) == (2, 60_000, word(rig, first))
    held = [first, first]
    for number in range(5):
        rig.put(b"%d" % number, 60_000)
        slot = rig.store.hold(SCOPE, b"%d" % number)
        if slot is not None:
            held.append(slot)
    assert len({id(slot) for slot in held}) == 3, "a fifth of a MiB holds three"
    for slot in held:
        rig.store.let_go(slot)
    assert rig.store.report().counters["hot_bytes_held"] == 0
    rig.drain()


def test_warm_brings_in_what_is_there() -> None:
    rig = Rig(hot={"fill_puts": False})
    keys = rig.fill("k", 5, 20_000)
    told: list[int] = []
    rig.store.warm(SCOPE, [keys[0], b"missing", *keys[1:], keys[0]], lambda: told.append(1))
    assert rig.store.busy
    rig.until(lambda: bool(told))
    assert all(bytes(the_slot(rig, key).span().view) == content(key, 20_000) for key in keys)
    rig.store.warm(SCOPE, keys, lambda: told.append(2))
    assert told == [1, 2], "nothing was to be read"
    rig.store.warm(SCOPE, [], lambda: told.append(3))
    assert told == [1, 2, 3]
    rig.drain()
    assert told == [1, 2, 3]


def test_warm_takes_no_more_than_clients_may_hold() -> None:
    rig = Rig(hot={"fill_puts": False, "held_fraction": 0.25})
    keys = rig.fill("k", 10, 60_000)
    told: list[int] = []
    rig.store.warm(SCOPE, keys, lambda: told.append(1))
    rig.until(lambda: bool(told))
    assert [slot_of(rig, key) is not None for key in keys] == [True] * 5 + [False] * 5
    assert rig.store.hold(SCOPE, keys[0]) is not None


def test_what_is_used_in_place_counts_as_read_on_its_device() -> None:
    rig = Rig(hot={})
    keys = [b"a", b"b"]
    for key in keys:
        assert rig.put(key, 5_000) is STORED
    context = audit.context_of(rig.store)
    places = [context.find(context.index.peek(SCOPE), key) for key in keys]
    assert [place[0].table.touched[place[1]] for place in places if place] == [0, 0]
    pins = rig.store.pins
    held = [slot for slot in pins.hold_all(SCOPE, [b"b"]) if slot is not None]
    assert [place[0].table.touched[place[1]] for place in places if place] == [0, 1]
    pins.let_go_all(held)
    rig.drain()
