"""Clients that do anything at any moment: wrong bytes never come, and nothing stays behind."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import ProtocolError
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import (
    Acquire,
    Cancel,
    Delete,
    Get,
    Got,
    Kind,
    Lookup,
    Put,
    PutGrant,
    RegionRemove,
    Release,
    Stat,
)
from mezzo_server.config import Limits
from tests.unit.mezzo_server.shard_harness import MIB, ClientRegion, FakeClient, Shard

LENGTHS = (1, 4096, 5000, 70_000, 600_000)
KEYS = [b"%d/%d" % (number, length) for number in range(3) for length in LENGTHS]
LIMITS = Limits(
    staging_bytes=4 * MIB,
    staging_connection_bytes_max=1 * MIB,
    chunk_bytes_max=1 * MIB,
    in_flight_bytes_max=1 * MIB,
    requests_max=12,
    leases_max=4,
)


def data_of(key: bytes) -> bytes:
    """The one right content of a key."""
    return random.Random(key).randbytes(int(key.split(b"/")[1]))


class Anyone:
    """A client and what it has under way."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.client = FakeClient(shard, shm=True)
        shard.clients.append(self.client)
        self.client.hello("all")
        self.regions: dict[int, ClientRegion] = {}
        self.asked: list[int] = []
        self.gets: dict[int, tuple[Get, int]] = {}
        self.puts: dict[int, Put] = {}
        self.next_region = 1

    def do(self, step: int, pick: random.Random) -> None:
        """One thing, at random. A refused connection is closed, as the driver would."""
        try:
            getattr(self, f"do_{STEPS[step % len(STEPS)]}")(pick)
        except ProtocolError:
            self.end()

    def start(self, kind: Kind, body: Any) -> int:
        request_id = self.client.start(kind, body)
        self.asked.append(request_id)
        return request_id

    def do_region(self, pick: random.Random) -> None:
        self.client.reads = True
        self.shard.settle()
        if len(self.regions) < 3 and len(self.client.session.requests) < LIMITS.requests_max:
            number = self.next_region
            self.next_region += 1
            self.regions[number] = self.client.region(number, MIB, sealed=pick.random() < 0.5)

    def do_unregister(self, pick: random.Random) -> None:
        if self.regions:
            number = pick.choice(list(self.regions))
            self.start(Kind.REGION_REMOVE, RegionRemove(number))
            self.regions.pop(number).close()

    def do_truncate(self, pick: random.Random) -> None:
        for region in self.regions.values():
            try:
                region.truncate(pick.choice((0, 300_000, MIB)))
            except PermissionError:
                pass  # sealed

    def keys(self, pick: random.Random) -> list[bytes]:
        return [pick.choice(KEYS) for _ in range(pick.randint(1, 5))]

    def do_get(self, pick: random.Random) -> None:
        keys = self.keys(pick)
        number = pick.choice([0, *self.regions])
        if number:
            length = max(len(data_of(key)) for key in keys)
            start = pick.choice((0, 1, 4096))
            targets = [[start + n * 1000, length] for n in range(len(keys))]
            body = Get(keys, number, targets, deadline_ms=pick.choice((0, 0, 1)))
        else:
            body = Get(keys, capacities=[] if pick.random() < 0.5 else [600_000] * len(keys))
        self.gets[self.start(Kind.GET, body)] = (body, number)

    def do_put(self, pick: random.Random) -> None:
        keys = self.keys(pick)
        number = pick.choice([0, *self.regions])
        lengths = [len(data_of(key)) for key in keys]
        if not number:
            body = Put(keys, lengths)
            self.puts[self.start(Kind.PUT, body)] = body
            return
        keys, lengths = keys[:1], lengths[:1]
        try:
            self.regions[number].write(4096, data_of(keys[0]))
        except (OSError, AssertionError):
            return
        # What is put from a region must stay there until the answer; so does an honest client.
        self.shard.settle()
        if len(self.regions[number].read(4096, lengths[0])) == lengths[0]:
            self.start(Kind.PUT, Put(keys, lengths, region=number, sources=[[4096, lengths[0]]]))
            self.shard.settle()

    def do_payload(self, pick: random.Random) -> None:
        for request_id, body in list(self.puts.items()):
            for grant in [body for body in self.client.answers(request_id) if isinstance(body, PutGrant)]:
                if not self.client.session.state.granted(request_id):
                    break
                self.client.answer(request_id, PutGrant)
                for index in grant.indexes:
                    wrong = pick.random() < 0.1
                    self.client.put_payload(request_id, body, index, data_of(body.keys[index]), wrong=wrong)
        self.client.session.turn_ended()

    def do_cancel(self, pick: random.Random) -> None:
        if self.asked:
            self.client.start(Kind.CANCEL, Cancel(), request_id=pick.choice(self.asked))

    def do_small(self, pick: random.Random) -> None:
        kind, body = pick.choice(
            [
                (Kind.LOOKUP, Lookup(self.keys(pick))),
                (Kind.STAT, Stat(self.keys(pick))),
                (Kind.DELETE, Delete(self.keys(pick)[:1])),
                (Kind.ACQUIRE, Acquire(self.keys(pick), pick.choice((1, 50, 5000)))),
                (Kind.RELEASE, Release(pick.randint(1, 5))),
            ]
        )
        self.start(kind, body)

    def do_stop_reading(self, pick: random.Random) -> None:
        self.client.reads = False

    def do_read(self, pick: random.Random) -> None:
        self.client.reads = True

    def do_wait(self, pick: random.Random) -> None:
        self.shard.clock.now += pick.choice((0.01, 0.1))
        self.shard.service.tick()

    def do_turn(self, pick: random.Random) -> None:
        self.client.turn()

    def do_pump(self, pick: random.Random) -> None:
        self.shard.store.pump()

    def do_settle(self, pick: random.Random) -> None:
        self.shard.settle()
        self.check()

    def check(self) -> None:
        """What was said to be there over tcp is right."""
        for request_id, (body, number) in list(self.gets.items()):
            for answer in self.client.answers(request_id):
                if isinstance(answer, Got) and not number:
                    for index, found in enumerate(unpack(answer.found, len(body.keys))):
                        if found:
                            assert self.client.payloads[request_id, index] == data_of(body.keys[index])

    def end(self) -> None:
        self.check()
        self.client.close()
        for region in self.regions.values():
            region.close()
        self.regions.clear()


