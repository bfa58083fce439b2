"""Output that a thread sends: every byte once, in order, and memory given back only when it was sent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo_server.shard.tls_connection import HandedQueue

steps = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.integers(1, 40)),
        st.tuples(st.just("payload"), st.lists(st.integers(1, 60), min_size=1, max_size=4)),
        st.tuples(st.just("hand"), st.just(0)),
        st.tuples(st.just("sent"), st.integers(1, 90)),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps, st.booleans())
def test_every_byte_is_handed_once_in_order_and_pieces_come_back_when_they_are_sent(plan, refilling):
    queue = HandedQueue()
    expected = bytearray()
    handed: list[bytes] = []
    ends: list[int] = []  # where each piece ends in the stream
    back: list[int] = []
    sent = 0
    number = 0

    def content(size: int) -> bytes:
        nonlocal number
        number += 1
        data = bytes([number % 251]) * size
        expected.extend(data)
        return data

    def hand() -> None:
        handed.extend(bytes(view) for view in queue.hand())

    for step, value in plan:
        if step == "frame":
            queue.add_frame(content(value))
        elif step == "payload":
            queue.begin_payload(content(3), sum(value))
            for size in value:
                piece = memoryview(content(size))
                index = len(ends)
                ends.append(len(expected))

                def given_back(index: int = index) -> None:
                    back.append(index)
                    if refilling:
                        hand()  # as a get does that has more to give

                queue.add_piece(piece, given_back)
        elif step == "hand":
            hand()
        else:
            count = min(value, sum(map(len, handed)) - sent)
            if count:
                sent += count
                queue.sent(count)
        assert b"".join(handed) == expected[: sum(map(len, handed))]
        assert back == [index for index, end in enumerate(ends) if end <= sent]
    queue.close()
    assert back == list(range(len(ends)))
    assert queue.hand() == []
