"""Messages framed by hand are those of the generated classes, to the byte, and are read as they read them."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from mezzo.errors import InvalidArgument
from mezzo.frontend.wire import Piece, decode_get, decode_put, encode_get, encode_put, varint
from mezzo.v1 import store_pb2

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
PIECES = st.lists(st.builds(Piece, U32, U64, st.binary(max_size=300)), max_size=4)


def generated(pieces):
    return [store_pb2.Piece(index=p.chunk, offset=p.offset, data=bytes(p.data)) for p in pieces]


def plain(pieces):
    return [(piece.chunk, piece.offset, bytes(piece.data)) for piece in pieces]


@given(PIECES, st.none() | st.lists(U64, max_size=5))
def test_a_get_message_is_that_of_the_generated_class(pieces, lengths):
    message = store_pb2.GetResponse(pieces=generated(pieces))
    result = None
    if lengths is not None:
        message.result.SetInParent()
        message.result.lengths.extend(lengths)
        result = message.result.SerializeToString()
    assert encode_get(pieces, result) == message.SerializeToString()
    decoded = decode_get(message.SerializeToString())
    assert plain(decoded.pieces) == plain(pieces)
    assert decoded.result == result


@given(PIECES, st.none() | st.lists(st.binary(min_size=1, max_size=64), max_size=5))
def test_a_put_message_is_that_of_the_generated_class(pieces, keys):
    message = store_pb2.PutRequest(pieces=generated(pieces))
    header = None
    if keys is not None:
        message.header.SetInParent()
        message.header.keys.extend(keys)
        header = message.header.SerializeToString()
    assert encode_put(header, pieces) == message.SerializeToString()
    decoded = decode_put(message.SerializeToString())
    assert plain(decoded.pieces) == plain(pieces)
    assert decoded.header == header


@given(st.binary(max_size=60))
@example(b"\x0b\x0c")
@example(b"\x0b\x14")
@example(b"\x1b\x13\x14\x1c\x0a\x00")
def test_any_bytes_are_read_as_the_generated_class_reads_them(data):
    """Ours does not look into the header, nor into unknown fields; what it takes, it takes alike."""
    try:
        decoded = decode_put(data)
    except InvalidArgument:
        with pytest.raises(DecodeError):
            store_pb2.PutRequest.FromString(data)
        return
    try:
        message = store_pb2.PutRequest.FromString(data)
    except DecodeError:
        return
    assert plain(decoded.pieces) == [(p.index, p.offset, p.data) for p in message.pieces]
    assert (decoded.header is not None) == message.HasField("header")


def test_fields_in_any_order_repeated_and_unknown():
    inner = b"\x1a\x03abc" + b"\x78\x01" + b"\x10\x05" + b"\x08\x01" + b"\x08\x02" + b"\x1a\x02xy"
    message = (
        b"\x2d1234"
        b"\x0a"
        + varint(len(inner))
        + inner
        + b"\x318bytes.."
        + b"\x33\x0b\x08\x01\x0c\x34"
        + b"\x12\x00"
        + b"\x12\x00"
    )
    decoded = decode_get(message)
    assert plain(decoded.pieces) == [(2, 5, b"xy")]
    assert decoded.result == b""


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",  # a tag and nothing
        b"\x0a\x05ab",  # shorter than it says
        b"\x0a\x02\x1a\x05",  # the same within a piece
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number without an end
        b"\x0b",  # a group without an end
        b"\x0b" * 100 + b"\x0c" * 100,  # groups in groups in groups
        b"\x02\x00",  # field 0
    ],
)
def test_what_cannot_be_a_message_is_refused(message):
    with pytest.raises(InvalidArgument):
        decode_get(message)


@given(U64)
def test_numbers_are_as_long_as_they_need_to_be(number):
    assert len(varint(number)) == max(1, -(-number.bit_length() // 7))