STEPS = [
    *[
        "region",
        "get",
        "put",
        "payload",
        "settle",
        "small",
        "turn",
        "pump",
        "cancel",
        "get",
        "put",
        "payload",
    ],
    *["unregister", "truncate", "stop_reading", "read", "wait", "read"],
]


@given(
    st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(STEPS) - 1)), max_size=60)
)
@settings(max_examples=60)
def test_anything_at_any_moment(seed: int, script: list[tuple[int, int]]) -> None:
    pick = random.Random(seed)
    shard = Shard(limits=LIMITS)
    anyone = [Anyone(shard) for _ in range(3)]
    for who, step in script:
        if anyone[who].client.closed:
            anyone[who] = Anyone(shard)
        anyone[who].do(step, pick)
    for one in anyone:
        one.client.reads = True
    shard.settle()
    for one in anyone:
        one.check()
        one.end()
    shard.settle()
    assert shard.idle()
    assert shard.service.regions.count == 0
    assert shard.service.leases.bytes_leased == 0
    shard.close()


@pytest.mark.long
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(STEPS) - 1)), max_size=200),
)
@settings(max_examples=2000)
def test_anything_at_any_moment_for_long(seed: int, script: list[tuple[int, int]]) -> None:
    test_anything_at_any_moment.hypothesis.inner_test(seed, script)  # type: ignore[attr-defined]
