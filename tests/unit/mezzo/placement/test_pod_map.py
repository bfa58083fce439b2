"""Maps of a pod: what goes over the wire comes back, differences lead there, and what is broken is refused."""

from __future__ import annotations

import random
from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import FormatError, InvalidArgument
from mezzo.placement.pod_map import (
    PodMap,
    ShardPlace,
    ShardState,
    apply,
    decode_difference,
    decode_map,
    difference,
    encode_difference,
    encode_map,
)
from mezzo.placement.rendezvous import NOBODY, Contender, owners

POD = bytes(range(16))
LOG2 = 5
SLOTS = 1 << LOG2


def shard(
    number: int, weight: int = 100, state: ShardState = ShardState.SERVING, node: str = ""
) -> ShardPlace:
    return ShardPlace(
        bytes([number]) * 16, node or f"n{number}", "", (f"tcp://n{number}:7700",), weight, state
    )


@st.composite
def maps(draw, epoch: int = 1):
    numbers = draw(st.lists(st.integers(0, 9), unique=True, max_size=6))
    shards = [
        shard(n, draw(st.sampled_from([0, 1, 100])), draw(st.sampled_from(list(ShardState)))) for n in numbers
    ]
    indexes = st.sampled_from([*range(len(shards)), NOBODY])
    table = draw(st.lists(indexes, min_size=SLOTS, max_size=SLOTS))
    previous = (
        draw(st.dictionaries(st.integers(0, SLOTS - 1), st.integers(0, len(shards) - 1), max_size=8))
        if shards
        else {}
    )
    seconds = draw(st.just([]) | st.lists(indexes, min_size=SLOTS, max_size=SLOTS))
    return PodMap(POD, epoch, LOG2, shards, array("H", table), previous, seconds)


@given(maps())
def test_a_map_comes_back(pod_map):
    assert decode_map(encode_map(pod_map)) == pod_map


@given(maps(), maps(epoch=2))
def test_a_difference_leads_from_one_map_to_the_other(one, other):
    step = decode_difference(encode_difference(difference(one, other)))
    assert apply(one, step) == other


def test_a_release_that_knows_no_seconds_reads_the_rest():
    """Fields are only ever appended: an older reader leaves out what is behind those that it knows."""
    pod_map = PodMap(POD, 1, LOG2, [shard(1), shard(2)], [0, 1] * (SLOTS // 2), {}, [1, 0] * (SLOTS // 2))
    fields = msgspec.msgpack.decode(encode_map(pod_map))
    older = decode_map(msgspec.msgpack.encode(fields[:7]))
    assert (older.table, older.shards) == (pod_map.table, pod_map.shards)
    assert not older.seconds
    assert older.second(3) is None
    assert pod_map.second(3) == shard(1)


def test_seconds_take_little_more_than_a_byte_a_slot():
    draw = random.Random(7)
    shards = [shard(n) for n in range(200)]
    table = [draw.randrange(200) for _ in range(1 << 12)]
    seconds = [draw.randrange(200) for _ in range(1 << 12)]
    plain = encode_map(PodMap(POD, 1, 12, shards, table, {}))
    assert len(encode_map(PodMap(POD, 1, 12, shards, table, {}, seconds))) - len(plain) < 1.05 * (1 << 12)


def test_a_difference_tells_only_what_changed():
    before = [Contender(bytes([n]) * 16, 100) for n in range(64)]
    after = [*before, Contender(bytes([99]) * 16, 100)]
    one = PodMap(POD, 1, 12, [shard(n) for n in range(64)], owners(before, 12), {})
    other = PodMap(POD, 2, 12, [*one.shards, shard(99)], owners(after, 12), {})
    whole, step = encode_map(other), encode_difference(difference(one, other))
    assert len(step) < len(whole) / 10
    assert apply(one, decode_difference(step)) == other


def test_a_difference_is_for_one_map_only():
    one = PodMap(POD, 1, LOG2, [shard(1)], [0] * SLOTS, {})
    two = PodMap(POD, 2, LOG2, [shard(1)], [0] * SLOTS, {})
    step = difference(one, two)
    with pytest.raises(InvalidArgument, match="epoch 1"):
        apply(two, step)
    with pytest.raises(InvalidArgument):
        difference(one, PodMap(POD, 2, LOG2 + 1, [shard(1)], [0] * 2 * SLOTS, {}))
    with pytest.raises(InvalidArgument):
        difference(one, PodMap(bytes(16), 2, LOG2, [shard(1)], [0] * SLOTS, {}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"table": [0] * (SLOTS - 1)}, "slots"),
        ({"table": [2] * SLOTS}, "none of the shards"),
        ({"shards": [shard(1), shard(1)]}, "twice"),
        ({"previous": {SLOTS: 0}}, "no such slot"),
        ({"previous": {0: 2}}, "no such slot"),
        ({"pod": b"short"}, "16 bytes"),
        ({"slots_log2": 3, "table": [0] * 8}, "slots"),
    ],
)
def test_what_does_not_fit_together_is_no_map(change, why):
    parts = {"pod": POD, "epoch": 1, "slots_log2": LOG2, "shards": [shard(1), shard(2)], "table": [0] * SLOTS}
    with pytest.raises(InvalidArgument, match=why):
        PodMap(**{"previous": {}, **parts, **change})


@given(maps(), st.data())
def test_any_byte_changed_gives_a_map_or_an_error(pod_map, data):
    encoded = bytearray(encode_map(pod_map))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_map(bytes(encoded))
    except FormatError:
        pass


@given(st.binary(max_size=200))
def test_anything_at_all_gives_an_error(data):
    for decode in (decode_map, decode_difference):
        try:
            decode(data)
        except FormatError:
            pass


def test_a_table_that_inflates_without_end_is_refused_before_it_does():
    import zlib

    bomb = zlib.compress(bytes(64 << 20), 9)
    for field in (5, 6):
        parts = msgspec.msgpack.decode(encode_map(PodMap(POD, 1, LOG2, [shard(1)], [0] * SLOTS, {0: 0})))
        parts[field] = bomb
        with pytest.raises(FormatError, match="another size"):
            decode_map(msgspec.msgpack.encode(parts))


def test_a_later_version_is_told():
    parts = msgspec.msgpack.decode(encode_map(PodMap(POD, 1, LOG2, [], [NOBODY] * SLOTS, {})))
    parts[0] = 7
    with pytest.raises(FormatError, match="version 7"):
        decode_map(msgspec.msgpack.encode(parts))


def test_owners_by_slot():
    pod_map = PodMap(POD, 1, LOG2, [shard(1), shard(2)], [0, 1, *[NOBODY] * (SLOTS - 2)], {1: 0})
    assert pod_map.owner(0) == shard(1)
    assert pod_map.owner(2) is None
    assert pod_map.owner_before(1) == shard(1)
    assert pod_map.owner_before(0) is None
    assert 0 <= pod_map.slot(bytes(16), bytes(16), b"key") < SLOTS
