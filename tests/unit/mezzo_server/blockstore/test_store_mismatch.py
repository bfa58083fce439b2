"""Bytes that are not what was stored: detected, served as a miss, put again; who is to blame."""

from __future__ import annotations

import pytest

from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutStatus, Scope
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.devices.faulty import FaultyDevice
from mezzo_server.memory import Memory
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options

STORED = PutStatus.STORED


def place_of(rig: Rig, key: bytes) -> int:
    """Byte offset of a chunk on the first device."""
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), key)
    assert place is not None
    return place[0].offset + place[0].table.block[place[1]] * 4096


def turn_over(rig: Rig) -> None:
    """Put so much that every segment is reclaimed."""
    reclaimed = rig.counters["segments_reclaimed"]
    number = 0
    while rig.counters["segments_reclaimed"] < reclaimed + 12:
        rig.put(b"over-%d-%d" % (reclaimed, number), 60_000)
        number += 1
    rig.drain()


@pytest.mark.parametrize("length", [4096, 5000, 150_000])
def test_source_changed_while_it_was_written(length: int) -> None:
    rig = Rig()
    scribbled = chunk(b"k", content(b"k", length))
    outcomes, _ = rig.begin_put([chunk(b"before", b"x" * 9000), scribbled, chunk(b"after", b"y" * 9000)])
    while not rig.devices[0].in_flight:
        rig.store.pump()
        if outcomes:
            break
        # checksums were taken, the device has not read the memory yet
        context = audit.context_of(rig.store)
        for log in context.logs:
            if any(span.memory is scribbled.source[0].memory for op in log.queue for span in op.spans):
                scribbled.source[0].view[:10] = b"scribbled!"
    scribbled.source[0].view[:10] = b"scribbled!"
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].statuses == [STORED] * 3
    rig.drain()
    data = rig.get(b"k")
    assert data in (None, content(b"k", length))
    assert rig.get(b"before") == b"x" * 9000
    assert rig.get(b"after") == b"y" * 9000
    if data is None:
        assert rig.put(b"k", length) is STORED
        assert rig.get(b"k") == content(b"k", length)
    turn_over(rig)
    assert rig.store.report().devices[0].segments_retired == 0, "a client's scribbling retires nothing"


def test_source_changed_surely() -> None:
    rig = Rig(in_order=False, options=options(inline_bytes=1 << 20))
    scribbled = chunk(b"k", content(b"k", 8192))
    outcomes, _ = rig.begin_put([scribbled])
    scribbled.source[0].view[:10] = b"scribbled!"  # checksummed inline, written later
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].statuses == [STORED]
    assert rig.get(b"k") is None
    assert rig.counters["chunks_corrupt"] == 1
    assert rig.put(b"k", 8192) is STORED
    assert rig.get(b"k") == content(b"k", 8192)
    rig.restart()
    assert rig.get(b"k") == content(b"k", 8192)
    turn_over(rig)
    assert rig.store.report().devices[0].segments_retired == 0


@pytest.mark.parametrize("length", [8192, 12_288, 150_000])
def test_target_changed_while_it_was_read(length: int) -> None:
    rig = Rig()
    rig.put(b"k", length)
    rig.put(b"m", length)
    memory = Memory.anonymous(2 * 163_840)
    one, two = memory.span(0, length), memory.span(163_840, length)
    outcomes: list[GetOutcome] = []
    rig.store.get(SCOPE, [GetChunk(b"k", (one,)), GetChunk(b"m", (two,))], outcomes.append)
    log = audit.context_of(rig.store).logs[0]
    reap = log.device.reap

    def reap_and_scribble() -> list:  # type: ignore[type-arg]
        ended = reap()
        if ended and not scribbled:
            scribbled.append(True)
            one.view[:4] = b"oops"
        return ended

    scribbled: list[bool] = []
    log.device.reap = reap_and_scribble  # type: ignore[method-assign]
    rig.until(lambda: bool(outcomes))
    # a second read, into memory of the server, proves that the chunk is well
    assert outcomes[0].lengths == [length, length]
    assert bytes(one.view) == content(b"k", length)
    assert bytes(two.view) == content(b"m", length)
    assert rig.counters["mismatches_not_confirmed"] == 1
    assert rig.counters["chunks_corrupt"] == 0
    rig.drain()


