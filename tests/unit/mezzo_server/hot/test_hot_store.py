"""The store with a hot tier: what is hot is right, is on a device as well, and leaves with its chunk."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mezzo.checksum import part_seed
from mezzo.errors import InternalError
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutChunk, PutStatus
from mezzo_server.blockstore.devices.faults import Fault, FaultKind
from mezzo_server.blockstore.io import Job, Op
from mezzo_server.hot.slots import State
from mezzo_server.memory import Memory, Span
from mezzo_server.workers import InlineWorkers, checksum_spans
from tests.simulation import audit
from tests.simulation.rig import SCOPE, Rig, chunk, content
from tests.simulation.world import options
from tests.unit.mezzo_server.hot.looking import slot_of, the_slot, tiers, word

STORED = PutStatus.STORED
READS: dict[str, object] = {"fill_puts": False}


@pytest.mark.parametrize("length", [1, 100, 4096, 5000, 40_000, 150_001])
@pytest.mark.parametrize("inline_bytes", [0, 1 << 20])
def test_what_was_put_is_got_without_a_device(length: int, inline_bytes: int) -> None:
    rig = Rig(hot={}, options=options(inline_bytes=inline_bytes))
    assert rig.put(b"k", length) is STORED
    assert bytes(the_slot(rig, b"k").span().view) == content(b"k", length)
    assert rig.get(b"k") == content(b"k", length)
    assert tiers(rig) == (1, 0)
    assert rig.counters["bytes_got_hot"] == length
    rig.drain()
    rig.restart()
    assert slot_of(rig, b"k") is None, "a start begins with an empty tier"
    assert rig.get(b"k") == content(b"k", length), "it was on the device all the same"
    assert tiers(rig) == (0, 1)
    assert rig.get(b"k") == content(b"k", length)
    assert tiers(rig) == (1, 1)
    rig.drain()


def test_parts_and_scattered_targets() -> None:
    rig = Rig(hot={})
    data = content(b"k", 30_000)
    memory = Memory.anonymous(65_536)
    memory.view[7:30_007] = data
    parts = (5_000, 1, 20_000, 4_999)
    assert rig.put_chunks([PutChunk(b"k", parts, (memory.span(7, 30_000),))]).statuses == [STORED]
    target = Memory.anonymous(65_536)
    spans = (target.span(3, 11_000), target.span(20_000, 30_000))
    assert rig.get_outcome([GetChunk(b"k", spans)]).lengths == [30_000]
    assert bytes(target.view[3:11_003]) + bytes(target.view[20_000:39_000]) == data
    assert sum(target.view[39_000:]) == 0
    assert rig.get(b"k", first_part=1, part_count=2) == data[5_000:25_001]
    assert rig.get(b"k", first_part=3) == data[25_001:]
    assert tiers(rig) == (3, 0)
    rig.restart()
    assert rig.get(b"k", first_part=3) == data[25_001:]
    assert slot_of(rig, b"k") is None, "a part of a chunk does not make it hot"
    rig.drain()


def test_what_is_read_becomes_hot_where_puts_do_not() -> None:
    rig = Rig(hot=READS)
    rig.put(b"k", 20_000)
    assert slot_of(rig, b"k") is None
    for _ in range(3):
        assert rig.get(b"k") == content(b"k", 20_000)
    assert tiers(rig) == (2, 1)
    rig.drain()


def test_gets_that_come_while_it_is_read_wait_for_it() -> None:
    rig = Rig(hot=READS)
    rig.put(b"k", 40_000)
    outcomes: list[GetOutcome] = []
    memory = Memory.anonymous(4 * 65_536)
    targets = [memory.span(n * 65_536, 40_000) for n in range(4)]
    reads = count_reads(rig)
    for target in targets:
        rig.store.get(SCOPE, [GetChunk(b"k", (target,))], outcomes.append)
    rig.until(lambda: len(outcomes) == 4)
    assert all(bytes(target.view) == content(b"k", 40_000) for target in targets)
    assert tiers(rig) == (3, 1)
    assert sum(reads) == 40_960
    rig.drain()


def count_reads(rig: Rig) -> list[int]:
    """Bytes of each read of a device from now on."""
    sizes: list[int] = []
    for device in rig.devices:
        submit = device.submit

        def counting(transfers: Sequence[object], submit: object = submit) -> None:
            sizes.extend(transfer.length for transfer in transfers if transfer.op is Op.READ)  # type: ignore[attr-defined]
            submit(transfers)  # type: ignore[operator]

        device.submit = counting  # type: ignore[method-assign]
    return sizes


def test_neighbours_are_read_into_their_slots_together() -> None:
    rig = Rig(hot=READS)
    memory = Memory.anonymous(8 * 8192)
    chunks = [PutChunk(b"%d" % n, (8192,), (memory.span(n * 8192, 8192),)) for n in range(6)]
    rig.put_chunks(chunks)
    reads = count_reads(rig)
    assert rig.get_outcome([GetChunk(b"%d" % n, (memory.span(n * 8192, 8192),)) for n in range(6)]).lengths
    assert reads == [6 * 8192]
    rig.drain()


@pytest.mark.parametrize("how", ["delete", "corrupt", "turn over"])
def test_what_leaves_the_device_leaves_the_tier(how: str) -> None:
    rig = Rig(hot={"bytes_max": 4 << 20})
    rig.put(b"k", 20_000)
    slot = the_slot(rig, b"k")
    before = slot.generation
    if how == "delete":
        rig.delete(b"k")
    elif how == "corrupt":
        context = audit.context_of(rig.store)
        namespace = context.index.peek(SCOPE)
        place = context.find(namespace, b"k")
        assert place is not None
        rig.store._deletes.drop(namespace, b"k", *place)
    else:
        number = 0
        while rig.has(b"k"):
            rig.put(b"over-%d" % number, 60_000)
            number += 1
    rig.drain()
    assert slot_of(rig, b"k") is None
    assert word(rig, slot) > before
    assert rig.get(b"k") is None
    assert rig.put(b"k", 30_000) is STORED
    assert rig.get(b"k") == content(b"k", 30_000)


def test_what_is_rewritten_stays_hot() -> None:
    rig = Rig(hot={"bytes_max": 16 << 20})
    rig.put(b"k", 20_000)
    slot = the_slot(rig, b"k")
    before = slot.generation
    assert rig.store.pin(SCOPE, b"k")
    for number in range(100):
        rig.put(b"over-%d" % number, 60_000)
    rig.drain()
    assert rig.counters["chunks_rewritten"] > 0
    assert slot_of(rig, b"k") is slot
    assert (slot.state, word(rig, slot)) == (State.READY, before)
    assert rig.get(b"k") == content(b"k", 20_000)
    assert tiers(rig) == (1, 0)
    rig.store.unpin(SCOPE, b"k")


@pytest.mark.parametrize("length", [8192, 150_000])
def test_memory_that_changes_by_itself_is_noticed(length: int) -> None:
    rig = Rig(hot={}, options=options(inline_bytes=20_000))
    rig.put(b"k", length)
    slot = the_slot(rig, b"k")
    before = slot.generation
    slot.span().view[length // 2] ^= 4
    assert rig.get(b"k") == content(b"k", length)
    assert rig.counters["hot_mismatches"] == 1
    assert rig.counters["chunks_corrupt"] == 0
    assert tiers(rig) == (0, 1)
    assert word(rig, slot) > before
    assert rig.get(b"k") == content(b"k", length)
    rig.drain()


@pytest.mark.parametrize("inline_bytes", [0, 1 << 20])
def test_memory_that_changes_by_itself_is_noticed_though_nobody_copies_it(inline_bytes: int) -> None:
    rig = Rig(hot={}, options=options(inline_bytes=inline_bytes, scrub_bytes_per_s=1e6))
    keys = [b"%d" % number for number in range(12)]
    for number, key in enumerate(keys):
        rig.put(key, 5_000 + 7_000 * (number % 3))
    rotten = the_slot(rig, keys[4])
    before = rotten.generation
    rotten.span().view[4_000] ^= 4
    for _ in range(60):
        rig.time += 0.02
        rig.store.tick()
        rig.drain()
    assert rig.counters["hot_scrubbed_bytes"] >= 12 * 12_000, "all of them were looked at"
    assert rig.counters["hot_mismatches"] == 1
    assert word(rig, rotten) > before
    assert [key for key in keys if slot_of(rig, key) is None] == [keys[4]]
    assert [rig.get(key) for key in keys] == [
        content(key, 5_000 + 7_000 * (number % 3)) for number, key in enumerate(keys)
    ]
    assert tiers(rig) == (11, 1)
    rig.drain()


class Scribbling(InlineWorkers):
    """A client writes into its region between the copy and the checksum."""

    def copy_checksum(self, source: Sequence[Span], target: Sequence[Span], seed: int) -> int:
        super().copy_checksum(source, target, seed)
        target[0].view[0] ^= 1
        return checksum_spans(target, seed)


def test_a_client_that_scribbles_on_its_target_harms_only_itself() -> None:
    rig = Rig(hot={}, options=options(inline_bytes=1 << 20))
    rig.put(b"k", 9000)
    rig.store.workers.__class__ = Scribbling
    assert rig.get(b"k") == content(b"k", 9000)
    assert rig.counters["mismatches_not_confirmed"] == 1
    assert rig.counters["hot_mismatches"] == 0
    assert the_slot(rig, b"k").state is State.READY
    rig.drain()


@pytest.mark.parametrize("length", [5000, 8192, 150_000])
def test_a_client_that_scribbles_on_its_source_changes_nothing(length: int) -> None:
    rig = Rig(hot={}, options=options(inline_bytes=1 << 20))
    scribbled = chunk(b"k", content(b"k", length))
    outcomes, _ = rig.begin_put([scribbled])
    scribbled.source[0].view[:10] = b"scribbled!"  # copied already, not written yet
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].statuses == [STORED]
    assert rig.get(b"k") == content(b"k", length)
    rig.restart()
    assert rig.get(b"k") == content(b"k", length), "what was stored is what was checksummed"
    assert rig.counters["chunks_corrupt"] == 0
    rig.drain()


def test_bytes_that_changed_before_they_were_put_are_refused() -> None:
    rig = Rig(hot={})
    put = chunk(b"k", content(b"k", 9000))
    context = audit.context_of(rig.store)
    seed = part_seed(context.seed(context.index.namespace(SCOPE), b"k"), 0)
    put.checksums = (checksum_spans(put.source, seed),)
    put.source[0].view[100] ^= 1
    outcome = rig.put_chunks([put])
    assert outcome.statuses == [PutStatus.FAILED]
    assert isinstance(outcome.error, InternalError)
    assert slot_of(rig, b"k") is None
    assert rig.get(b"k") is None
    put.source[0].view[100] ^= 1
    assert rig.put_chunks([put]).statuses == [STORED]
    assert rig.get(b"k") == content(b"k", 9000)
    rig.drain()


def test_a_failed_write_leaves_nothing_hot() -> None:
    rig = Rig(hot={}, options=options(io_errors_max=100))
    rig.put(b"other", 9000)
    rig.restart(faults=[Fault(FaultKind.EIO_WRITE, within=(2 << 20, 1 << 40), times_max=3)])
    generations = [slot.generation for slot in audit.slots_of(rig.hot)]  # type: ignore[arg-type]
    assert rig.put(b"k", 20_000) is PutStatus.FAILED
    assert slot_of(rig, b"k") is None
    assert rig.get(b"k") is None
    assert all(slot.state is State.FREE for slot in audit.slots_of(rig.hot))  # type: ignore[arg-type]
    assert len(generations) == 0
    rig.drain()


def test_a_failed_read_into_a_slot_is_a_miss_for_all_who_wait() -> None:
    rig = Rig(hot=READS, options=options(io_errors_max=100))
    rig.put(b"k", 20_000)
    context = audit.context_of(rig.store)
    place = context.find(context.index.peek(SCOPE), b"k")
    assert place is not None
    offset = place[0].offset + place[0].table.block[place[1]] * 4096
    rig.restart("close", faults=[Fault(FaultKind.EIO_READ, within=(offset, offset + 20_480))])
    outcomes: list[GetOutcome] = []
    memory = Memory.anonymous(65_536)
    for n in range(2):
        rig.store.get(SCOPE, [GetChunk(b"k", (memory.span(n * 32_768, 20_000),))], outcomes.append)
    rig.until(lambda: len(outcomes) == 2)
    assert [outcome.lengths for outcome in outcomes] == [[-1], [-1]]
    assert all(slot.state is State.FREE for slot in audit.slots_of(rig.hot))  # type: ignore[arg-type]
    assert rig.counters["chunks_missed"] == 2


def test_deleted_while_it_is_read_into_its_slot() -> None:
    rig = Rig(hot=READS)
    rig.put(b"k", 20_000)
    memory = Memory.anonymous(32_768)
    outcomes: list[GetOutcome] = []
    rig.store.get(SCOPE, [GetChunk(b"k", (memory.span(0, 20_000),))], outcomes.append)
    slot = the_slot(rig, b"k")
    assert slot.state is State.FILLING
    rig.store.delete(SCOPE, [b"k"], lambda *_: None)
    rig.until(lambda: bool(outcomes))
    rig.drain()
    assert outcomes[0].lengths in ([-1], [20_000])
    if outcomes[0].lengths == [20_000]:
        assert bytes(memory.view[:20_000]) == content(b"k", 20_000)
    assert slot.state is State.FREE
    assert slot_of(rig, b"k") is None


def test_the_same_key_again_takes_no_slot() -> None:
    rig = Rig(hot={})
    rig.put(b"k", 9000)
    slot = the_slot(rig, b"k")
    assert rig.put(b"k", 9000) is PutStatus.EXISTS
    assert slot_of(rig, b"k") is slot
    assert rig.hot is not None
    assert rig.hot.report()["hot_fills"] == 1


def test_no_room_is_as_without_a_hot_tier() -> None:
    rig = Rig(hot={"bytes_max": 128 << 10, "arena_bytes": 64 << 10, "held_fraction": 1.0})
    rig.put(b"a", 60_000)
    slot = rig.store.hold(SCOPE, b"a")
    assert slot is not None
    rig.put(b"b", 60_000)
    assert rig.hot is not None
    held = [slot]
    other = rig.store.hold(SCOPE, b"b")
    if other is not None:
        held.append(other)
    assert rig.put(b"c", 60_000) is STORED
    assert rig.get(b"c") == content(b"c", 60_000)
    assert slot_of(rig, b"c") is None
    assert rig.hot.pressed
    for one in held:
        rig.store.let_go(one)
    assert rig.get(b"c") == content(b"c", 60_000)
    assert slot_of(rig, b"c") is not None
    rig.drain()


class Reversed(InlineWorkers):
    """What was asked for last is done first."""

    def submit(self, jobs: Sequence[Job]) -> None:
        super().submit(list(jobs)[::-1])


def test_a_slot_is_not_reused_while_it_is_copied_from() -> None:
    rig = Rig(hot={"bytes_max": 128 << 10, "arena_bytes": 64 << 10}, options=options(inline_bytes=0))
    rig.put(b"k", 60_000)
    rig.store.workers.__class__ = Reversed
    slot = the_slot(rig, b"k")
    memory = Memory.anonymous(65_536)
    outcomes: list[GetOutcome] = []
    rig.store.get(SCOPE, [GetChunk(b"k", (memory.span(0, 60_000),))], outcomes.append)
    rig.store.delete(SCOPE, [b"k"], lambda *_: None)
    rig.begin_put([chunk(b"x", content(b"x", 60_000))])
    assert slot.state is State.LEAVING
    rig.until(lambda: bool(outcomes))
    assert outcomes[0].lengths == [60_000]
    assert bytes(memory.view[:60_000]) == content(b"k", 60_000)
    assert rig.counters["hot_mismatches"] == 0
    rig.drain()


def test_without_a_hot_tier() -> None:
    rig = Rig()
    rig.put(b"k", 9000)
    told: list[int] = []
    assert rig.store.hot is None
    assert rig.store.hold(SCOPE, b"k") is None
    rig.store.warm(SCOPE, [b"k"], lambda: told.append(1))
    assert told == [1]
    assert rig.get(b"k") == content(b"k", 9000)
    assert tiers(rig) == (0, 1)
    assert rig.store.hot_bytes(SCOPE, [b"k"]) == 0


def test_a_slow_device_does_not_make_hot_chunks_slow() -> None:
    rig = Rig(hot={"bytes_max": 1 << 20})
    keys = rig.fill("k", 3, 60_000)
    loads, pace = rig.store.loads, audit.context_of(rig.store).logs[0].pace
    for _ in range(50):
        # a MiB from the device takes half a second
        pace.begin(1 << 20, rig.time)
        rig.time += 0.5
        pace.moved(1 << 20, rig.time)

    def estimate(hot: int, cold: int) -> float:
        return loads.estimate(SCOPE.tenant, hot, cold, None, None).seconds

    before = estimate(0, 180_000)
    assert before > 0.05
    assert estimate(180_000, 0) < 0.001
    assert rig.store.sizes(SCOPE, [*keys, b"missing"])[:4] == (3, 180_000, 3, 180_000)
    memory = Memory.anonymous(1 << 20)
    for key in keys * 5:
        rig.get_outcome([GetChunk(key, (memory.span(0, 60_000),))])
    assert estimate(0, 180_000) == before, "hot gets say nothing about devices"
