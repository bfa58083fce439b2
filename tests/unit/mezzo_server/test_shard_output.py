from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo.errors import InternalError
from mezzo_server.shard.output import LARGE_BYTES, OutputQueue


class Socket:
    """Takes as many bytes as it is told to, one call after the other."""

    def __init__(self, takes: list[int]) -> None:
        self.takes = takes
        self.taken = bytearray()

    def send(self, view: memoryview) -> int:
        return self.sendmsg([view])

    def sendmsg(self, views: list[memoryview]) -> int:
        data = b"".join(views)
        count = min(len(data), self.takes.pop(0) if self.takes else len(data))
        if count == 0:
            raise BlockingIOError
        self.taken += data[:count]
        return count


def drain(queue: OutputQueue, sock: Socket) -> None:
    while queue:
        try:
            queue.send(sock)  # type: ignore[arg-type]
        except BlockingIOError:
            continue


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.lists(st.integers(1, 300_000), min_size=1, max_size=4),
        ),
        max_size=8,
    ),
    st.lists(st.integers(0, 200_000), max_size=30),
)
def test_everything_is_sent_in_order_and_given_back(
    script: list[bytes | list[int]], takes: list[int]
) -> None:
    queue, sock = OutputQueue(), Socket(takes)
    expected = bytearray()
    given_back: list[int] = []
    pieces = 0
    for number, item in enumerate(script):
        if isinstance(item, bytes):
            queue.add_frame(item)
            expected += item
            continue
        queue.begin_payload(b"head", sum(item))
        expected += b"head"
        for size in item:
            data = bytes([number]) * size
            queue.add_piece(memoryview(data), lambda number=pieces: given_back.append(number))
            expected += data
            pieces += 1
    drain(queue, sock)
    assert sock.taken == expected
    assert given_back == list(range(pieces))
    assert queue.frame_bytes == 0
    assert not queue.has_payload


def test_frames_wait_for_the_end_of_a_payload() -> None:
    queue, sock = OutputQueue(), Socket([])
    queue.begin_payload(b"H", 4)
    queue.add_piece(memoryview(b"ab"), lambda: None)
    queue.add_frame(b"answer")
    drained = Socket([])
    while queue._segments:
        queue.send(drained)  # type: ignore[arg-type]
    assert drained.taken == b"Hab"
    assert queue.has_payload
    queue.add_piece(memoryview(b"cd"), lambda: None)
    drain(queue, sock)
    assert sock.taken == b"cdanswer"


def test_payload_that_was_not_announced_is_a_fault() -> None:
    queue = OutputQueue()
    queue.begin_payload(b"H", 2)
    with pytest.raises(InternalError):
        queue.begin_payload(b"H", 2)
    with pytest.raises(InternalError):
        queue.add_piece(memoryview(b"abc"), lambda: None)


def test_closing_gives_every_piece_back_once() -> None:
    queue = OutputQueue()
    given_back: list[int] = []
    queue.begin_payload(b"H", 3 * LARGE_BYTES)
    for number in range(3):
        queue.add_piece(memoryview(bytes(LARGE_BYTES)), lambda number=number: given_back.append(number))
    sock = Socket([1, LARGE_BYTES])
    queue.send(sock)  # type: ignore[arg-type]
    queue.send(sock)  # type: ignore[arg-type]
    queue.close()
    queue.close()
    assert given_back == [0, 1, 2]
    assert not queue


def test_there_is_a_watermark() -> None:
    queue = OutputQueue()
    queue.begin_payload(b"H", 1 << 30)
    count = 0
    while queue.has_room():
        queue.add_piece(memoryview(bytes(512 << 10)), lambda: None)
        count += 1
    assert count == 4
    queue = OutputQueue()
    count = 0
    while queue.has_room():
        queue.begin_payload(b"H", 1)
        queue.add_piece(memoryview(b"x"), lambda: None)
        count += 1
    assert count <= 64
