"""How the blocking client performs its calls: steps on its own connection, or on those to the shards of a pod."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from mezzo.at_once import AtOnce, Bell, Errand
from mezzo.base import copy_bytes
from mezzo.blocking import BlockingLink
from mezzo.calls import Call, CatchUp, Connect, Copy, Follow, Pause, Run, Stage, Step, Together
from mezzo.driving import drive
from mezzo.errors import (
    ClientClosed,
    DeadlineExceeded,
    MezzoError,
    Unavailable,
)
from mezzo.opening import Opening
from mezzo.pod import KnownPod
from mezzo.pod_link import MET_MAX, Ways, hello, not_met
from mezzo.reaching import ToShard
from mezzo.staging import Piece, StagingRequest

T = TypeVar("T")


class Performing(Opening):
    """Performs the steps of calls. Any number of threads."""

    def _perform(self, call: Call[T], timeout_s: float | None, deadline_s: float | None = None) -> T:
        """Run a call: perform its steps and tell it how they went."""
        self._check_usable()
        deadline = self._deadline(timeout_s, deadline_s)
        return drive(call, self._take, deadline)

    def _take(self, step: Step, deadline: float, grace_s: float | None = None) -> object:
        """Perform a step; ``grace_s``: other than the client's own."""
        if type(step) is Connect:
            link = self._link
            if link is not None and link.session.failure is None and not self._tickets.due:
                return link
            return self._connected(deadline)
        if type(step) is Run:
            runner: Any = step.link
            if type(runner) is not BlockingLink and not getattr(runner, "blocking", False):
                raise TypeError("this lease belongs to another kind of client")
            try:
                runner.run(step.operations, deadline, self.cancel_grace_s if grace_s is None else grace_s)
            except MezzoError as error:
                raise self._run_failed(runner, error) from None
            return None
        if isinstance(step, Stage):
            return self._stage(step.length, deadline)
        if isinstance(step, Copy):
            for targets, sources in step.moves:
                copy_bytes(targets, sources)
            return None
        if isinstance(step, Together):
            pod_link: Any = step.link
            if not isinstance(pod_link, PodLink):
                raise TypeError("this lease belongs to another kind of client")
            return pod_link.together(step.parts, *pod_link.in_time(deadline, self.cancel_grace_s))
        if isinstance(step, Follow | CatchUp):
            opens, limit = self._about_map(step, deadline)
            drive(opens, self._make, limit)
            over: Any = step.link
            over.end_leavers()
        if isinstance(step, Pause):
            left_s = deadline - self._surroundings.now()
            self._surroundings.sleep(max(0.0, min(step.seconds, left_s / 2)))
        return None

    def _stage(self, length: int, deadline: float) -> Piece:
        arrived = threading.Lock()
        arrived.acquire()

        def ready(request: StagingRequest) -> None:
            arrived.release()

        request = self._staging.request(length, ready)
        try:
            if not arrived.acquire(timeout=max(0.0, deadline - self._surroundings.now())):
                raise DeadlineExceeded("no staging memory within the time of the call (staging_bytes)")
            if request.piece is None:
                raise request.error or Unavailable("no staging memory")
        except BaseException:
            self._staging.cancel(request)
            raise
        return request.piece

    def _open_pod(self, pod: KnownPod, deadline: float) -> PodLink:
        # The ways must not keep the client, which ends them when nobody uses it any more.
        outfit = self._outfit

        def make(shard: bytes) -> ShardWay:
            return ShardWay(outfit, pod, shard)

        link = PodLink(pod, make, self._surroundings, self._counters, str(self.address))
        try:
            link.meet(deadline)
        except BaseException:
            link.end(ClientClosed("no shard was reached"))
            raise
        return link


class ShardWay(ToShard, Performing):
    """The blocking client's way to one shard of its pod. Owned by the `PodLink`."""

    _errand: Errand | None = None

    @property
    def usable(self) -> Any:
        """The connection, if a call may use it as it is; None: `connecting` makes one.

        A ticket that is good for a while yet is renewed beside the calls: how long that takes is not their affair.
        """
        link = self._link
        if link is None or link.session.failure is not None:
            return None
        if self._tickets.due:
            if self._tickets.expired:
                return None
            with suppress(MezzoError):
                self._sent_off()
        return link

    def connecting(self, bell: Bell) -> Errand:
        """Have a connection made in a thread of its own, as many calls as there are waiting for the same one.

        Raises:
            MezzoError: the next attempt is not due.
        """
        self._check_usable()
        errand = self._sent_off()
        errand.listen(bell)
        return errand

    def _sent_off(self) -> Errand:
        """Who makes the connection usable; there is one at a time. Raises MezzoError: the next attempt is not due."""
        errand = self._errand
        if errand is None or errand.done:
            if self._link is None or self._link.session.failure is not None:
                self._check_backoff()
            now, limit_s = self._surroundings.now, self.connect_timeout_s
            self._errand = errand = Errand(lambda: self._connected(now() + limit_s))
        return errand

    def perform(self, call: Call[T], deadline: float, grace_s: float) -> T:
        """A call that is alone: this thread waits for nothing else."""

        def take(step: Step, deadline: float) -> object:
            if type(step) is Connect:
                link = self.usable
                return self._connected(deadline) if link is None else link
            return self._take(step, deadline, grace_s)

        return drive(call, take, deadline)

    def told(self, error: MezzoError) -> MezzoError:
        """What a call is told of the error that a request of its ended with."""
        return self._run_failed(self._link, error)

    def ask_staging(self, length: int, bell: Bell) -> StagingRequest:
        """A request for staging memory; the bell is rung when it has come."""
        return self._staging.request(length, lambda request: bell.release())

    def cancel_staging(self, request: StagingRequest) -> None:
        """It is not waited for any more."""
        self._staging.cancel(request)


class PodLink(Ways[ShardWay]):
    """For threads."""

    blocking = True
    """which kind of client it belongs to"""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bells: list[Bell] = []
        """of calls that have ended: one for each thread that was here at a time"""

    def together(
        self,
        parts: Sequence[tuple[bytes, Call[Any]]],
        deadline: float,
        grace_s: float,
        enough: int | None = None,
    ) -> list[Any]:
        """See `calls.Together`; what has no answer at ``deadline`` is given up within ``grace_s``."""
        ways = [(self._way(shard), call) for shard, call in parts]
        if len(ways) == 1 and ways[0][0].usable is not None:
            way, call = ways[0]
            try:
                return [way.perform(call, deadline, grace_s)]
            except MezzoError as error:
                return [error]
        try:
            bell = self._bells.pop()
        except IndexError:
            bell = Bell()
        try:
            return AtOnce(ways, deadline, grace_s, self._surroundings.now, bell).run(enough)
        finally:
            self._bells.append(bell)

    def meet(self, deadline: float) -> None:
        """Have one of the shards answer, who all know the ids of a namespace. Raises MezzoError: none does."""
        shards = self._strangers()
        errors: list[MezzoError] = []
        for start in range(0, len(shards), MET_MAX):
            asked = shards[start : start + MET_MAX]
            answers = self.together([(shard, hello()) for shard in asked], deadline, 0.0, enough=1)
            failed = [answer for answer in answers if isinstance(answer, MezzoError)]
            if len(failed) < len(asked):
                return
            errors += failed
        raise not_met(errors)
