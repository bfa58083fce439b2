"""Plans as bytes: what is written comes back, and whatever else comes is refused, within bounds."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mezzo.errors import FormatError, TooLarge
from mezzo_server.metadata.engine import VALUE_BYTES_MAX
from mezzo_server.pod import plan_format
from mezzo_server.pod.plan import Member, Pace, Plan, empty_plan, next_plan
from mezzo_server.pod.plan_format import VERSION, decode_plan, encode_plan
from mezzo_server.pod.records import Drain, MemberRecord, Settings, decode, encode, member_key, shard_of

POD = bytes(range(16))
MEMBERS = [Member(bytes([n]) * 16, f"n{n}", "", (f"tcp://n{n}:1",), (n + 1) << 30) for n in range(1, 6)]


@st.composite
def plans(draw, log2: int = 6) -> Plan:
    """What a pod came to through joins, drains and leaves."""
    plan, now = empty_plan(POD, log2), 0.0
    pace = Pace(ramp_s=draw(st.sampled_from([0.0, 100.0])), asked_s=1000.0)
    for _ in range(draw(st.integers(0, 6))):
        members = draw(st.lists(st.sampled_from(MEMBERS), unique_by=lambda m: m.id))
        now += draw(st.floats(0, 500))
        plan = next_plan(plan, members, now, pace) or plan
    return plan


@given(plans())
@settings(max_examples=40)
def test_a_plan_comes_back(plan):
    assert decode_plan(encode_plan(plan)) == plan


def full() -> bytes:
    plan = empty_plan(POD, 8)
    for now, members in ((0.0, MEMBERS[:2]), (10.0, MEMBERS[:4]), (300.0, MEMBERS[1:])):
        plan = next_plan(plan, members, now, Pace()) or plan
    return encode_plan(plan)


def test_mutated_plans_are_refused_or_whole():
    rng, data = random.Random(7), full()
    tracemalloc.start()
    try:
        for _ in range(400):
            broken = bytearray(data)
            for _ in range(rng.choice((1, 1, 3, 9))):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            if rng.random() < 0.2:
                del broken[rng.randrange(len(broken)) :]
            try:
                plan = decode_plan(bytes(broken))
            except FormatError:
                continue
            assert decode_plan(encode_plan(plan)) == plan
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_what_does_not_fit_together_is_refused():
    body = msgspec.msgpack.decode(full())
    stranger = b"x" * 16
    for index, value in (
        (3, [[stranger, 1.0]]),  # began
        (4, [[MEMBERS[1].id, 1.0]]),  # left, and there
        (2, [[stranger, 4096], [stranger, 4096]]),
        (5, []),  # no times
        (6, b""),
    ):
        broken = [*body]
        broken[index] = value
        with pytest.raises(FormatError):
            decode_plan(msgspec.msgpack.encode(broken))


def test_a_later_version_is_refused_by_name():
    body = msgspec.msgpack.decode(full())
    with pytest.raises(FormatError, match=f"version {VERSION + 1}"):
        decode_plan(msgspec.msgpack.encode([VERSION + 1, *body[1:]]))
    with pytest.raises(FormatError, match="at most"):
        decode_plan(bytes(VALUE_BYTES_MAX + 1))


def test_a_plan_that_the_metadata_do_not_take_is_not_written(monkeypatch):
    plan = decode_plan(full())
    monkeypatch.setattr(plan_format, "VALUE_BYTES_MAX", 100)
    with pytest.raises(TooLarge, match="the metadata take 100"):
        encode_plan(plan)


@pytest.mark.parametrize(
    "record",
    [
        Settings(POD, 12, 1.0, 2.0, 3.0),
        MemberRecord("n", "r", ("tcp://n:1",), 1 << 40, POD, 7),
        Drain(1.0),
    ],
)
def test_records_come_back_and_bear_fields_of_later_releases(record):
    data = encode(record)
    assert decode(type(record), "k", data) == record
    later = decode(type(record), "k", data[:-1] + b',"later":[1]}')
    assert replace(later, rest=b"") == record
    assert encode(later) == data[:-1] + b',"later":[1]}'
    for broken in (b"", b"{}", b"[]", b"\xff", data[:-1]):
        with pytest.raises(FormatError, match="the metadata record k"):
            decode(MemberRecord, "k", broken)


def test_the_key_names_the_shard():
    assert shard_of(member_key(POD)) == POD
    for key in ("pod/members/", "pod/members/00", "pod/members/" + "0G" * 16, "pod/members/" + "AB" * 16):
        with pytest.raises(FormatError):
            shard_of(key)
