import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import ProtocolError
from mezzo.protocol.frame import (
    BUFFER_BYTES,
    DIRECT_BYTES_MIN,
    FROM_CLIENT,
    FROM_SERVER,
    HEADER_BYTES,
    MAGIC,
    Frame,
    FrameReader,
    PayloadDone,
    encode,
)
from mezzo.protocol.messages import (
    BODIES,
    GetData,
    Hello,
    Kind,
    LookedUp,
    Lookup,
    Ping,
    PutData,
    Welcome,
)

LIMITS = {"body_bytes_max": 1 << 20, "payload_bytes_max": 1 << 26}


def feed(reader, data, sizes=None, sink=None):
    """Bytes in pieces of ``sizes`` (as large as fits by default); the events that come of them."""
    events, position, turn = [], 0, 0
    while position < len(data):
        room = reader.buffer()
        assert len(room) > 0
        count = min(len(room), len(data) - position)
        if sizes:
            count = min(count, sizes[turn % len(sizes)])
            turn += 1
        room[:count] = data[position : position + count]
        reader.received(count)
        position += count
        while (event := reader.next_event()) is not None:
            events.append(event)
            if type(event) is Frame and event.payload_bytes:
                views = sink(event) if sink else None
                if views is None:
                    reader.discard_payload()
                else:
                    reader.deliver_into(views)
    return events


def header(magic=MAGIC, kind=Kind.PING, flags=0, body_bytes=1, payload_bytes=0, request_id=1):
    return struct.pack("<HBBIQQ", magic, kind, flags, body_bytes, payload_bytes, request_id)


def test_the_header_is_what_the_document_says():
    frame = encode(Kind.PUT_DATA, 0x0102030405060708, PutData(3, [4]), 0x1122)
    assert (
        frame[:HEADER_BYTES].hex()
        == "5a4d" + "2b" + "00" + "04000000" + "2211000000000000" + "0807060504030201"
    )
    assert frame[HEADER_BYTES:].hex() == "92" + "03" + "9104"


def test_kinds_go_one_way():
    assert {Kind.REFUSE} == FROM_CLIENT & FROM_SERVER
    assert set(Kind) == FROM_CLIENT | FROM_SERVER == set(BODIES)


keys = st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=20)
bodies = st.one_of(
    st.tuples(st.just(Kind.LOOKUP), st.builds(Lookup, keys), st.just(0)),
    st.tuples(st.just(Kind.PING), st.just(Ping()), st.just(0)),
    st.tuples(st.just(Kind.HELLO), st.builds(Hello, st.integers(0, 9), st.integers(0, 9)), st.just(0)),
    st.tuples(
        st.just(Kind.PUT_DATA),
        st.builds(PutData, st.integers(0, 9), st.just([1])),
        st.one_of(st.integers(1, 300), st.integers(DIRECT_BYTES_MIN - 2, 3 * DIRECT_BYTES_MIN)),
    ),
)


@settings(max_examples=150)
@given(
    frames=st.lists(bodies, min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 40000), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 20000), min_size=1, max_size=4),
    keep=st.booleans(),
)
def test_a_stream_comes_apart_as_it_was_put_together(frames, sizes, cuts, keep):
    stream, payloads = b"", []
    for number, (kind, body, payload_bytes) in enumerate(frames):
        payload = bytes((number + index) % 251 for index in range(payload_bytes))
        stream += encode(kind, number, body, payload_bytes) + payload
        if payload_bytes:
            payloads.append(payload)
    memories = []

    def sink(frame):
        if not keep:
            return None
        memory = memoryview(bytearray(frame.payload_bytes))
        memories.append(memory)
        views, start, turn = [], 0, 0
        while start < len(memory):
            views.append(memory[start : start + cuts[turn % len(cuts)]])
            start += cuts[turn % len(cuts)]
            turn += 1
        return views

    reader = FrameReader(FROM_CLIENT, **LIMITS)
    events = feed(reader, stream, sizes, sink)
    got = [event for event in events if isinstance(event, Frame)]
    assert [(f.kind, f.body, f.payload_bytes) for f in got] == frames
    assert [f.request_id for f in got] == list(range(len(frames)))
    assert sum(isinstance(event, PayloadDone) for event in events) == len(payloads)
    if keep:
        assert [bytes(memory) for memory in memories] == payloads
    assert not reader.mid_frame


