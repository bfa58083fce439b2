"""Puts and gets: shapes of chunks and memory, keys that meet, requests that are long or empty."""

from __future__ import annotations

import pytest

from mezzo.errors import Busy, ClientClosed, DeadlineExceeded, InvalidArgument, TooLarge
from mezzo_server.blockstore.api import GetChunk, PutChunk, PutOutcome, PutStatus, Scope
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.devices.memory import MemoryDevice
from mezzo_server.memory import Memory, Span
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import SEGMENT_BYTES, options

STORED, EXISTS, FAILED = PutStatus.STORED, PutStatus.EXISTS, PutStatus.FAILED


@pytest.mark.parametrize("length", [1, 511, 4095, 4096, 4097, 8191, 100_000, 190_000])
@pytest.mark.parametrize("shift", [0, 512, 3])
def test_any_length_from_and_into_any_memory(length: int, shift: int) -> None:
    rig = Rig()
    data = content(b"k", length)
    assert rig.put_chunks([chunk(b"k", data, shift=shift)]).statuses == [STORED]
    for into in (0, 512, 1):
        memory = Memory.anonymous(length + into + 4096)
        memory.view[:] = b"\xaa" * memory.length
        target = memory.span(into, length)
        assert rig.get_outcome([GetChunk(b"k", (target,))]).lengths == [length]
        assert bytes(target.view) == data
        assert bytes(memory.view[:into]) == b"\xaa" * into
        rest = memory.length - into - length
        assert bytes(memory.view[into + length :]) == b"\xaa" * rest, "bytes beside the target changed"
    assert rig.stream(b"k") == data
    rig.drain()


@pytest.mark.parametrize("cuts", [(4096, 8192), (1, 2), (5000, 5001), (4096, 4097), (512, 8192 + 512)])
def test_extents(cuts: tuple[int, int]) -> None:
    rig = Rig()
    data = content(b"k", 50_001)
    first, second = cuts
    pieces = [data[:first], data[first:second], data[second:]]
    spans = []
    for piece in pieces:
        span = Memory.anonymous(len(piece) + 7).span(0, len(piece))
        span.view[:] = piece
        spans.append(span)
    assert rig.put_chunks([PutChunk(b"k", (50_001,), tuple(spans))]).statuses == [STORED]
    for span in spans:
        span.view[:] = bytes(span.length)
    assert rig.get_outcome([GetChunk(b"k", tuple(spans))]).lengths == [50_001]
    assert b"".join(bytes(span.view) for span in spans) == data
    rig.drain()


def test_parts_are_read_alone() -> None:
    rig = Rig()
    lengths = (1, 4096, 10_000, 4095, 30_000)
    data = content(b"k", sum(lengths))
    rig.put_chunks([chunk(b"k", data, parts=lengths)])
    for first in range(6):
        for count in range(6):
            end = first + count if count else len(lengths)
            expected = data[sum(lengths[:first]) : sum(lengths[:end])]
            assert (rig.get(b"k", first_part=first, part_count=count) or b"") == expected
    info = rig.store.info(SCOPE, b"k")
    assert info is not None
    assert info.parts == lengths


def test_most_parts() -> None:
    rig = Rig()
    lengths = tuple(range(1, 257))
    data = content(b"k", sum(lengths))
    assert rig.put_chunks([chunk(b"k", data, parts=lengths)]).statuses == [STORED]
    rig.restart("close")
    assert rig.get(b"k", first_part=200, part_count=1) == data[sum(lengths[:200]) :][:201]
    rig.restart()
    assert rig.get(b"k") == data


def test_wrong_puts_are_refused_before_anything_is_done() -> None:
    rig = Rig()
    good = chunk(b"good", b"x" * 100)
    for wrong, error in (
        (chunk(b"", b"x"), InvalidArgument),
        (chunk(b"k" * 65, b"x"), InvalidArgument),
        (PutChunk(b"k", (), ()), InvalidArgument),
        (PutChunk(b"k", (0,), ()), InvalidArgument),
        (chunk(b"k", b"xyz", parts=(1, 1)), InvalidArgument),
        (chunk(b"k", bytes(300_000)), TooLarge),
        (chunk(b"k", bytes(257), parts=(1,) * 257), InvalidArgument),
    ):
        with pytest.raises(error):
            rig.store.put(SCOPE, [good, wrong], lambda outcome: None)
    assert not rig.has(b"good")
    rig.drain()


