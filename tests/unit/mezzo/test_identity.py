"""Identities of namespaces: what they are, what they are called, and that no two of them ever meet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from mezzo import kvsize
from mezzo.errors import InvalidArgument
from mezzo.frontend.naming import identity_message, identity_of
from mezzo.identity import (
    IDENTITY_BYTES_MAX,
    NAME_CHARACTERS_MAX,
    Identity,
    bound_name,
    check_identity,
    conflict_message,
    decode_identity,
    derived_name,
    encode_identity,
    identity_digest,
    make_identity,
)
from mezzo.v1 import namespace_pb2

GIVEN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "weights_revision": "0e9e39f",
    "kv_dtype": "bf16",
    "layout": "L2NHD",
    "tp": 2,
    "tp_rank": 1,
    "chunk_tokens": 256,
    "chunk_bytes": 16 << 20,
    "salt": "s",
}
IDENTITY = make_identity(**GIVEN)

SHORT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    "same",
    [
        {"kv_dtype": "bfloat16"},
        {"kv_dtype": "torch.bfloat16"},
        {"kv_dtype": " BF16\n"},
        {"model": "meta-llama/Llama-3.1-8B-Instruct\n", "layout": " L2NHD"},
    ],
)
def test_one_thing_has_one_spelling(same: dict[str, Any]) -> None:
    assert make_identity(**{**GIVEN, **same}) == IDENTITY


def test_what_may_mean_something_else_stays() -> None:
    assert make_identity(**{**GIVEN, "model": "caf\u00e9"}) == make_identity(
        **{**GIVEN, "model": "cafe\u0301"}
    )
    assert make_identity(**{**GIVEN, "kv_dtype": "fp8_ds_mla "}).kv_dtype == "fp8_ds_mla"
    for other in ({"salt": "s "}, {"model": GIVEN["model"].lower()}, {"kv_dtype": "fp16"}):
        assert make_identity(**{**GIVEN, **other}) != IDENTITY


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    tp, pp = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return Identity(
        model=draw(SHORT.filter(bool)),
        weights_revision=draw(SHORT),
        kv_dtype=draw(st.sampled_from(["bf16", "fp8", "int8"]) | SHORT.filter(bool)),
        layout=draw(SHORT.filter(bool)),
        tp_size=tp,
        tp_rank=draw(st.integers(0, tp - 1)),
        pp_size=pp,
        pp_rank=draw(st.integers(0, pp - 1)),
        chunk_tokens=draw(st.integers(1, 300)),
        chunk_bytes=draw(st.integers(1, 300)),
        salt=draw(SHORT),
    )


NAMES = st.text("ab-", min_size=1, max_size=4) | st.sampled_from(["a" * 96, "a" * 97, "a" * 128, "b" * 128])


@st.composite
def two_identities(draw: st.DrawFn) -> tuple[Identity, Identity]:
    """Two that differ, mostly in one field, or by characters that moved from one field to the next."""
    first = draw(identities())
    other = draw(identities())
    field = draw(st.sampled_from([*Identity.__struct_fields__, "all", "moved"]))
    if field == "moved":
        second = replace(
            first, model=first.model + first.weights_revision[:1], weights_revision=first.weights_revision[1:]
        )
    elif field == "all":
        second = other
    else:
        second = replace(first, **{field: getattr(other, field)})
    assume(first != second)
    return first, second


@given(two_identities(), NAMES, NAMES)
def test_two_identities_never_have_one_name(pair: tuple[Identity, Identity], name: str, other: str) -> None:
    first, second = pair
    assert encode_identity(first) != encode_identity(second)
    assert derived_name(first) != derived_name(second)
    for one in (name, derived_name(first), bound_name(name, first)):
        for another in (name, other, derived_name(first), derived_name(second), bound_name(other, first)):
            assert bound_name(one, first) != bound_name(another, second)


@given(identities(), NAMES, NAMES)
def test_names_of_one_identity(identity: Identity, name: str, other: str) -> None:
    bound = bound_name(name, identity)
    assert len(bound) <= NAME_CHARACTERS_MAX
    assert bound_name(bound, identity) == bound, "front-end and shard may both bind it"
    assert bound_name(derived_name(identity), identity) == derived_name(identity)
    assert (bound_name(other, identity) == bound) == (name == other)
    assert len(derived_name(identity)) <= NAME_CHARACTERS_MAX


@given(identities())
def test_an_identity_survives_its_travels(identity: Identity) -> None:
    assert decode_identity(encode_identity(identity)) == identity
    message = namespace_pb2.Identity.FromString(identity_message(identity).SerializeToString())
    assert identity_of(message) == identity


def test_a_name_can_be_read() -> None:
    assert derived_name(IDENTITY) == f"Llama-3.1-8B-Instruct-bf16-{identity_digest(IDENTITY)}"
    assert bound_name("prod", IDENTITY) == f"prod-{identity_digest(IDENTITY)}"
    strange = replace(IDENTITY, model="//", kv_dtype="§")
    assert derived_name(strange).startswith("model-kv-")


def test_bytes_from_a_shape() -> None:
    shape = kvsize.full_attention(32, 8, 128)
    assert make_identity(**{**GIVEN, "chunk_bytes": shape}).chunk_bytes == 256 * 131072 // 2
    scaled = make_identity(**{**GIVEN, "chunk_bytes": shape, "kv_dtype": "int8", "scales": kvsize.Scales(4)})
    assert scaled.chunk_bytes == 256 * 32 * 4 * 2 * (128 + 4)
    with pytest.raises(InvalidArgument, match="need chunk_bytes to be a shape"):
        make_identity(**GIVEN, scales=kvsize.Scales(4))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"layout": ""}, "layout"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"chunk_bytes": 2**32}, "chunk_bytes"),
        ({"chunk_bytes": "1"}, "chunk_bytes"),
        ({"tp": 0}, "tp_size"),
        ({"tp_rank": 2}, "tp_rank 2 of tp 2; ranks count from 0"),
        ({"pp_rank": 1}, "pp_rank 1 of pp 1"),
        ({"model": "\udcff"}, "identity"),
        ({"model": "\x01" * 256, "layout": "\x01" * 256}, f"over {IDENTITY_BYTES_MAX}"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        make_identity(**{**GIVEN, **change})


def test_bytes_that_are_no_identity_are_refused() -> None:
    good = encode_identity(IDENTITY)
    for bad in (
        b"",
        b"{}",
        b"[]",
        good[:-1],
        good + b" ",
        good.replace(b",", b", "),
        b"[" * 3000,
        b"\xff",
        good.replace(b"1", b'"1"'),
    ):
        with pytest.raises(InvalidArgument):
            decode_identity(bad)
    with pytest.raises(InvalidArgument, match="tp_rank"):
        identity_of(namespace_pb2.Identity(**{**asdict(IDENTITY), "tp_rank": 7}))
    with pytest.raises(InvalidArgument, match="model"):
        identity_of(namespace_pb2.Identity())


def test_an_identity_that_says_nothing_of_sizes_has_one_rank() -> None:
    message = identity_message(IDENTITY)
    message.tp_size = message.tp_rank = message.pp_size = 0
    assert identity_of(message) == replace(IDENTITY, tp_size=1, tp_rank=0)


def test_both_identities_are_shown() -> None:
    other = replace(IDENTITY, salt="t", chunk_tokens=512)
    message = conflict_message("prod", IDENTITY, other)
    assert message.startswith(
        "namespace 'prod' exists with another identity: chunk_tokens is 256, asked for was 512; "
        "salt is 's', asked for was 't'. The same in both: model 'meta-llama/Llama-3.1-8B-Instruct', "
    )
    assert all(field in message for field in Identity.__struct_fields__)
    assert "exists without an identity" in conflict_message("prod", None, other)
    assert check_identity(other) is other
    long = conflict_message("p", replace(IDENTITY, model="a" * 256), replace(IDENTITY, model="b" * 256))
    assert len(long) < 1024, "a status of gRPC has no room for more"
