"""EVENTS through a session, over a real store: waiting, limits, other namespaces, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import ErrorCode
from mezzo.protocol.messages import (
    EVENTS_MAX,
    Cancel,
    Cancelled,
    Delete,
    Deleted,
    ErrorReply,
    EventKind,
    Events,
    EventsAre,
    GapReason,
    Kind,
    Put,
    PutDone,
    ShardStat,
    ShardStated,
)
from mezzo_server.config import Limits
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard

CHUNK = 4096
WAIT_MS = 1000


@pytest.fixture
def shard() -> Iterator[Shard]:
    limits = Limits(
        staging_bytes=16 * MIB,
        staging_connection_bytes_max=8 * MIB,
        chunk_bytes_max=4 * MIB,
        events_max=8,
        events_readers_max=4,
    )
    shard = Shard(limits=limits)
    yield shard
    shard.close()


def put(client: FakeClient, *keys: bytes) -> None:
    if not client.session.regions._regions:
        client.region(1, CHUNK).close()
    done = client.ask(
        Kind.PUT, Put(list(keys), [CHUNK] * len(keys), [], 1, [[0, CHUNK]] * len(keys)), PutDone
    )
    assert done.stored_count == len(keys)


def ask(client: FakeClient, answer: EventsAre | None = None, **more: int) -> EventsAre:
    """What follows an answer."""
    cursor = (b"", 0) if answer is None else (answer.incarnation, answer.next)
    return client.ask(Kind.EVENTS, Events(*cursor, **more), EventsAre)


def wait(client: FakeClient, answer: EventsAre) -> int:
    """Begin to wait for what follows an answer; the request's id."""
    return client.start(Kind.EVENTS, Events(answer.incarnation, answer.next, EVENTS_MAX, WAIT_MS))


def tick(shard: Shard, seconds: float) -> None:
    shard.clock.now += seconds
    shard.service.tick()
    shard.settle()


def numbers(client: FakeClient) -> dict[str, int | float]:
    return client.ask(Kind.SHARD_STAT, ShardStat(), ShardStated).numbers


def test_who_has_read_all_waits_for_the_next_event(shard: Shard) -> None:
    client, writer = shard.client(), shard.client()
    start = ask(client)
    assert (start.gap, start.kinds, start.chunks) == (GapReason.START, b"", 0)
    waiting = wait(client, start)
    assert (client.answers(waiting), numbers(client)["events_readers"]) == ([], 1)
    put(writer, b"a", b"b")
    told = client.answer(waiting, EventsAre)
    assert (told.kinds, told.keys, told.lengths, told.next) == (b"\0\0", [b"a", b"b"], [CHUNK] * 2, 2)
    assert told.chunks == 2
    assert numbers(client)["events_readers"] == 0


def test_the_wait_is_over_in_time(shard: Shard) -> None:
    client = shard.client()
    waiting = wait(client, ask(client))
    tick(shard, 0.999)
    assert client.answers(waiting) == []
    tick(shard, 0.001)
    told = client.answer(waiting, EventsAre)
    assert (told.gap, told.kinds, told.next) == (0, b"", 0)


def test_one_that_was_told_a_moment_ago_is_told_of_several_events_at_once(shard: Shard) -> None:
    client, writer = shard.client(), shard.client()
    told = ask(client)
    waiting = wait(client, told)
    put(writer, b"a")
    told = client.answer(waiting, EventsAre)
    waiting = wait(client, told)
    put(writer, b"b")
    put(writer, b"c")
    assert client.answers(waiting) == []
    tick(shard, 0.02)
    assert client.answer(waiting, EventsAre).keys == [b"b", b"c"]


def test_a_slow_reader_is_told_of_a_gap_and_holds_nobody(shard: Shard) -> None:
    client, writer = shard.client(), shard.client()
    told = ask(client)
    put(writer, *[b"k%d" % n for n in range(9)])
    behind = ask(client, told)
    assert (behind.gap, behind.kinds, behind.next, behind.chunks) == (GapReason.BEHIND, b"", 9, 9)
    assert numbers(client)["events_gaps"] == 1
    assert ask(client, behind).gap == GapReason.NONE