def test_chunk_too_long_for_its_target() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    with pytest.raises(TooLarge):
        rig.get(b"k", room=4999)
    with pytest.raises(InvalidArgument):
        rig.get(b"k", first_part=-1)
    with pytest.raises(InvalidArgument):
        rig.store.stream(SCOPE, b"k", first_part=-1)
    rig.drain()


def test_empty_requests_are_answered() -> None:
    rig = Rig()
    assert rig.put_chunks([]).statuses == []
    assert rig.get_outcome([]).lengths == []
    assert rig.delete() == ([], None)
    rig.drain()
    rig.store.close()


def test_namespaces_do_not_see_each_other() -> None:
    rig = Rig()
    other = Scope(b"u" * 16, b"n" * 16)
    assert rig.put(b"k", b"mine") is STORED
    assert rig.get(b"k", other) is None
    assert rig.put(b"k", b"his", other) is STORED
    assert (rig.get(b"k"), rig.get(b"k", other)) == (b"mine", b"his")
    rig.delete(b"k", scope=other)
    assert (rig.get(b"k"), rig.get(b"k", other)) == (b"mine", None)


def test_same_key_twice_in_one_request_and_in_two() -> None:
    rig = Rig()
    twice = rig.put_chunks([chunk(b"k", b"first"), chunk(b"k", b"second")])
    assert twice.statuses == [STORED, EXISTS]
    assert rig.get(b"k") == b"first"
    one, _ = rig.begin_put([chunk(b"m", b"first")])
    two, _ = rig.begin_put([chunk(b"m", b"second")])
    rig.until(lambda: bool(one and two))
    assert (one[0].statuses, two[0].statuses) == ([STORED], [EXISTS])
    assert rig.get(b"m") == b"first"


def test_the_second_put_goes_on_when_the_first_fails() -> None:
    # the first payload write fails; superblocks and the segment header are written before
    rig = Rig()
    rig.restart(faults=[Fault(FaultKind.EIO_WRITE, nth=(2,))])
    one, _ = rig.begin_put([chunk(b"k", b"first")])
    two, _ = rig.begin_put([chunk(b"k", b"second")])
    rig.until(lambda: bool(one and two))
    assert (one[0].statuses, two[0].statuses) == ([FAILED], [STORED])
    assert rig.get(b"k") == b"second"
    rig.drain()


def test_delete_waits_for_a_put_under_way_and_wins() -> None:
    rig = Rig()
    outcomes, _ = rig.begin_put([chunk(b"k", b"bytes")])
    assert rig.delete(b"k") == ([True], None)
    assert outcomes[0].statuses == [STORED]
    assert rig.get(b"k") is None
    rig.restart()
    assert rig.get(b"k") is None


def test_thousands_of_waiters_for_one_key() -> None:
    rig = Rig()
    answers: list[PutOutcome] = []
    for _ in range(5000):
        rig.store.put(SCOPE, [chunk(b"k", b"bytes")], answers.append)
    rig.until(lambda: len(answers) == 5000)
    assert sum(answer.statuses == [STORED] for answer in answers) == 1
    rig.drain()


def test_thousands_of_waiters_that_all_fail() -> None:
    rig = Rig()
    rig.restart(faults=[Fault(FaultKind.EIO_WRITE)])
    answers: list[PutOutcome] = []
    tickets = [rig.store.put(SCOPE, [chunk(b"k", b"bytes")], answers.append) for _ in range(2000)]
    for ticket in tickets[1000:]:
        ticket.abandon()
    rig.until(lambda: len(answers) == 2000)
    assert all(answer.statuses == [FAILED] for answer in answers)
    assert not rig.store.busy


def test_a_callback_that_raises_harms_nobody_else() -> None:
    rig = Rig()

    def wrong(*arguments: object) -> None:
        raise LookupError("the caller's own fault")

    other, _ = rig.begin_put([chunk(b"other", b"bytes")])
    rig.store.put(SCOPE, [chunk(b"k", b"bytes")], wrong)
    with pytest.raises(LookupError):
        rig.until(lambda: not rig.store.busy)
    rig.until(lambda: bool(other))
    memory = Memory.anonymous(4096)
    rig.store.get(SCOPE, [GetChunk(b"k", (memory.span(),))], wrong)
    with pytest.raises(LookupError):
        rig.until(lambda: not rig.store.busy)
    rig.store.delete(SCOPE, [b"k"], wrong)
    with pytest.raises(LookupError):
        rig.until(lambda: not rig.store.busy)
    assert rig.put(b"k", b"again") is STORED
    rig.drain()


