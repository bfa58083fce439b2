"""What a proxied client makes of a front-end's answers, right and wrong. No gRPC."""

import pytest

from mezzo.errors import (
    CODES,
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    ErrorCode,
    InternalError,
    ProtocolError,
    TooLarge,
    Unsupported,
)
from mezzo.frontend.exchange import Receiving, put_messages, take_put, unary
from mezzo.frontend.opened import opened, ways
from mezzo.frontend.status import STATUSES, Status, tell, understand
from mezzo.frontend.wire import Piece, decode_put, encode_get
from mezzo.operations import Acquire, Delete, Lookup, Stat
from mezzo.places import places
from mezzo.statistics import Counters
from mezzo.transfers import Get, Put
from mezzo.v1 import session_pb2, store_pb2


def get_of(*targets):
    keys = [b"%d" % index for index in range(len(targets))]
    return Get(
        keys,
        places(targets, writable=True, name="targets"),
        region=None,
        scope=b"",
        part=(0, 0),
        counters=Counters(),
    )


def result(*lengths):
    found = [length > 0 for length in lengths]
    return store_pb2.GetResult(found=found, lengths=lengths).SerializeToString()


def test_nothing_is_believed_before_the_result():
    target = bytearray(6)
    operation = get_of(target)
    receiving = Receiving(operation)
    receiving.take(encode_get([Piece(0, 0, b"abc")], None))
    assert operation.found == (False,)
    receiving.take(encode_get([Piece(0, 3, b"de")], result(5)))
    receiving.finish()
    assert (operation.found, operation.lengths, bytes(target)) == ((True,), (5,), b"abcde\0")


def test_a_chunk_goes_into_a_list_of_buffers():
    first, second, third = bytearray(2), bytearray(1), bytearray(3)
    receiving = Receiving(get_of([first, second, third]))
    receiving.take(encode_get([Piece(0, 0, b"a"), Piece(0, 1, b"bcd"), Piece(0, 4, b"ef")], result(6)))
    receiving.finish()
    assert bytes(first + second + third) == b"abcdef"


@pytest.mark.parametrize(
    "messages",
    [
        [],  # the stream ends without a result
        [encode_get([Piece(0, 0, b"abc")], None)],
        [encode_get([Piece(0, 1, b"bc")], result(2))],  # a gap
        [encode_get([Piece(2, 0, b"abc")], result(3))],  # no such key
        [encode_get([Piece(1, 0, b"a"), Piece(0, 0, b"a")], result(1, 1))],  # backwards
        [encode_get([Piece(0, 0, b"abcdefgh")], result(8))],  # more than fits
        [encode_get([Piece(0, 0, b"abc")], result(4, 0))],  # another length than came
        [encode_get([Piece(0, 0, b"abc")], result(0, 0))],  # a miss of which bytes came
        [encode_get([], result(3))],  # one result for two keys
        [encode_get([], result(3, 0))],  # found, and nothing came
        [encode_get([], result(0, 0)), encode_get([], result(0, 0))],  # more after the end
        [b"\xff\xff"],
        [b"\x12\x02\xff\xff"],
    ],
)
def test_a_stream_that_cannot_be_is_an_error_and_leaves_zeros(messages):
    targets = bytearray(b"\xee" * 5), bytearray(b"\xee" * 5)
    operation = get_of(*targets)
    receiving = Receiving(operation)

    def play():
        for message in messages:
            receiving.take(message)
        receiving.finish()

    with pytest.raises(ProtocolError):
        play()
    receiving.abandon()
    assert operation.found == (False, False)
    for target in targets:
        assert target.rstrip(b"\xee").strip(b"\0") == b""


def test_a_put_is_cut_into_messages_of_bounded_payload():
    sources = [b"abc", [b"de", b"f"], b"g" * 5]
    operation = Put(
        [b"1", b"2", b"3"],
        places(sources, writable=False, name="sources"),
        parts=[],
        region=None,
        scope=b"",
        positions=range(7, 10),
    )
    messages = [decode_put(message) for message in put_messages(operation, "ns", 4)]
    assert [message.header is not None for message in messages] == [True, False, False]
    header = store_pb2.PutHeader.FromString(messages[0].header)
    assert (header.namespace, list(header.lengths), header.position) == ("ns", [3, 3, 5], 7)
    chunks = {0: b"", 1: b"", 2: b""}
    for message in messages:
        assert sum(len(piece.data) for piece in message.pieces) <= 4
        for piece in message.pieces:
            assert piece.offset == len(chunks[piece.chunk])
            chunks[piece.chunk] += bytes(piece.data)
    assert list(chunks.values()) == [b"abc", b"def", b"ggggg"]
    with pytest.raises(ProtocolError):
        take_put(operation, store_pb2.PutResponse(states=[1, 1]).SerializeToString())


