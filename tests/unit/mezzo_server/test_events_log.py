"""The log of a namespace and the hub of all logs, against a model that keeps everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzo.errors import Busy
from mezzo.protocol.messages import EventKind, GapReason
from mezzo_server.blockstore.api import EventSink, Scope
from mezzo_server.events.hub import TRIM_STEP, EventHub
from mezzo_server.events.log import EVENT_BYTES, SLACK_EVENTS, EventLog

LIFE = b"l" * 16
KEYS = st.binary(min_size=1, max_size=64)


@settings(max_examples=200)
@given(
    events=st.lists(st.tuples(st.sampled_from(EventKind), KEYS, st.integers(0, 2**40)), max_size=60),
    events_max=st.integers(1, 20),
    bytes_max=st.integers(100, 4000),
    count_max=st.integers(1, 9),
)
def test_every_cursor_gets_what_follows_it_or_a_gap(
    events: list[tuple[EventKind, bytes, int]], events_max: int, bytes_max: int, count_max: int
) -> None:
    log = EventLog(LIFE, events_max=events_max, bytes_max=bytes_max, now=0.0)
    for event in events:
        log.add(*event)
    assert log.last == len(events)
    kept = len(log)
    assert kept <= events_max
    assert (
        log.bytes_kept
        == sum(EVENT_BYTES + len(key) for _, key, _ in events[len(events) - kept :])
        <= bytes_max
    )
    for after in range(len(events) + 2):
        batch = log.read(LIFE, after, count_max)
        if after > len(events):
            assert (batch.gap, batch.next) == (GapReason.RESTART, len(events))
        elif after < len(events) - kept:
            assert (batch.gap, batch.next, batch.kinds) == (GapReason.BEHIND, len(events), b"")
        else:
            told = list(zip(batch.kinds, batch.keys, batch.lengths, strict=True))
            assert not batch.gap
            assert told == events[after : after + count_max]
            assert batch.next == after + len(told)
    assert log.read(b"", 0, 1).gap == GapReason.START
    assert log.read(b"x" * 16, len(events), 1).gap == GapReason.RESTART


def test_a_window_that_moves_far_keeps_its_numbers_and_its_size() -> None:
    log = EventLog(LIFE, events_max=10, bytes_max=1 << 20, now=0.0)
    for number in range(3 * SLACK_EVENTS):
        log.add(EventKind.STORED, b"%d" % number, number)
    assert len(log) == 10
    assert len(log._keys) < SLACK_EVENTS + 10
    batch = log.read(LIFE, log.last - 2, 5)
    assert list(batch.lengths) == [3 * SLACK_EVENTS - 2, 3 * SLACK_EVENTS - 1]


def test_who_waits_is_called_once_by_the_next_event() -> None:
    log = EventLog(LIFE, events_max=10, bytes_max=1 << 20, now=0.0)
    called: list[str] = []
    first, second = (lambda: called.append("first")), (lambda: called.append("second"))
    log.wait(first)
    log.wait(second)
    log.leave(second)
    log.leave(second)
    log.add(EventKind.STORED, b"a", 1)
    log.add(EventKind.STORED, b"b", 1)
    assert called == ["first"]


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, **more: int) -> None:
        self.clock = Clock()
        self.sinks: dict[Scope, EventSink] = {}
        limits = {"events_max": 100, "bytes_max": 8000, "logs_max": 8, "readers_max": 4, **more}
        self.hub = EventHub(self.watch, incarnation=LIFE, idle_s=60.0, now=self.clock, **limits)

    def watch(self, scope: Scope, sink: EventSink | None) -> None:
        if sink is None:
            del self.sinks[scope]
        else:
            self.sinks[scope] = sink

    def later(self, seconds: float) -> None:
        self.clock.now += seconds
        self.hub.tick()


def scope(number: int, tenant: int = 0) -> Scope:
    return Scope(bytes([tenant]) * 16, bytes([number]) * 16)


def test_a_log_lasts_as_long_as_somebody_asks_and_another_one_is_another() -> None:
    rig = Rig()
    first = rig.hub.log(scope(1))
    assert rig.sinks == {scope(1): first}
    for _ in range(3):
        rig.later(50.0)
        assert rig.hub.log(scope(1)) is first
    rig.later(60.0)
    assert (len(rig.hub), rig.sinks) == (0, {})
    second = rig.hub.log(scope(1))
    assert second.incarnation != first.incarnation
    assert second.read(first.incarnation, first.last, 1).gap == GapReason.RESTART


def test_a_log_whose_reader_waits_is_not_given_up() -> None:
    rig = Rig()
    log = rig.hub.log(scope(1))
    wake: Callable[[], None] = lambda: None  # noqa: E731
    log.wait(wake)
    rig.later(1000.0)
    assert len(rig.hub) == 1
    log.leave(wake)
    rig.later(1000.0)
    assert len(rig.hub) == 0


def test_an_erased_namespace_wakes_who_waits() -> None:
    rig = Rig()
    woken: list[int] = []
    log = rig.hub.log(scope(1))
    log.wait(lambda: woken.append(1))
    log.erased()
    assert woken == [1]
    again = rig.hub.log(scope(1))
    assert again.incarnation != log.incarnation
    assert rig.sinks == {scope(1): again}
    again.erased()
    rig.later(1.0)
    assert (len(rig.hub), rig.sinks) == (0, {})


def test_memory_is_shared_and_bounded() -> None:
    rig = Rig(bytes_max=16_000)
    for number in range(4):
        log = rig.hub.log(scope(number, tenant=number))
        for _ in range(100):
            log.add(EventKind.STORED, b"k", 1)
        assert log.bytes_kept <= 4000
    for number in range(4, 8):
        rig.hub.log(scope(number, tenant=number))
        rig.later(0.02)
        assert rig.hub.bytes_kept <= 16_000
    assert max(log.bytes_max for log in rig.hub._logs.values()) == 2000


def test_what_a_log_has_beyond_its_share_goes_by_and_by() -> None:
    """A log of a hundred thousand events is cut down without a turn that takes long."""
    rig = Rig(bytes_max=4 * 50_000 * (EVENT_BYTES + 1), events_max=1 << 20)
    log = rig.hub.log(scope(0))
    for number in range(1, 4):
        rig.hub.log(scope(number, tenant=number))
    for _ in range(50_000):
        log.add(EventKind.STORED, b"k", 1)
    assert len(log) == 50_000
    rig.hub.log(scope(4, tenant=4))
    assert len(log) == 50_000
    for _ in range(3):
        before = len(log)
        rig.later(0.02)
        assert 0 < before - len(log) <= TRIM_STEP
    log.add(EventKind.STORED, b"k", 1)
    for _ in range(3):
        rig.later(0.02)
    assert len(log) == 40_000
    assert log.read(log.incarnation, log.last - 40_000, 1).gap == GapReason.NONE
    assert log.read(log.incarnation, log.last - 40_001, 1).gap == GapReason.BEHIND


def test_no_tenant_has_more_than_half_of_the_logs_or_of_the_places_to_wait() -> None:
    rig = Rig()
    for number in range(4):
        rig.hub.log(scope(number))
    with pytest.raises(Busy, match="events_namespaces_max"):
        rig.hub.log(scope(4))
    rig.hub.log(scope(4, tenant=1))
    for _ in range(2):
        rig.hub.begin_waiting(b"t")
    with pytest.raises(Busy, match="events_readers_max"):
        rig.hub.begin_waiting(b"t")
    for _ in range(2):
        rig.hub.begin_waiting(b"u")
    with pytest.raises(Busy, match="events_readers_max"):
        rig.hub.begin_waiting(b"v")
    rig.hub.end_waiting(b"t")
    rig.hub.begin_waiting(b"v")
    assert rig.hub.readers == 4
