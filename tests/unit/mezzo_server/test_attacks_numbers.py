"""Frames whose numbers are as large, as small or as many as a frame may have: a shard refuses or answers, and holds
nothing afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields, replace

from mezzo.errors import ProtocolError
from mezzo.protocol.messages import (
    KEYS_MAX,
    U32_MAX,
    Acquire,
    ArenaOpen,
    Body,
    Delete,
    Deleted,
    Events,
    Get,
    Kind,
    LeaseRenew,
    Lookup,
    Put,
    PutGrant,
    RegionRemove,
    Release,
    Stat,
)
from tests.unit.mezzo_server.shard_harness import MIB, FakeClient, Shard, data_of, put_tcp

KEYS = [b"a", b"b", b"c"]
SIZES = [100, 200, 300]
INTEGERS = [0, 1, 255, 4096, U32_MAX - 1, U32_MAX, U32_MAX + 1, 2**63 - 1, 2**63, 2**64 - 1]
REQUESTS: list[tuple[Kind, Body]] = [
    (Kind.LOOKUP, Lookup(KEYS)),
    (Kind.STAT, Stat(KEYS)),
    (Kind.GET, Get(KEYS, capacities=[5000] * 3)),
    (Kind.GET, Get(KEYS, 1, [[0, 5000], [5000, 5000], [10_000, 5000]])),
    (Kind.PUT, Put([b"d", b"e", b"f"], SIZES)),
    (Kind.PUT, Put([b"g", b"h", b"i"], SIZES, region=1, sources=[[0, 100], [100, 200], [300, 300]])),
    (Kind.PUT, Put([b"j", b"k"], [10, 10], parts=[[4, 6]], positions=[3, 9])),
    (Kind.ACQUIRE, Acquire(KEYS, 1000)),
    (Kind.DELETE, Delete([b"x"])),
    (Kind.RELEASE, Release(7)),
    (Kind.LEASE_RENEW, LeaseRenew(7, 1000)),
    (Kind.ARENA_OPEN, ArenaOpen(3)),
    (Kind.EVENTS, Events(parts=1)),
    (Kind.REGION_REMOVE, RegionRemove(9)),
]


def others(value: Any) -> Iterator[Any]:
    """What may stand in its place."""
    if isinstance(value, int):
        yield from INTEGERS
    elif isinstance(value, list) and value:
        yield from ([], value[:1], value * 2)
        for each in others(value[0]):
            yield [each, *value[1:]]
            yield [each] * len(value)
    elif isinstance(value, list):
        yield from ([[number] * 3 for number in INTEGERS])
        yield from ([[[number]] * 3 for number in INTEGERS])


def variants(body: Body) -> Iterator[Body]:
    """Bodies that differ from this one in one field, as far as they can be sent at all."""
    for field in fields(body):
        for value in others(getattr(body, field.name)):
            try:
                data = msgspec.msgpack.encode(replace(body, **{field.name: value}))
                yield msgspec.msgpack.decode(data, type=type(body))
            except (msgspec.MsgspecError, OverflowError):
                continue


def send_granted(client: FakeClient, body: Put, request_id: int) -> None:
    for _ in range(KEYS_MAX):
        grants = [grant for grant in client.answers(request_id) if isinstance(grant, PutGrant)]
        if not grants:
            return
        client.answer(request_id, PutGrant)
        for index in grants[0].indexes:
            client.put_payload(request_id, body, index, bytes(body.lengths[index]))
        client.session.turn_ended()
        client.shard.settle()


@pytest.mark.parametrize(("kind", "body"), REQUESTS)
def test_whatever_numbers_a_frame_has_nothing_is_held_afterwards(kind: Kind, body: Body) -> None:
    shard = Shard(device_bytes=72 * MIB)
    writer = shard.client()
    put_tcp(writer, {key: data_of(key, 5000) for key in KEYS})
    asked = 0
    for variant in variants(body):
        client = shard.client()
        client.region(1, MIB)
        try:
            request_id = client.start(kind, variant)
            shard.settle()
            if isinstance(variant, Put) and not variant.region:
                send_granted(client, variant, request_id)
        except ProtocolError:
            pass  # the connection is refused
        client.close()
        shard.clients.remove(client)
        shard.settle()
        assert shard.idle(), variant
        asked += 1
        if isinstance(body, Put):  # else the next is told that it exists
            writer.ask(Kind.DELETE, Delete(body.keys), Deleted)
    assert asked
    assert put_tcp(writer, {b"after": b"it"}).stored_count == 1
    shard.close()