def test_a_session_sees_its_own_namespace_only(shard: Shard) -> None:
    client, other = shard.client(namespace="one"), shard.client(namespace="two")
    told = ask(client)
    theirs = ask(other)
    put(other, b"secret")
    assert ask(client, told).keys == []
    listed = client.ask(Kind.EVENTS, Events(part=0, parts=1), EventsAre)
    assert (listed.keys, listed.chunks) == ([], 0)
    # Nor does another namespace's cursor open anything.
    assert ask(client, theirs).gap == GapReason.RESTART


def test_waiting_is_given_up_and_ends_with_the_connection(shard: Shard) -> None:
    client, other = shard.client(), shard.client()
    told = ask(client)
    waiting = wait(client, told)
    client.start(Kind.CANCEL, Cancel(), request_id=waiting)
    shard.settle()
    client.answer(waiting, Cancelled)
    wait(client, told)
    client.close()
    assert numbers(other)["events_readers"] == 0
    assert not shard.service.waiting
    put(other, b"a")


def test_readers_are_bounded(shard: Shard) -> None:
    client = shard.client()
    told = ask(client)
    first, second = wait(client, told), wait(client, told)
    third = wait(client, told)
    shard.settle()
    refused = client.answer(third, ErrorReply)
    assert (refused.code, refused.retry_after_ms > 0) == (ErrorCode.BUSY, True)
    put(client, b"a")
    tick(shard, 0.02)
    assert client.answer(first, EventsAre).keys == client.answer(second, EventsAre).keys == [b"a"]


def test_parts_of_a_listing_hold_each_key_once(shard: Shard) -> None:
    client = shard.client()
    keys = [b"key-%d" % n for n in range(200)]
    put(client, *keys)
    client.ask(Kind.DELETE, Delete(keys[:10]), Deleted)
    for parts in (1, 2, 64, 1024):
        listed: list[bytes] = []
        for part in range(parts):
            answer = client.ask(Kind.EVENTS, Events(part=part, parts=parts), EventsAre)
            listed += answer.keys
            assert answer.lengths == [CHUNK] * len(answer.keys)
        assert sorted(listed) == sorted(keys[10:])


def test_a_listing_that_is_too_long_for_an_answer_is_not_made(shard: Shard) -> None:
    """A question in one part about a million chunks must not hold the loop for a second to be refused."""

    class Unread(dict[bytes, int]):
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError("somebody looks at every key")

    client = shard.client()
    put(client, b"a")
    index = shard.store._context.index.peek(client.session.scope)
    small = index.shards
    index.shards = [Unread.fromkeys([b"%d-%d" % (m, n) for n in range(EVENTS_MAX)], 0) for m in range(2)]
    index.mask = 1
    failed = client.fails(Kind.EVENTS, Events(part=0, parts=1))
    assert (failed.code, "more parts" in failed.message) == (ErrorCode.TOO_LARGE, True)
    index.shards, index.mask = small, 0


@pytest.mark.parametrize(("part", "parts"), [(0, 3), (4, 4), (0, 1 << 30)])
def test_parts_that_cannot_be(shard: Shard, part: int, parts: int) -> None:
    failed = shard.client().fails(Kind.EVENTS, Events(part=part, parts=parts))
    assert failed.code == ErrorCode.INVALID


def test_a_part_with_too_many_keys_is_refused(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mezzo_server.shard.event_requests.EVENTS_MAX", 10)
    client = shard.client()
    put(client, *[b"%d" % n for n in range(11)])
    failed = client.fails(Kind.EVENTS, Events(part=0, parts=1))
    assert (failed.code, "more parts" in failed.message) == (ErrorCode.TOO_LARGE, True)


def test_an_erased_namespace_is_a_gap(shard: Shard) -> None:
    client = shard.client()
    put(client, b"a")
    told = ask(client)
    waiting = wait(client, told)
    shard.service.events.close(client.session.scope)
    tick(shard, 0.02)
    assert client.answer(waiting, EventsAre).kinds == b""
    assert ask(client, told).gap == GapReason.RESTART


def test_nobody_reads_and_nothing_is_kept(shard: Shard) -> None:
    client = shard.client()
    put(client, b"a", b"b")
    assert numbers(client)["events_namespaces"] == numbers(client)["events_bytes"] == 0
    ask(client)
    tick(shard, 120.0)
    assert numbers(client)["events_namespaces"] == 0
    assert EventKind.STORED == 0