def test_a_large_payload_is_received_straight_into_its_memory():
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    memory = bytearray(1 << 20)
    assert feed(
        reader, encode(Kind.PUT_DATA, 7, PutData(0, [1]), len(memory)), sink=lambda _: [memoryview(memory)]
    )
    room = reader.buffer()
    assert len(room) == len(memory)
    room[:3] = b"abc"
    reader.received(3)
    assert memory[:3] == b"abc"
    assert reader.payload_received == 3
    assert reader.in_payload
    assert reader.next_event() is None
    rest = reader.buffer()
    assert len(rest) == len(memory) - 3
    reader.received(len(rest))
    assert reader.next_event() == PayloadDone(Kind.PUT_DATA, 7, len(memory))
    assert reader.next_event() is None


def test_a_body_larger_than_the_buffer():
    body = Lookup([bytes([1 + index % 255]) * 64 for index in range(4096)])
    frame = encode(Kind.LOOKUP, 1, body)
    assert len(frame) > BUFFER_BYTES
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    small = encode(Kind.PING, 2, Ping())
    events = feed(reader, small + frame + small * 3, sizes=[len(small) + 30, 70000])
    assert [event.kind for event in events] == [Kind.PING, Kind.LOOKUP, Kind.PING, Kind.PING, Kind.PING]
    assert events[1].body == body
    assert len(reader.buffer()) <= BUFFER_BYTES


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "starts with"),
        (header(kind=99), "kind 99"),
        (header(kind=Kind.WELCOME), "not allowed"),
        (header(flags=1), "flags"),
        (header(kind=Kind.LOOKUP, body_bytes=2**32 - 1), "body_bytes_max"),
        (header(kind=Kind.PUT_DATA, payload_bytes=2**64 - 1), "payload_bytes_max"),
        (header(kind=Kind.PUT_DATA, payload_bytes=0), "no payload"),
        (header(kind=Kind.PING, payload_bytes=1), "must not have a payload"),
        (header(body_bytes=0), "not valid"),
        (header(kind=Kind.LOOKUP) + b"\xc1", "not valid"),
        (header(kind=Kind.LOOKUP) + b"\x90", "not valid"),
        (header(kind=Kind.LOOKUP, body_bytes=2) + b"\x91\x90", "not valid"),
        (header(kind=Kind.LOOKUP, body_bytes=6) + b"\x91\xdd\xff\xff\xff\xff", "not valid"),
        (header(kind=Kind.LOOKUP, body_bytes=5) + b"\x91\x91\xc4\x00\xc0", "not valid"),
        (header(kind=Kind.LOOKUP, body_bytes=3) + b"\x91\x91\x05", "not valid"),
        (header(kind=Kind.PING, body_bytes=2) + b"\x90\x90", "not valid"),
        (header(kind=Kind.PING, body_bytes=100_000) + b"\x91" * 100_000, "not valid"),
        (header(kind=Kind.HELLO, body_bytes=5) + b"\x93\x01\x01\xa1\xff", "not valid"),
        (header(kind=Kind.HELLO, body_bytes=3) + b"\x92\xff\x01", "not valid"),
    ],
)
def test_what_is_no_frame_is_refused_for_good(data, reason):
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    with pytest.raises(ProtocolError, match=reason):
        feed(reader, data)
    for again in (reader.next_event, reader.buffer):
        with pytest.raises(ProtocolError, match=reason):
            again()


