"""Member records of other shards: looked up when they are needed, once for all who need them, and kept a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mezzo.errors import Busy, FormatError, Unavailable
from mezzo_server.access.peers import CONNECTION_S
from mezzo_server.metadata.engine import Entry, Scan
from mezzo_server.pod.driving import READ_S
from mezzo_server.pod.records import MemberRecord, encode, member_key
from mezzo_server.shard.members import RECORDS_MAX, UNPROVEN_BURST, UNPROVEN_PER_S, WAITING_MAX, MemberRecords

SHARD, OTHER = b"s" * 16, b"o" * 16
RECORD = MemberRecord("node", "", ("tcp://h:1",), 1, bytes(16), public=b"k" * 32)


class Metadata:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[tuple[str, Callable[[Any], None]]] = []
        self.told: list[Any] = []
        self.members = MemberRecords(self, lambda step: step(), lambda: self.now)  # type: ignore[arg-type]

    def read(self, prefix: str, told: Callable[[Any], None]) -> None:
        self.asked.append((prefix, told))

    def look(self, shard: bytes = SHARD, fresh_s: float = 10.0, **more: bool) -> None:
        self.members.look(shard, fresh_s, self.told.append, **more)

    def answers(self, *records: bytes, key: str = member_key(SHARD)) -> None:
        _, told = self.asked.pop(0)
        told(Scan([Entry(key, value, 1) for value in records], 1))


@pytest.fixture
def metadata() -> Metadata:
    return Metadata()


def test_one_look_for_all_who_wait_and_for_a_moment_after(metadata):
    metadata.look()
    metadata.look()
    assert [prefix for prefix, _ in metadata.asked] == [member_key(SHARD)]
    metadata.answers(encode(RECORD))
    assert metadata.told == [RECORD] * 2
    metadata.now += 9
    metadata.look()
    assert metadata.told == [RECORD] * 3
    metadata.look(fresh_s=1.0)
    assert len(metadata.asked) == 1
    metadata.answers()
    assert metadata.told[3:] == [None]
    metadata.look()
    assert metadata.told[4:] == [None]


def test_what_cannot_be_read_is_told_and_not_kept(metadata):
    metadata.look()
    metadata.answers(b"nothing of ours")
    metadata.look()
    metadata.asked.pop()[1](Unavailable("the engine is away"))
    assert [type(told) for told in metadata.told] == [FormatError, Unavailable]
    metadata.look()
    assert len(metadata.asked) == 1


def test_another_shards_record_is_none_of_its(metadata):
    metadata.look()
    metadata.answers(encode(RECORD), key=member_key(SHARD) + "0")
    assert metadata.told == [None]


def test_so_many_wait_and_no_more(metadata):
    for _ in range(WAITING_MAX + 1):
        metadata.look()
    assert isinstance(metadata.told[0], Busy)
    # A thread that has ended never answers: who comes later asks again.
    metadata.now += 2 * READ_S
    metadata.look()
    assert len(metadata.asked) == 2


def test_whoever_says_that_he_is_a_shard_has_the_metadata_asked_so_often_and_no_more(metadata):
    metadata.look()
    metadata.answers(encode(RECORD))
    seconds, reads = 60, 0
    for _ in range(10 * seconds):
        for number in range(3):
            metadata.look(b"%016d" % number, fresh_s=0.0, unproven=True)
            while metadata.asked:
                metadata.answers()
                reads += 1
        metadata.now += 0.1
    assert reads <= UNPROVEN_BURST + UNPROVEN_PER_S * seconds + 1
    # Who is known is let in by what is known, and we ask for ourselves as before.
    for number in range(int(UNPROVEN_BURST) + 10):
        metadata.look(b"stranger%08d" % number, unproven=True)
    metadata.told.clear()
    metadata.look(unproven=True)
    assert metadata.told == [RECORD]
    metadata.now += CONNECTION_S
    for number in range(int(UNPROVEN_BURST) + 10):
        metadata.look(b"strangers%07d" % number, unproven=True)
    metadata.told.clear()
    metadata.look(unproven=True)
    assert isinstance(metadata.told[0], Busy)
    metadata.asked.clear()
    metadata.look()
    assert len(metadata.asked) == 1


def test_records_are_bounded(metadata):
    for number in range(RECORDS_MAX + 5):
        shard = b"%016d" % number
        metadata.look(shard)
        metadata.answers(encode(RECORD), key=member_key(shard))
    metadata.look(b"%016d" % 0)
    assert len(metadata.asked) == 1
