"""Records in the metadata that several releases read and write: what one does not know it keeps, or it lets be. No I/O.

A record is a JSON object.  A later release may add a field; an older one ignores it, and writes it back as it was
when it changes the others (docs/compatibility.md).  What must not be ignored raises ``reader_min`` of the records that
have it: an older release refuses those, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import fields, replace

from mezzo.errors import Unsupported

READS = 1
"""The format of records that this release reads. Raised by a field that nobody may ignore."""

_REST = "__rest__"
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_NUMBER = msgspec.json.Decoder(int)


class Stored(Struct, frozen=True, kw_only=True):
    """Base of the records."""

    reader_min: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1
    """format that a release must read to act by this record"""
    rest: bytes = msgspec.field(default=b"", name=_REST)
    """fields that a later release knows, as JSON; empty: none. Comes and goes with `decode_stored` and `encode_stored`"""


S = TypeVar("S", bound=Stored)


def encode_stored(record: Stored) -> bytes:
    """A record as it is stored."""
    document: dict[str, Any] = msgspec.to_builtins(record)
    del document[_REST]
    if record.reader_min == 1:
        del document["reader_min"]
    if record.rest:
        _merge(document, msgspec.json.decode(record.rest))
    return msgspec.json.encode(document)


def decode_stored(kind: type[S], value: bytes) -> S:
    """A record of this kind.

    Raises:
        Unsupported: only a later release may act by it.
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: it is malformed.
    """
    document = _OBJECT.decode(value)
    document.pop(_REST, None)
    if "reader_min" in document:
        needed = _NUMBER.decode(document["reader_min"])
        if needed > READS:
            raise Unsupported(f"it is for releases that read format {needed}; this one reads {READS}")
    record = msgspec.json.decode(value, type=kind)
    rest = _unknown(kind, document)
    return replace(record, rest=msgspec.json.encode(rest) if rest else b"")


def _unknown(kind: type[Struct], document: Mapping[str, Raw]) -> dict[str, Any]:
    """What this kind of struct has no fields for, within it too."""
    rest: dict[str, Any] = {}
    known = _fields(kind)
    for name, value in document.items():
        if name not in known:
            rest[name] = value
            continue
        inner = _struct_of(known[name])
        if inner is not None and bytes(value) != b"null":
            unknown = _unknown(inner, _OBJECT.decode(value))
            if unknown:
                rest[name] = unknown
    return rest


@cache
def _fields(kind: type[Struct]) -> Mapping[str, Any]:
    """The types of a struct's fields, by their names as they are stored. It takes a millisecond to find them."""
    return {field.encode_name: field.type for field in fields(kind)}


@cache
def _struct_of(kind: Any) -> type[Struct] | None:
    """The struct that a field may have; None: another kind of thing."""
    if get_origin(kind) in (Union, UnionType):
        return next((inner for inner in map(_struct_of, get_args(kind)) if inner is not None), None)
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


def _merge(document: dict[str, Any], rest: Mapping[str, Any]) -> None:
    for name, value in rest.items():
        there = document.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)
        else:
            document.setdefault(name, value)