def test_long_requests_do_not_run_in_one_turn() -> None:
    rig = Rig(segments=40)
    chunks = [chunk(b"k%d" % n, b"%d" % n) for n in range(1000)]
    outcomes, _ = rig.begin_put(chunks)
    turns = 0
    most = 0
    while not outcomes:
        before = rig.counters["chunks_put"]
        rig.store.pump()
        most = max(most, rig.counters["chunks_put"] - before)
        turns += 1
    assert outcomes[0].statuses == [STORED] * 1000
    assert turns >= 1000 // 128
    assert most <= 256
    memory = Memory.anonymous(1000 * 4096)
    targets = [GetChunk(b"k%d" % n, (memory.span(n * 4096, 4096),)) for n in range(1000)]
    assert rig.get_outcome(targets).lengths == [len(b"%d" % n) for n in range(1000)]
    deleted, error = rig.delete(*[b"k%d" % n for n in range(1000)], b"never")
    assert (sum(deleted), deleted[-1], error) == (1000, False, None)
    rig.drain()


def test_over_the_limit_of_waiting_bytes() -> None:
    rig = Rig(options=options(waiting_bytes_max=100_000))
    rig.begin_put([chunk(b"a", bytes(90_000))])
    with pytest.raises(Busy):
        rig.begin_put([chunk(b"b", bytes(20_000))])
    rig.drain()
    assert rig.put(b"b", 20_000) is STORED


def test_abandoned_while_it_waits_for_space() -> None:
    rig = Rig(segments=8)
    keys = rig.fill("k", 4, 190_000)
    for key in keys:
        rig.store.pin(SCOPE, key)
    puts = [rig.begin_put([chunk(b"late-%d" % n, bytes(190_000))]) for n in range(6)]
    for _ in range(50):
        rig.store.pump()
    late = [(outcomes, ticket) for outcomes, ticket in puts if not outcomes]
    for _, ticket in late:
        ticket.abandon()
        ticket.abandon()
    for outcomes, _ in late:
        assert outcomes[0].statuses == [FAILED]
        assert isinstance(outcomes[0].error, DeadlineExceeded)
    rig.drain()


def test_closed_store_refuses() -> None:
    rig = Rig()
    rig.put(b"k", 5000)
    rig.store.close()
    rig.store.close()
    with pytest.raises(ClientClosed):
        rig.put(b"m", 1)
    with pytest.raises(ClientClosed):
        rig.get(b"k")


def test_close_refuses_what_waits_for_space_and_ends_what_is_written() -> None:
    rig = Rig(segments=8)
    for key in rig.fill("k", 4, 190_000):
        rig.store.pin(SCOPE, key)
    puts = [rig.begin_put([chunk(b"late-%d" % n, bytes(190_000))])[0] for n in range(8)]
    rig.store.close()
    statuses = [outcomes[0].statuses[0] for outcomes in puts]
    assert set(statuses) <= {STORED, FAILED}
    rig.restart()
    for number, status in enumerate(statuses):
        assert rig.has(b"late-%d" % number) == (status is STORED)


def test_a_stream_of_thousands_of_pieces_does_not_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mezzo_server.blockstore.stream.PIECE_BYTES", 64)
    device = MemoryDevice((2 << 20) + 10 * SEGMENT_BYTES)  # lends its memory: every piece is there at once
    rig = Rig()
    rig.devices = [device]  # type: ignore[list-item]
    rig.open()
    rig.put(b"k", 190_000)
    stream = rig.store.stream(SCOPE, b"k")
    assert stream is not None
    data = bytearray()

    def ready(span: Span | None) -> None:
        assert span is not None
        data.extend(span.view)
        stream.drop(span)
        if len(data) < stream.length:
            stream.next(ready)

    stream.next(ready)
    assert stream.finish()
    assert bytes(data) == content(b"k", 190_000)
    rig.drain()
