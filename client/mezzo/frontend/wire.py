"""Messages that carry payload, framed by hand: protobuf's wire format without protobuf's copies. No I/O.

A generated class copies a payload when a field is set, and again when the message is serialised.  Here it is
copied once, from where it lies into the message, and not at all when a message is taken apart.  The
format is that of proto/mezzo/v1/store.proto; any protobuf library reads and writes it.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from mezzo.errors import InvalidArgument

HEAD_BYTES_MAX = 32
"""of one piece in a message, at most: two tags and lengths, index and offset"""

_VARINT, _I64, _LENGTH, _GROUP, _GROUP_END, _I32 = range(6)  # wire types
_GROUPS_MAX = 64  # one within the other
_U64 = 2**64

View: TypeAlias = bytes | memoryview


class Piece(NamedTuple):
    """``mezzo.v1.Piece``: bytes of one chunk."""

    chunk: int
    """``index``: which of the call's keys"""
    offset: int
    data: View


class PutMessage(NamedTuple):
    """``mezzo.v1.PutRequest`` taken apart."""

    header: bytes | None
    """serialised ``PutHeader``"""
    pieces: list[Piece]


class GetMessage(NamedTuple):
    """``mezzo.v1.GetResponse`` taken apart."""

    pieces: list[Piece]
    result: bytes | None
    """serialised ``GetResult``"""


def encode_put(header: bytes | None, pieces: Iterable[Piece]) -> bytes:
    """A ``PutRequest``; ``header`` is a serialised ``PutHeader``."""
    parts: list[View] = []
    if header is not None:
        parts += (b"\x0a", varint(len(header)), header)
    for piece in pieces:
        _add_piece(parts, b"\x12", piece)
    return b"".join(parts)


def encode_get(pieces: Iterable[Piece], result: bytes | None) -> bytes:
    """A ``GetResponse``; ``result`` is a serialised ``GetResult``."""
    parts: list[View] = []
    for piece in pieces:
        _add_piece(parts, b"\x0a", piece)
    if result is not None:
        parts += (b"\x12", varint(len(result)), result)
    return b"".join(parts)


def decode_put(message: bytes) -> PutMessage:
    """Takes a ``PutRequest`` apart; pieces are views of ``message``. InvalidArgument if it is none."""
    headers, pieces = _fields(message, single=1, repeated=2)
    return PutMessage(_merged(headers), pieces)


def decode_get(message: bytes) -> GetMessage:
    """Takes a ``GetResponse`` apart; pieces are views of ``message``. InvalidArgument if it is none."""
    results, pieces = _fields(message, single=2, repeated=1)
    return GetMessage(pieces, _merged(results))


def varint(number: int) -> bytes:
    """``number``, 0 to 2**64 - 1, seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _add_piece(parts: list[View], tag: bytes, piece: Piece) -> None:
    chunk, offset, data = piece
    length = len(data)
    # proto3 leaves out what has its default value.
    head = b"\x08" + varint(chunk) if chunk else b""
    if offset:
        head += b"\x10" + varint(offset)
    if length:
        head += b"\x1a" + varint(length)
    parts.append(tag + varint(len(head) + length) + head)
    if length:
        parts.append(data)


def _merged(serialised: Sequence[memoryview]) -> bytes | None:
    """A singular message field that occurs again is merged; joined bytes parse to just that."""
    return b"".join(serialised) if serialised else None


def _fields(message: bytes, *, single: int, repeated: int) -> tuple[list[memoryview], list[Piece]]:
    view = memoryview(message)
    singles: list[memoryview] = []
    pieces: list[Piece] = []
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at, end)
        field, kind = tag >> 3, tag & 7
        if kind == _LENGTH and field in (single, repeated):
            at, stop = _span(view, at, end)
            if field == single:
                singles.append(view[at:stop])
            else:
                pieces.append(_piece(view, at, stop))
            at = stop
        else:
            at = _skip(view, at, end, field, kind)
    return singles, pieces


def _piece(view: memoryview, at: int, end: int) -> Piece:
    chunk = offset = 0
    data: View = b""
    while at < end:
        tag, at = _varint(view, at, end)
        if tag == 0x08:
            number, at = _varint(view, at, end)
            chunk = number & 0xFFFF_FFFF
        elif tag == 0x10:
            offset, at = _varint(view, at, end)
        elif tag == 0x1A:
            at, stop = _span(view, at, end)
            data = view[at:stop]
            at = stop
        else:
            at = _skip(view, at, end, tag >> 3, tag & 7)
    return Piece(chunk, offset, data)


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    if at < end and (byte := view[at]) < 0x80:
        return byte, at + 1
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise InvalidArgument("the message ends within a number")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number % _U64, at
    raise InvalidArgument("the message has a number of more than 10 bytes")


def _span(view: memoryview, at: int, end: int) -> tuple[int, int]:
    length, at = _varint(view, at, end)
    if length > end - at:
        raise InvalidArgument(f"the message says {length} bytes where {end - at} are left")
    return at, at + length


def _skip(view: memoryview, at: int, end: int, field: int, kind: int) -> int:
    """Where the next field begins: a newer peer may send fields that we do not know."""
    if field == 0:
        raise InvalidArgument("the message has a field number 0")
    if kind == _VARINT:
        return _varint(view, at, end)[1]
    if kind == _LENGTH:
        return _span(view, at, end)[1]
    if kind == _GROUP:
        return _skip_group(view, at, end, field)
    length = {_I64: 8, _I32: 4}.get(kind)
    if length is None or length > end - at:
        raise InvalidArgument(f"field {field} of the message has wire type {kind}, which cannot be here")
    return at + length


def _skip_group(view: memoryview, at: int, end: int, field: int) -> int:
    """Groups are of the past, but a well-formed message may have some."""
    open_groups = [field]
    while open_groups:
        tag, at = _varint(view, at, end)
        field, kind = tag >> 3, tag & 7
        if kind == _GROUP and len(open_groups) < _GROUPS_MAX:
            open_groups.append(field)
        elif kind == _GROUP_END and field == open_groups[-1]:
            open_groups.pop()
        elif kind in (_GROUP, _GROUP_END):
            raise InvalidArgument(f"the message has a group {field} that does not belong there")
        else:
            at = _skip(view, at, end, field, kind)
    return at
