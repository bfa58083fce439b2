"""Reads that wait for memory, which slow clients of the same tenant may hold for as long as they like."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import GetChunk, GetOutcome, Scope
from mezzo_server.memory import Memory, Span
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, content

KEYS = {SCOPE.tenant: b"K" * 32}
OTHER = Scope(b"o" * 16, b"n" * 16)
LENGTH = 30_001


def crowded(rig: Rig) -> list[Span]:
    """The tenant has had its part of the staging memory; others find some."""
    pieces = []
    while (piece := rig.staging.take(16 << 10, SCOPE.tenant)) is not None:
        pieces.append(piece)
    return pieces


def rig_with_a_chunk(*, sealed: bool, hot: dict[str, object] | None = None) -> Rig:
    rig = Rig(keys=KEYS if sealed else None, hot=hot)
    rig.put(b"k", LENGTH)
    rig.restart("close")
    return rig


def begin_get(rig: Rig) -> tuple[list[GetOutcome], Memory]:
    outcomes: list[GetOutcome] = []
    memory = Memory.anonymous(64 << 10)
    # Not aligned: it needs memory of the server's.
    rig.store.get(SCOPE, [GetChunk(b"k", (memory.span(1, LENGTH),))], outcomes.append)
    for _ in range(20):
        rig.store.pump()
    return outcomes, memory


WAYS = pytest.mark.parametrize(
    ("sealed", "hot"), [(False, None), (True, None), (True, {"fill_puts": False})], ids=["", "sealed", "hot"]
)


@WAYS
def test_a_get_goes_on_when_memory_comes(sealed: bool, hot: dict[str, object] | None) -> None:
    rig = rig_with_a_chunk(sealed=sealed, hot=hot)
    pieces = crowded(rig)
    outcomes, memory = begin_get(rig)
    assert not outcomes
    for piece in pieces:
        rig.staging.give(piece)
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].lengths == [LENGTH]
    assert bytes(memory.view[1 : LENGTH + 1]) == content(b"k", LENGTH)
    rig.drain()


def life_of_it(rig: Rig) -> int:
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), b"k")
    assert place is not None
    return place[0].life


@WAYS
@pytest.mark.parametrize("deleted", [False, True])
def test_reclaim_does_not_wait_for_a_get_that_waits(
    sealed: bool, hot: dict[str, object] | None, deleted: bool
) -> None:
    rig = rig_with_a_chunk(sealed=sealed, hot=hot)
    pieces, life = crowded(rig), life_of_it(rig)
    outcomes, memory = begin_get(rig)
    if deleted:
        rig.delete(b"k")
    rig.fill("x", 150, 20_000, OTHER)
    assert life not in audit.context_of(rig.store).lives
    assert not outcomes
    there = rig.has(b"k")
    assert not (deleted and there)
    for piece in pieces:
        rig.staging.give(piece)
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].lengths == [LENGTH if there else -1]
    assert bytes(memory.view[1 : LENGTH + 1]) == (content(b"k", LENGTH) if there else bytes(LENGTH))
    rig.drain()


@pytest.mark.parametrize("deleted", [False, True])
def test_nor_for_a_stream_of_an_encrypted_chunk(deleted: bool) -> None:
    rig = rig_with_a_chunk(sealed=True)
    pieces, life = crowded(rig), life_of_it(rig)
    stream, given_up = rig.store.stream(SCOPE, b"k"), rig.store.stream(SCOPE, b"k")
    assert stream is not None
    assert given_up is not None
    came: list[Span | None] = []
    stream.next(came.append)
    assert not given_up.finish()
    if deleted:
        rig.delete(b"k")
    rig.fill("x", 150, 20_000, OTHER)
    assert life not in audit.context_of(rig.store).lives
    assert not came
    there = rig.has(b"k")
    for piece in pieces:
        rig.staging.give(piece)
    rig.until(lambda: bool(came))
    (span,) = came
    assert (None if span is None else bytes(span.view)) == (content(b"k", LENGTH) if there else None)
    if span is not None:
        stream.drop(span)
    assert stream.finish() is there
    rig.drain()


def test_what_is_deleted_meanwhile_is_a_miss() -> None:
    rig = rig_with_a_chunk(sealed=False)
    pieces = crowded(rig)
    outcomes, memory = begin_get(rig)
    rig.delete(b"k")
    for piece in pieces:
        rig.staging.give(piece)
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].lengths == [-1]
    assert not any(memory.view)
    rig.drain()
