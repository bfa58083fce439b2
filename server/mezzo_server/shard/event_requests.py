"""EVENTS: what happened in the session's namespace since a cursor, or what is in it. No I/O.

A reader asks again and again, and waits where nothing has happened yet.  Nothing is queued for him: one that
is slow is told of a gap once the window of the log has passed him by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mezzo.errors import InvalidArgument, TooLarge
from mezzo.protocol.messages import EVENTS_MAX, PARTS_LISTED_MAX, Events, EventsAre, GapReason, Kind
from mezzo_server.blockstore.api import Scope
from mezzo_server.events.log import EventLog
from mezzo_server.shard.request import Request

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session

WAIT_MS_MAX = 60_000
"""A request waits no longer, so that whoever may not read any more is told soon."""
GATHER_S = 0.005
"""A reader that was answered a moment ago is not answered for every single event: some are gathered."""


def events(session: Session, request_id: int, body: Events) -> None:
    """Answer with events, or wait for one.

    Raises:
        InvalidArgument: a part that cannot be.
        TooLarge: a part has more keys than an answer may have.
        Busy: too many namespaces are read, or too many requests wait.
    """
    session.check_keys(())
    if body.parts:
        session.send(Kind.EVENTS_ARE, request_id, _listed(session, body))
        return
    log = session.service.events.log(session.scope)
    answer = _read(session, session.scope, log, body)
    if answer.gap or answer.kinds or not body.wait_ms:
        session.send(Kind.EVENTS_ARE, request_id, answer)
        return
    _Waiting(session, request_id, body, log).start()


def _read(session: Session, scope: Scope, log: EventLog, body: Events) -> EventsAre:
    batch = log.read(body.incarnation, body.after, min(body.count_max, EVENTS_MAX))
    service = session.service
    if batch.gap > GapReason.START:
        service.events.gaps += 1
    return EventsAre(
        log.incarnation,
        batch.next,
        batch.gap,
        batch.kinds,
        list(batch.keys),
        list(batch.lengths),
        service.store.count(scope),
    )


def _listed(session: Session, body: Events) -> EventsAre:
    parts = body.parts
    if parts & (parts - 1) or parts > PARTS_LISTED_MAX or body.part >= parts:
        raise InvalidArgument(f"part {body.part} of {parts}: parts is a power of two, and part is below it")
    store, scope = session.service.store, session.scope
    log = session.service.events.log(scope)
    chunks = store.list_part(scope, body.part, parts, EVENTS_MAX)
    if chunks is None:
        raise TooLarge(f"part {body.part} of {parts} has over {EVENTS_MAX} keys: ask for more parts")
    keys = [key for key, _ in chunks]
    lengths = [length for _, length in chunks]
    return EventsAre(log.incarnation, log.last, 0, b"", keys, lengths, store.count(scope))


class _Waiting(Request):
    """A reader that knows all that has happened."""

    __slots__ = ("_body", "_log", "_scope", "_woken", "ends_at")

    def __init__(self, session: Session, request_id: int, body: Events, log: EventLog) -> None:
        service = session.service
        self._scope = session.scope
        service.events.begin_waiting(self._scope.tenant)
        try:
            super().__init__(session, request_id, Kind.EVENTS)
        except BaseException:
            service.events.end_waiting(self._scope.tenant)
            raise
        self._body = body
        self._log = log
        self._woken = False
        self.ends_at = service.now() + min(body.wait_ms, WAIT_MS_MAX) / 1000

    def start(self) -> None:
        """Wait: for an event, or until the time is over."""
        self._log.wait(self._wake)
        self.session.service.waiting[self] = None

    def give_up(self) -> None:
        """The client does not want to know any more."""
        self._answer()

    def tick(self, now: float) -> None:
        """Answer if the time is over, or if something has happened."""
        if self._woken or now >= self.ends_at:
            self._answer()

    def _wake(self) -> None:
        self._woken = True
        session = self.session
        if session.service.now() - session.told_at >= GATHER_S:
            session.link.later(self._answer)
        # else: the next tick

    def _answer(self) -> None:
        session = self.session
        if not session.holds(self):
            return
        self._log.leave(self._wake)
        service = session.service
        service.waiting.pop(self, None)
        service.events.end_waiting(self._scope.tenant)
        session.told_at = service.now()
        self.finish(Kind.EVENTS_ARE, _read(session, self._scope, self._log, self._body))