def test_answers_that_do_not_fit_their_question():
    with pytest.raises(ProtocolError):
        unary(Lookup([b"a"]), "ns").take(store_pb2.LookupResponse(prefix=2).SerializeToString())
    with pytest.raises(ProtocolError):
        unary(Delete([b"a"]), "ns").take(store_pb2.DeleteResponse().SerializeToString())
    with pytest.raises(ProtocolError):
        unary(Lookup([b"a"]), "ns").take(b"\xff\xff\xff")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_each_error_comes_back_as_itself(code):
    error = CODES[code]("why")
    told = tell(error)
    assert told.status is STATUSES[code]
    back = understand(told.status, told.message, told.metadata)
    assert type(back) is type(error)
    assert str(back) == "why"


def test_a_busy_one_says_when_to_try_again():
    told = tell(Busy("full", 1.25))
    assert told.status is Status.RESOURCE_EXHAUSTED
    assert understand(told.status, told.message, told.metadata).retry_after_s == 1.25


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (Status.UNAVAILABLE, "failed to connect to all addresses", ConnectionLost),
        (Status.CANCELLED, "", ConnectionLost),
        (Status.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceeded),
        (Status.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", TooLarge),
        (Status.RESOURCE_EXHAUSTED, "too many", Busy),
        (Status.UNIMPLEMENTED, "Method not found!", Unsupported),
        (Status.UNKNOWN, "?", InternalError),
        (99, "?", InternalError),
    ],
)
def test_errors_that_are_not_the_front_ends(status, message, kind):
    assert type(understand(status, message, ())) is kind


def test_a_session_names_ways_to_its_shard_unix_first():
    answer = session_pb2.OpenSessionResponse(
        ticket=b"t",
        ticket_ms=1500,
        map=session_pb2.PlacementMap(
            epoch=3,
            shards=[
                session_pb2.Shard(
                    incarnation=b"i" * 16,
                    addresses=["tcp://10.0.0.1:7700", "quic://later", "unix:///run/mezzo.sock"],
                )
            ],
        ),
        limits=session_pb2.Limits(
            keys_max=100, chunk_bytes_max=1 << 20, put_bytes_max=1 << 30, message_bytes_max=1 << 20
        ),
    )
    session = opened(answer.SerializeToString(), now=10.0)
    assert (session.ticket, session.ticket_expires, session.epoch) == (b"t", 11.5, 3)
    assert [str(address) for address, _ in ways(session.shards)] == [
        "unix:///run/mezzo.sock",
        "tcp://10.0.0.1:7700",
    ]
    assert (session.limits.keys_max, session.limits.chunk_bytes_max) == (100, 1 << 20)
    assert session.piece_bytes <= 1 << 19
    # Several shards are for a later release; this one uses them through the front-end.
    assert ways(session.shards * 2) == []


def test_what_shards_did_not_answer_is_told_of_every_call():
    taken = [Lookup([b"a", b"b"]), Acquire([b"a", b"b"], 5), Stat([b"a", b"b"])]
    answers = [
        store_pb2.LookupResponse(unanswered=2),
        store_pb2.AcquireResponse(unanswered=2),
        store_pb2.StatResponse(chunks=[store_pb2.ChunkStat()] * 2, unanswered=2),
    ]
    for operation, answer in zip(taken, answers, strict=True):
        unary(operation, "ns").take(answer.SerializeToString())
    put = Put(
        [b"a"],
        places([b"x"], writable=False, name="sources"),
        parts=[],
        region=None,
        scope=b"",
        positions=[0],
    )
    take_put(put, store_pb2.PutResponse(states=[3], unanswered=2).SerializeToString())
    get = get_of(bytearray(1), bytearray(1))
    receiving = Receiving(get)
    told = store_pb2.GetResult(found=[False] * 2, lengths=[0] * 2, unanswered=2)
    receiving.take(encode_get([], told.SerializeToString()))
    receiving.finish()
    assert [operation.unanswered for operation in (*taken, put, get)] == [2] * 5
