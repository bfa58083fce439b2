"""What the KV bytes of a namespace are, and the names that follow from it. No I/O.

Two identities that differ in any field are two namespaces: an identity's digest is part of every name that
is made here, and of every key that the server finds a namespace by.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import InvalidArgument
from mezzo.kvsize import Scales, Shape, chunk_size
from mezzo.kvsize.shape import dtype_named

IDENTITY_BYTES_MAX = 2048
"""of an encoded identity"""
NAME_CHARACTERS_MAX = 128
"""of a namespace's name"""
DIGEST_CHARACTERS = 32
_READABLE_CHARACTERS = 64
_SHOWN_CHARACTERS = 64


class Identity(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the KV bytes of a namespace are; two different ones never share a chunk."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    weights_revision: Annotated[str, Meta(max_length=256)] = ""
    kv_dtype: Annotated[str, Meta(min_length=1, max_length=64)]
    layout: Annotated[str, Meta(min_length=1, max_length=256)]
    """order of the axes in a chunk, as the engine names it"""
    tp_size: Annotated[int, Meta(ge=1, le=65536)] = 1
    tp_rank: Annotated[int, Meta(ge=0)] = 0
    pp_size: Annotated[int, Meta(ge=1, le=65536)] = 1
    pp_rank: Annotated[int, Meta(ge=0)] = 0
    chunk_tokens: Annotated[int, Meta(ge=1, le=2**31)]
    chunk_bytes: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    """of a whole chunk; one at the end of a prefix may be shorter"""
    salt: Annotated[str, Meta(max_length=256)] = ""
    """whatever else must keep chunks apart: what an engine mixes into its hashes, a customer, an experiment"""


def make_identity(
    *,
    model: str,
    weights_revision: str = "",
    kv_dtype: str,
    layout: str,
    tp: int = 1,
    tp_rank: int = 0,
    pp: int = 1,
    pp_rank: int = 0,
    chunk_tokens: int,
    chunk_bytes: int | Shape,
    salt: str = "",
    scales: Scales | None = None,
    state_bytes: int = 0,
) -> Identity:
    """An identity, checked. ``chunk_bytes`` is computed where it is a model's shape (`mezzo.kvsize`).

    What can be spelled in several ways is written in one, or two engines would not find each other's chunks: a
    dtype that is known by its name in `mezzo.kvsize.DTYPES` (``torch.bfloat16`` is ``bf16``); all texts but the
    salt without spaces around them, and in Unicode's composed form.  Case counts.

    ``scales`` and ``state_bytes`` are for that: see `mezzo.kvsize.chunk_size`.

    Raises:
        InvalidArgument: a field is missing, empty, too long or contradicts another; the message names it.
    """
    if isinstance(chunk_bytes, Shape):
        chunk_bytes = chunk_size(
            chunk_bytes,
            tokens=chunk_tokens,
            dtype=kv_dtype,
            tp=tp,
            pp=pp,
            pp_rank=pp_rank,
            scales=scales,
            state_bytes=state_bytes,
        ).bytes
    elif scales is not None or state_bytes:
        raise InvalidArgument("scales and state_bytes need chunk_bytes to be a shape (mezzo.kvsize)")
    identity = Identity(
        model=_one_spelling(model),
        weights_revision=_one_spelling(weights_revision),
        kv_dtype=_one_dtype(kv_dtype),
        layout=_one_spelling(layout),
        tp_size=tp,
        tp_rank=tp_rank,
        pp_size=pp,
        pp_rank=pp_rank,
        chunk_tokens=chunk_tokens,
        chunk_bytes=chunk_bytes,
        salt=salt,
    )
    return check_identity(identity)


def _one_spelling(text: Any) -> Any:
    return unicodedata.normalize("NFC", text).strip() if isinstance(text, str) else text


def _one_dtype(text: Any) -> Any:
    try:
        return dtype_named(text)
    except (InvalidArgument, AttributeError):  # an engine's own, or no text: that is for the check
        return _one_spelling(text)


def check_identity(identity: Identity) -> Identity:
    """``identity``, if it is valid. Raises InvalidArgument if not."""
    try:
        # A struct checks what it decodes, not what it is made of.
        msgspec.convert(msgspec.to_builtins(identity), Identity)
        encoded = encode_identity(identity)
    except (msgspec.ValidationError, UnicodeEncodeError, TypeError) as error:
        raise InvalidArgument(f"identity: {_plain(str(error))}") from None
    for kind, rank, size in (
        ("tp", identity.tp_rank, identity.tp_size),
        ("pp", identity.pp_rank, identity.pp_size),
    ):
        if rank >= size:
            raise InvalidArgument(f"identity: {kind}_rank {rank} of {kind} {size}; ranks count from 0")
    if len(encoded) > IDENTITY_BYTES_MAX:
        raise InvalidArgument(f"identity: {len(encoded)} bytes in all, over {IDENTITY_BYTES_MAX}")
    return identity


def encode_identity(identity: Identity) -> bytes:
    """An identity as bytes: equal ones have equal bytes, different ones different bytes."""
    return msgspec.json.encode([getattr(identity, name) for name in Identity.__struct_fields__])


def decode_identity(data: bytes) -> Identity:
    """What `encode_identity` made, checked. Raises InvalidArgument if it is none."""
    if len(data) > IDENTITY_BYTES_MAX:
        raise InvalidArgument(f"identity: {len(data)} bytes, over {IDENTITY_BYTES_MAX}")
    try:
        fields = msgspec.json.decode(data, type=list[str | int])
        identity = msgspec.convert(dict(zip(Identity.__struct_fields__, fields, strict=True)), Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise InvalidArgument(f"identity: {_plain(str(error))}") from None
    if encode_identity(identity) != data:
        raise InvalidArgument("identity: it is not in the one form that it can have")
    return check_identity(identity)


def identity_digest(identity: Identity) -> str:
    """128 bits of SHA-256 over an identity, as hexadecimal digits."""
    return hashlib.sha256(encode_identity(identity)).hexdigest()[:DIGEST_CHARACTERS]


def derived_name(identity: Identity) -> str:
    """The name of a namespace that was given none: readable, and of this identity alone."""
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", identity.model.rpartition("/")[2])
    dtype = re.sub(r"[^A-Za-z0-9._-]+", "-", identity.kv_dtype)
    readable = f"{model[:_READABLE_CHARACTERS].strip('-.') or 'model'}-{dtype[:16].strip('-.') or 'kv'}"
    return f"{readable}-{identity_digest(identity)}"


def bound_name(name: str, identity: Identity) -> str:
    """The name that a namespace really has where nobody keeps which identity belongs to which name.

    It ends with the digest of its identity, so no other identity has it.  A name that does so already
    is bound; one that is too long is cut, and has a digest of itself in it.
    """
    digest = identity_digest(identity)
    if name.endswith(f"-{digest}"):
        return name
    room = NAME_CHARACTERS_MAX - DIGEST_CHARACTERS - 1
    if len(name) > room:
        own = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS]
        name = f"{name[: room - DIGEST_CHARACTERS - 1]}-{own}"
    return f"{name}-{digest}"


def conflict_message(name: str, there: Identity | None, asked: Identity) -> str:
    """Why a namespace cannot be opened: both identities, field by field, those first that differ."""
    if there is None:
        return (
            f"namespace {name!r} exists without an identity, and its chunks may be of any kind; asked for was "
            + _fields(asked)
        )
    fields = [(field, getattr(there, field), getattr(asked, field)) for field in Identity.__struct_fields__]
    differ = "; ".join(
        f"{field} is {_shown(is_)}, asked for was {_shown(was)}" for field, is_, was in fields if is_ != was
    )
    same = ", ".join(f"{field} {_shown(is_)}" for field, is_, was in fields if is_ == was)
    return f"namespace {name!r} exists with another identity: {differ}. The same in both: {same}"


def too_long(index: int, length: int, chunk_bytes: int, chunk_tokens: int) -> str:
    """Why a chunk is refused that is longer than its namespace's chunks are."""
    tokens = f" ({chunk_tokens} tokens)" if chunk_tokens else ""
    return (
        f"chunk {index} has {length} bytes; chunks of this namespace have {chunk_bytes}{tokens}, and only the last "
        "one of a prefix may be shorter"
    )


def _fields(identity: Identity) -> str:
    return ", ".join(f"{name} {_shown(getattr(identity, name))}" for name in Identity.__struct_fields__)


def _shown(value: str | int) -> str:
    if isinstance(value, int):
        return f"{value}"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _plain(message: str) -> str:
    """A message of msgspec, with the name of the field as we write it."""
    return message.replace("Object missing required field", "missing").replace(" - at `$.", ": `")
