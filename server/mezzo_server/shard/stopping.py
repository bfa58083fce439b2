"""How a shard stops: it hands over to others, ends what it has begun, says goodbye, and goes.

So a clean stop costs clients no request that was under way, and leaves none of them in doubt about memory that they share
with the shard: the last frame says that nothing of theirs is touched any more (`untouched`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from mezzo.errors import Unavailable
from mezzo.protocol.messages import Kind
from mezzo_server.shard.charging import CHARGED

if TYPE_CHECKING:
    from mezzo_server.shard.pod import PodMember
    from mezzo_server.shard.runtime import Runtime
    from mezzo_server.shard.session import Session

HANDED_OVER_S = 0.05
"""between two looks at whether a shard that stops has handed over"""
ENDED_S = 0.005
"""between two looks at whether all that was begun has ended"""
ENDING_S_MAX = 2.0
"""What has not ended by then is given up."""
GOODBYE_S = 0.05
"""One turn for the last frames to go out; who does not read them then has had his chance."""
REFUSED = (CHARGED - {Kind.REGION_ADD, Kind.ARENA_OPEN}) | {Kind.PULL, Kind.OFFER, Kind.DEVICE_CHANGE}
"""What a shard that stops begins no more."""

log = structlog.get_logger("mezzo.shard")


class Stopping:
    """A shard's stop, once it has been asked for."""

    def __init__(
        self,
        runtime: Runtime,
        loop: asyncio.AbstractEventLoop,
        pod: PodMember | None,
        stop_listening: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._loop = loop
        self._pod = pod
        self._stop_listening = stop_listening
        self._asked = False
        self._ending_since: float | None = None
        self._gone = False

    def ask(self) -> None:
        """Hand over, end what was begun, and go. Asked for once more: do not wait for what it waits for now."""
        if self._ending_since is not None:
            self._go()
        elif self._pod is None or self._asked:
            self._end()
        else:
            self._asked = True
            log.info("handing over", connections=len(self._runtime.connections))
            self._pod.retire()
            self._end_when_handed_over()

    def _end_when_handed_over(self) -> None:
        if self._ending_since is not None:
            return
        if self._pod is None or self._pod.may_go:
            self._end()
        else:
            self._loop.call_later(HANDED_OVER_S, self._end_when_handed_over)

    def _end(self) -> None:
        log.info("stopping", connections=len(self._runtime.connections))
        self._ending_since = self._loop.time()
        self._stop_listening()
        for session in self._runtime.service.sessions:
            session.handlers.update(dict.fromkeys(REFUSED, _refuse))
        self._go_when_ended()

    def _go_when_ended(self) -> None:
        if self._gone or self._ending_since is None:
            return
        late = self._loop.time() - self._ending_since > ENDING_S_MAX
        if late or not self._busy:
            self._go()
        else:
            self._loop.call_later(ENDED_S, self._go_when_ended)

    @property
    def _busy(self) -> bool:
        """Whether something that was begun has not ended, or its answer is not out."""
        runtime = self._runtime
        return any(_has_begun(session) for session in runtime.service.sessions) or any(
            connection.output_bytes for connection in runtime.connections
        )

    def _go(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._pod is not None:
            self._pod.leave()  # others take over while we tidy up
        for connection in tuple(self._runtime.connections):
            connection.shut_down()
        self._loop.call_later(GOODBYE_S, self._loop.stop)


def untouched(session: Session) -> bool:
    """Whether nothing that was begun for the client can touch memory that it shares with us any more."""
    return all(request.region is None for request in session.requests.values())


def _has_begun(session: Session) -> bool:
    """Whether something is under way that ends by itself: a reader of events waits for what may never come."""
    return any(request.kind is not Kind.EVENTS for request in session.requests.values())


def _refuse(request_id: int, body: Any) -> None:
    raise Unavailable("the shard stops")