def test_an_oversized_body_is_refused_before_memory_is_taken():
    reader = FrameReader(FROM_CLIENT, body_bytes_max=1000, payload_bytes_max=0)
    with pytest.raises(ProtocolError, match="body_bytes_max = 1000"):
        feed(reader, header(kind=Kind.LOOKUP, body_bytes=1001))
    assert not feed(
        FrameReader(FROM_CLIENT, body_bytes_max=1000, payload_bytes_max=0), header(body_bytes=1000)
    )


def test_the_payload_is_as_long_as_its_parts():
    reader = FrameReader(FROM_SERVER, **LIMITS)
    with pytest.raises(ProtocolError, match="GET_DATA says 9 bytes"):
        feed(reader, encode(Kind.GET_DATA, 1, GetData(0, 0, [4, 5], [1, 2]), 8))


def test_fields_that_a_newer_peer_appends_are_skipped():
    told = range(5, 5 + len(LookedUp.__struct_fields__))
    body = bytes([0x90 + len(told) + 1, *told]) + bytes.fromhex("a3616263")
    reader = FrameReader(FROM_SERVER, **LIMITS)
    events = feed(reader, header(kind=Kind.LOOKED_UP, body_bytes=len(body)) + body)
    assert events[0].body == LookedUp(*told)


def test_fields_that_an_older_peer_leaves_out_have_defaults():
    body = bytes.fromhex("92" + "01" + "01")
    events = feed(
        FrameReader(FROM_CLIENT, **LIMITS), header(kind=Kind.HELLO, body_bytes=3, request_id=0) + body
    )
    assert events[0].body == Hello(1, 1)


@settings(max_examples=100)
@given(cut=st.integers(0, 200))
def test_a_truncated_stream_is_seen_as_such(cut):
    stream = encode(Kind.PING, 1, Ping()) + encode(Kind.PUT_DATA, 2, PutData(0, [1]), 100) + bytes(100)
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    feed(reader, stream[:cut], sizes=[13])
    boundaries = (0, HEADER_BYTES + 1, len(stream))
    assert reader.mid_frame == (min(cut, len(stream)) not in boundaries)


@settings(max_examples=300)
@given(data=st.data())
def test_garbled_frames_are_refused_or_read_and_nothing_else(data):
    good = (
        encode(Kind.LOOKUP, 1, Lookup([b"k" * 32] * 3))
        + encode(Kind.PUT_DATA, 2, PutData(0, [7]), 50)
        + bytes(50)
    )
    garbled = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=6)):
        garbled[place] = data.draw(st.integers(0, 255))
    try:
        events = feed(FrameReader(FROM_CLIENT, **LIMITS), bytes(garbled), sizes=[17, 400])
    except ProtocolError:
        return
    assert all(isinstance(event, (Frame, PayloadDone)) for event in events)


def test_the_driver_decides_about_a_payload_first():
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    frame = encode(Kind.PUT_DATA, 1, PutData(0, [1]), 10)
    reader.buffer()[: len(frame)] = frame
    reader.received(len(frame))
    assert reader.next_event().payload_bytes == 10
    for call in (reader.next_event, reader.buffer):
        with pytest.raises(RuntimeError, match="comes first"):
            call()
    for views in ([memoryview(bytearray(9))], [memoryview(bytes(10))], []):
        with pytest.raises(ValueError, match="views must"):
            reader.deliver_into(views)
    reader.deliver_into([memoryview(bytearray(10)), memoryview(bytearray(0))])
    with pytest.raises(RuntimeError, match="no payload"):
        reader.discard_payload()


def test_more_than_fits_cannot_be_received():
    reader = FrameReader(FROM_CLIENT, **LIMITS)
    with pytest.raises(ValueError, match="cannot have been received"):
        reader.received(len(reader.buffer()) + 1)


def test_every_body_survives_the_way():
    welcome = Welcome(1, "s", bytes(16), 0, bytes(16), bytes(16), 1, 64, 1, 1, 1, 0, 0, 1, 4096, False)
    events = feed(FrameReader(FROM_SERVER, **LIMITS), encode(Kind.WELCOME, 0, welcome))
    assert events[0].body == welcome