def test_a_flipped_bit_in_every_block() -> None:
    rig = Rig(segments=8)
    keys = rig.fill("k", 12, 40_000)
    rig.store.close()
    image = rig.devices[0].peek()
    for block in range((2 << 20) // 4096, len(image) // 4096):
        device = FaultyDevice(image, in_order=True, name="d0")
        device.flip(block * 4096 + block % 4096, block % 8)
        rig.devices = [device]
        rig.open()
        for key in keys if block % 8 == 0 else keys[block % 3 :: 3]:
            data = rig.get(key)
            if data is None:
                assert rig.put(key, 40_000) is STORED
                data = rig.get(key)
            assert data == content(key, 40_000)
        if block % 16 == 0:
            rig.drain()
            assert rig.store.report().devices[0].segments_retired == 0


@pytest.mark.parametrize("way", ["get", "stream", "scrub", "reclaim"])
def test_rot_is_found_by_every_reader(way: str) -> None:
    rig = Rig(options=options(scrub_bytes_per_s=float(1 << 30)))
    keys = rig.fill("k", 20, 20_000)
    rig.restart("close")
    rig.devices[0].flip(place_of(rig, keys[3]) + 11_111)
    leased = keys[1::2] if way == "reclaim" else keys
    for key in leased:
        assert rig.store.pin(SCOPE, key) == 20_000
    if way == "get":
        assert rig.get(keys[3]) is None
    elif way == "stream":
        assert rig.stream(keys[3]) is None
    elif way == "scrub":
        for _ in range(40):
            rig.time += 0.02
            rig.drain(ticks=1)
    else:
        turn_over(rig)
    rig.drain()
    assert not rig.has(keys[3])
    assert rig.counters["chunks_corrupt"] == 1
    assert all(rig.get(key) == content(key, 20_000) for key in leased if key != keys[3])
    assert rig.put(keys[3], 20_000) is STORED
    assert rig.get(keys[3]) == content(keys[3], 20_000)
    rig.restart()
    assert rig.get(keys[3]) == content(keys[3], 20_000)


def test_a_corrupt_chunk_does_not_come_back() -> None:
    rig = Rig()
    keys = rig.fill("k", 5, 20_000)
    rig.drain()
    offset = place_of(rig, keys[0])
    before = rig.devices[0].peek(offset, 4096)
    rig.devices[0].flip(offset + 5)
    assert rig.get(keys[0]) is None
    rig.drain()
    rig.devices[0].poke(offset, before)  # the rot heals; the key left the index for good
    assert rig.get(keys[0]) is None
    rig.restart()
    assert rig.get(keys[0]) is None


@pytest.mark.parametrize("broken", [False, True])
def test_a_place_is_retired_only_if_the_pattern_does_not_come_back(broken: bool) -> None:
    rig = Rig()
    keys = rig.fill("k", 20, 40_000)
    rig.store.close()
    context = audit.context_of(rig.store)
    place = context.find(context.index.namespace(SCOPE), keys[0])
    assert place is not None
    offset = place[0].offset + place[0].table.block[place[1]] * 4096
    faults = [Fault(FaultKind.ROTTEN_READ, within=(offset, offset + 40_960), times_max=None if broken else 2)]
    rig.restart(faults=faults)
    assert rig.get(keys[0]) is None
    turn_over(rig)
    assert rig.counters["chunks_corrupt"] >= 1
    assert rig.store.report().devices[0].segments_retired == int(broken)
    rig.restart("close")
    assert rig.store.report().devices[0].segments_retired == int(broken)
    turn_over(rig)


@pytest.mark.parametrize(
    "other", [Scope(b"T" * 16, SCOPE.namespace), Scope(SCOPE.tenant, b"N" * 16)], ids=["tenant", "namespace"]
)
@pytest.mark.parametrize("key", [b"k", b"m"])
def test_the_right_bytes_under_the_wrong_name_are_a_miss(other: Scope, key: bytes) -> None:
    """Should an index ever be wrong by a fault of ours: what a chunk is stands in its checksum."""
    rig = Rig()
    rig.put(b"k", 8192)
    rig.put(key, 8192, other)
    index = audit.context_of(rig.store).index
    theirs = index.namespace(SCOPE).get(b"k")
    assert theirs is not None
    index.namespace(other).set(key, theirs)
    assert rig.get(key, other) is None
    index.namespace(other).set(key, theirs)
    assert rig.stream(key, other) is None


def test_what_landed_of_a_mismatch_is_zeroed() -> None:
    rig = Rig()
    rig.put(b"k", 50_000)
    rig.devices[0].flip(place_of(rig, b"k"))
    memory = Memory.anonymous(53_248)
    memory.view[:] = b"\x77" * 53_248
    assert rig.get_outcome([GetChunk(b"k", (memory.span(0, 50_000),))]).lengths == [-1]
    assert bytes(memory.view[:50_000]) in (bytes(50_000), b"\x77" * 50_000)


def test_payloads_that_imitate_the_format() -> None:
    """Bytes of a client that are a copy of headers and records of this very device prove nothing."""
    rig = Rig()
    rig.put(b"victim", 9000)
    rig.delete(b"victim")
    rig.drain()
    context = audit.context_of(rig.store)
    segment = next(iter(context.logs[0].segments.values()))
    stolen = rig.devices[0].peek(segment.offset, 8 * 4096)
    for number in range(30):
        assert rig.put(b"evil-%d" % number, stolen) is STORED
    rig.drain()
    for how in ("kill", "cut", "close"):
        rig.restart(how)
        assert not rig.has(b"victim")
        data = rig.get(b"evil-29")
        assert data is None or data == stolen
