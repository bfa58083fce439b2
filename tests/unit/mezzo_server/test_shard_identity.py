"""What a HELLO says of its namespace's bytes, and what the shard makes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mezzo.errors import ErrorCode, InvalidArgument
from mezzo.identity import Identity, bound_name, encode_identity
from mezzo.protocol.frame import Frame
from mezzo.protocol.messages import Hello, Kind, LookedUp, Lookup, Put, PutGrant, Welcome
from tests.unit.mezzo_server.shard_harness import FakeClient, Shard

IDENTITY = Identity(model="m", kv_dtype="bf16", layout="NHD", chunk_tokens=16, chunk_bytes=4096)


@pytest.fixture
def shard() -> Iterator[Shard]:
    shard = Shard()
    yield shard
    shard.close()


def hello(
    shard: Shard, name: str, identity: Identity | None = None, encoded: bytes | None = None
) -> FakeClient:
    client = FakeClient(shard, shm=True)
    shard.clients.append(client)
    if encoded is None:
        encoded = b"" if identity is None else encode_identity(identity)
    client.session.receive(Frame(Kind.HELLO, 0, Hello(1, 1, "test", name, identity=encoded)))
    client.turn()
    return client


def namespace(client: FakeClient) -> bytes:
    return client.answer(0, Welcome).namespace_id


def test_an_identity_is_part_of_the_name(shard: Shard) -> None:
    typed = namespace(hello(shard, "prod", IDENTITY))
    assert namespace(hello(shard, "prod", IDENTITY)) == typed
    assert namespace(hello(shard, bound_name("prod", IDENTITY), IDENTITY)) == typed, "as a front-end calls it"
    assert namespace(hello(shard, bound_name("prod", IDENTITY))) == typed, "as a front-end asks for it"
    others = [
        hello(shard, "prod"),
        hello(shard, "other", IDENTITY),
        *(
            hello(shard, "prod", replace(IDENTITY, **change))
            for change in (
                {"model": "n"},
                {"weights_revision": "2"},
                {"kv_dtype": "fp8"},
                {"layout": "HND"},
                {"tp_size": 2},
                {"pp_size": 2},
                {"tp_size": 2, "tp_rank": 1},
                {"pp_size": 2, "pp_rank": 1},
                {"chunk_tokens": 32},
                {"chunk_bytes": 8192},
                {"salt": "s"},
            )
        ),
    ]
    ids = [namespace(client) for client in others]
    assert len({typed, *ids}) == 1 + len(ids)


def test_chunks_are_no_longer_than_the_identity_says(shard: Shard) -> None:
    client = hello(shard, "prod", IDENTITY)
    assert client.answer(0, Welcome).chunk_bytes_max == 4096
    failed = client.fails(Kind.PUT, Put([b"a", b"b"], [10, 4097]))
    assert failed.code == ErrorCode.TOO_LARGE
    assert "chunk 1 has 4097 bytes; chunks of this namespace have 4096 (16 tokens)" in failed.message
    for length in (4096, 1):
        request = client.start(Kind.PUT, Put([b"c%d" % length], [length]))
        shard.settle()
        client.answer(request, PutGrant)
        client.put_payload(request, Put([b"c%d" % length], [length]), 0, bytes(length))
        shard.settle()
    untyped = hello(shard, "prod")
    assert untyped.answer(0, Welcome).chunk_bytes_max == 4 << 20


TEXTS = st.sampled_from(["", "a", "b", "ab", "ba"])
WORDS = st.sampled_from(["a", "b", "ab", "ba"])


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    """Few different values, so that two of them are often nearly the same."""
    tp, pp = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return Identity(
        model=draw(WORDS),
        weights_revision=draw(TEXTS),
        kv_dtype=draw(WORDS),
        layout=draw(WORDS),
        tp_size=tp,
        tp_rank=draw(st.integers(0, tp - 1)),
        pp_size=pp,
        pp_rank=draw(st.integers(0, pp - 1)),
        chunk_tokens=draw(st.integers(1, 2)),
        chunk_bytes=draw(st.integers(1, 2)),
        salt=draw(TEXTS),
    )


def test_a_chunk_is_there_for_one_identity_alone() -> None:
    """Whatever they are called: what is put by one is seen by those who are it, and by nobody else."""
    shard = Shard()

    @settings(max_examples=30)
    @given(identities(), identities(), WORDS, WORDS, st.binary(min_size=1, max_size=16))
    def check(one: Identity, other: Identity, name: str, other_name: str, key: bytes) -> None:
        writer, reader = hello(shard, name, one), hello(shard, other_name, other)
        same = one == other and name == other_name
        before = reader.ask(Kind.LOOKUP, Lookup([key]), LookedUp).prefix
        request = writer.start(Kind.PUT, Put([key], [1]))
        shard.settle()
        granted = [body for body in writer.answers(request) if isinstance(body, PutGrant) and body.indexes]
        if granted:
            writer.put_payload(request, Put([key], [1]), 0, b"x")
            writer.session.turn_ended()
            shard.settle()
        assert writer.ask(Kind.LOOKUP, Lookup([key]), LookedUp).prefix == 1
        assert reader.ask(Kind.LOOKUP, Lookup([key]), LookedUp).prefix == (1 if same else before)
        writer.close()
        reader.close()

    check()
    shard.close()


@pytest.mark.parametrize("encoded", [b"x", b"[]", encode_identity(IDENTITY) + b" "])
def test_what_is_no_identity_is_refused(shard: Shard, encoded: bytes) -> None:
    with pytest.raises(InvalidArgument, match="identity"):
        hello(shard, "prod", encoded=encoded)
