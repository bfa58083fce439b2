"""The reader of events and its streams, against a namespace of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mezzo.backoff import Backoff
from mezzo.errors import Busy, ClientClosed, ConnectionLost, InvalidArgument, MezzoError, TooLarge
from mezzo.events import AsyncEventStream, Cursor, Event, EventReader, EventStream, Gap
from mezzo.protocol.messages import EventKind, Events, EventsAre, GapReason

LIFE = b"l" * 16
OTHER = b"o" * 16


def told(*keys: bytes, upto: int, incarnation: bytes = LIFE, chunks: int = 0) -> EventsAre:
    return EventsAre(incarnation, upto, 0, bytes(len(keys)), list(keys), [1] * len(keys), chunks)


def gap(reason: GapReason, head: int = 0, chunks: int = 0, incarnation: bytes = LIFE) -> EventsAre:
    return EventsAre(incarnation, head, reason, chunks=chunks)


def listed(*keys: bytes, incarnation: bytes = LIFE) -> EventsAre:
    return EventsAre(incarnation, 9, 0, b"", list(keys), [1] * len(keys))


class Play:
    """Answers in turn, and notes what was asked and how long was slept."""

    def __init__(self, *answers: EventsAre | MezzoError | None) -> None:
        self.answers = list(answers)
        self.asked: list[Events] = []
        self.slept: list[float] = []
        self.now = 0.0

    def ask(self, question: Events, wait_s: float) -> EventsAre | None:
        self.asked.append(question)
        answer = self.answers.pop(0)
        if isinstance(answer, MezzoError):
            raise answer
        if answer is not None and not (answer.keys or answer.gap):
            self.now += wait_s
        return answer

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def stream(self, after: Cursor | None = None, snapshot: bool = False) -> EventStream:
        reader = EventReader(after, snapshot)
        return EventStream(self.ask, reader, Backoff(lambda: 1.0), lambda: self.now, self.sleep)


def test_events_have_their_numbers() -> None:
    play = Play(told(b"a", b"b", upto=7))
    events = play.stream(Cursor(LIFE, 5)).poll(1.0)
    assert [(e.key, e.cursor.number) for e in events if isinstance(e, Event)] == [(b"a", 6), (b"b", 7)]
    assert (play.asked[0].incarnation, play.asked[0].after) == (LIFE, 5)


def test_a_lost_connection_is_asked_again_from_where_it_was() -> None:
    play = Play(told(b"a", upto=1), ConnectionLost("gone"), Busy("full", 3.0), told(b"b", upto=2))
    stream = play.stream(Cursor(LIFE, 0))
    assert [next(stream).cursor.number for _ in range(2)] == [1, 2]
    assert [question.after for question in play.asked] == [0, 1, 1, 1]
    assert play.slept[0] == pytest.approx(0.05)
    assert play.slept[1] == pytest.approx(3.0)


def test_poll_ends_in_time_with_and_without_a_server() -> None:
    assert Play(told(upto=0)).stream(Cursor(LIFE, 0)).poll(2.0) == ()
    dead = Play(*[ConnectionLost("gone")] * 20)
    assert dead.stream().poll(1.0) == ()
    assert dead.now == pytest.approx(1.0)


def test_what_no_waiting_mends_is_raised() -> None:
    for error in (InvalidArgument("wrong"), ClientClosed("closed")):
        with pytest.raises(type(error)):
            Play(error).stream().poll(1.0)


def test_a_gap_is_followed_by_a_listing_where_it_is_wanted() -> None:
    play = Play(gap(GapReason.START, 4, chunks=600), listed(b"a"), listed(b"b"), told(b"c", upto=5))
    stream = play.stream(snapshot=True)
    first = next(stream)
    assert first == Gap(GapReason.START, Cursor(LIFE, 4))
    assert stream.cursor is None
    assert [(e.key, e.listed, e.stored) for e in (next(stream), next(stream)) if isinstance(e, Event)] == [
        (b"a", True, True),
        (b"b", True, True),
    ]
    assert stream.cursor == Cursor(LIFE, 4)
    assert next(stream).cursor == stream.cursor == Cursor(LIFE, 5)
    assert [(question.part, question.parts) for question in play.asked] == [(0, 0), (0, 2), (1, 2), (0, 0)]


def test_a_listing_whose_parts_are_too_large_begins_anew_in_smaller_ones() -> None:
    play = Play(gap(GapReason.START), listed(), TooLarge("more parts"), listed(b"a"), listed(b"b"))
    stream = play.stream(snapshot=True)
    play.answers.insert(1, TooLarge("more parts"))
    del play.answers[2:4]
    assert isinstance(next(stream), Gap)
    assert [next(stream).key for _ in range(2)] == [b"a", b"b"]  # type: ignore[union-attr]
    assert [question.parts for question in play.asked] == [0, 1, 2, 2]


def test_a_restart_within_a_listing_begins_with_its_gap() -> None:
    again = gap(GapReason.RESTART, 0, incarnation=OTHER)
    play = Play(
        gap(GapReason.START), listed(b"old", incarnation=OTHER), again, listed(b"new", incarnation=OTHER)
    )
    stream = play.stream(snapshot=True)
    assert isinstance(next(stream), Gap)
    assert next(stream) == Gap(GapReason.RESTART, Cursor(OTHER, 0))
    assert next(stream) == Event(EventKind.STORED, b"new", 1, Cursor(OTHER, 0), True)


def test_what_a_newer_server_tells_is_taken_as_the_worst() -> None:
    play = Play(EventsAre(LIFE, 1, 0, bytes([99]), [b"a"], [1]), EventsAre(LIFE, 9, 99))
    stream = play.stream(Cursor(LIFE, 0))
    event, hole = next(stream), next(stream)
    assert isinstance(event, Event)
    assert not event.stored
    assert isinstance(hole, Gap)


def test_a_disabled_client_waits_and_tells_nothing() -> None:
    play = Play(None, None, None)
    assert play.stream().poll(20.0) == ()
    assert play.slept == [10.0, 10.0]


@pytest.mark.parametrize(
    "text", ["", "x-1", "00-1", f"{'00' * 16}-", f"{'00' * 16}--1", f"{'00' * 16}-{2**63}"]
)
def test_text_that_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no cursor"):
        Cursor.parse(text)


def test_cursors_as_text() -> None:
    assert Cursor.parse(str(Cursor(LIFE, 12))) == Cursor(LIFE, 12)


def test_the_asynchronous_stream_does_the_same() -> None:
    play = Play(told(b"a", upto=1), ConnectionLost("gone"), told(b"b", upto=2), told(upto=2))

    async def ask(question: Events, wait_s: float) -> EventsAre | None:
        return play.ask(question, wait_s)

    async def run() -> None:
        stream = AsyncEventStream(
            ask, EventReader(Cursor(LIFE, 0), False), Backoff(lambda: 0.0), lambda: play.now
        )
        assert [(await anext(stream)).cursor.number for _ in range(2)] == [1, 2]
        assert await stream.poll(1.0) == ()
        stream.close()
        assert [event async for event in stream] == []

    asyncio.run(run())


def test_closing_ends_the_iteration() -> None:
    play = Play(told(b"a", upto=1))
    stream = play.stream(Cursor(LIFE, 0))
    closing: list[Callable[[], None]] = [stream.close]
    for _ in stream:
        closing.pop()()
    assert closing == []
