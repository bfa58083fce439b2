"""Several calls of different shards at a time, in the one thread that waits for them all (see `calls.Together`).

Requests go out to all shards before any is waited for.  Then the thread receives from whichever has something to
say: it is the mover of those connections that have none (`blocking`), and is told by a bell what other movers, and
the few things that only a thread of their own can wait for, bring to an end.
"""

from __future__ import annotations

import copy
import math
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from mezzo.base import copy_bytes
from mezzo.blocking import BlockingLink
from mezzo.calls import Call, Connect, Copy, Run, Stage
from mezzo.errors import ConnectionLost, DeadlineExceeded, MezzoError, Unavailable
from mezzo.operations import Operation, State
from mezzo.reaching import LATE, STILL_CONNECTING
from mezzo.staging import StagingRequest

if TYPE_CHECKING:
    from mezzo.performing import ShardWay


class Bell:
    """Wakes the one thread that polls its descriptor; rung from any thread, also when nobody listens any more.

    Whoever may ring it keeps it, so its descriptor is never another's.
    """

    def __init__(self) -> None:
        """Raises Unavailable: the system gives no descriptor."""
        self.descriptor = -1
        try:
            self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"no descriptor to wait for several shards with: {error}") from error

    def release(self) -> None:
        """Ring. Named as what wakes a thread that waits for a turn."""
        os.eventfd_write(self.descriptor, 1)

    def silence(self) -> None:
        """It was heard."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            pass

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Errand:
    """What is done in a thread of its own, which nobody ends: a connection that is made too late is kept."""

    def __init__(self, work: Callable[[], object]) -> None:
        """Raises Unavailable: the system gives no thread."""
        self._work = work
        self._bells: list[Bell] = []
        self._lock = threading.Lock()
        self.value: object = None
        self.error: BaseException | None = None
        self.done = False
        try:
            threading.Thread(target=self._run, name="mezzo-shard", daemon=True).start()
        except RuntimeError as error:
            raise Unavailable(f"no thread to connect to a shard with: {error}") from None

    def listen(self, bell: Bell) -> None:
        """Have it rung at the end."""
        with self._lock:
            if not self.done:
                self._bells.append(bell)
                return
        bell.release()

    def _run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:
            self.error = error
        with self._lock:
            self.done = True
        for bell in self._bells:
            bell.release()


class _Running(NamedTuple):
    """Requests on a connection."""

    link: BlockingLink
    operations: Sequence[Operation]


class _Part:
    """One of the calls."""

    def __init__(self, way: ShardWay, call: Call[Any]) -> None:
        self.way = way
        self.call = call
        self.waits: _Running | Errand | StagingRequest | None = None
        self.connects = False
        """whether it waits for its connection"""
        self.patience = math.inf
        """clock reading until which an errand is waited for"""
        self.ended = False
        self.outcome: Any = None


class AtOnce:
    """The calls of one `Together`. Made and used by one thread, once: `run`."""

    def __init__(
        self,
        parts: Sequence[tuple[ShardWay, Call[Any]]],
        deadline: float,
        grace_s: float,
        now: Callable[[], float],
        bell: Bell,
    ) -> None:
        """What has no answer at ``deadline`` is given up; ``grace_s`` as for `BlockingLink.run`.  Nobody else listens to
        the ``bell`` meanwhile; it may have been rung already.
        """
        self._parts = [_Part(way, call) for way, call in parts]
        self._left = len(self._parts)
        """of them that have not ended"""
        self._deadline = deadline
        self._grace_s = grace_s
        self._now = now
        self._bell = bell
        self._poll = select.poll()
        self._poll.register(self._bell.descriptor, select.POLLIN)
        self._moved: dict[BlockingLink, tuple[int, int]] = {}
        self._by_descriptor: dict[int, BlockingLink] = {}

    def run(self, enough: int | None = None) -> list[Any]:
        """The outcome of each; when so many have a result the others are given up, if ``enough`` says it."""
        try:
            for part in self._parts:
                self._advance(part, None, None)
            while not self._are_enough(enough) and self._now() < self._deadline:
                self._turn(enough)
            if self._left:
                late = self._now() >= self._deadline
                self._give_up(DeadlineExceeded(LATE) if late else Unavailable("another shard has answered"))
            return [part.outcome for part in self._parts]
        except BaseException as error:
            self._give_up(
                error if isinstance(error, MezzoError) else DeadlineExceeded("the call was interrupted")
            )
            raise
        finally:
            for link in self._moved:
                link.leave(())

    def _are_enough(self, enough: int | None) -> bool:
        if not self._left:
            return True
        return enough is not None and enough <= sum(
            [part.ended and not isinstance(part.outcome, MezzoError) for part in self._parts]
        )

    # The way of one call.

    def _end(self, part: _Part, outcome: Any) -> None:
        part.ended, part.outcome = True, outcome
        self._left -= 1

    def _advance(self, part: _Part, value: Any, error: BaseException | None) -> None:
        """Go on with a call until it has to wait, or has ended."""
        part.waits, part.connects, part.patience = None, False, math.inf
        while True:
            try:
                step = part.call.send(value) if error is None else part.call.throw(error)
            except StopIteration as stop:
                self._end(part, stop.value)
                return
            except MezzoError as failure:
                self._end(part, failure)
                return
            value, error = None, None
            try:
                if isinstance(step, Connect):
                    value = part.way.usable
                    if value is None:
                        part.waits, part.connects = part.way.connecting(self._bell), True
                        part.patience = self._now() + part.way.patience_s
                        return
                elif isinstance(step, Run):
                    self._submit(part, step)
                    return
                elif isinstance(step, Stage):
                    request = part.way.ask_staging(step.length, self._bell)
                    if request.piece is None and request.error is None:
                        part.waits = request
                        return
                    value = _staged(request)
                elif isinstance(step, Copy):
                    for targets, sources in step.moves:
                        copy_bytes(targets, sources)
                else:
                    raise TypeError(f"{step!r} is no step of one shard's call")
            except MezzoError as raised:
                error = raised

    def _submit(self, part: _Part, step: Run) -> None:
        link: Any = step.link
        if type(link) is BlockingLink:
            link.begin(step.operations, self._deadline, self._grace_s)
            part.waits = _Running(link, step.operations)
        else:
            # Its connections have threads of their own, and it waits for them in one way only.
            part.waits = errand = Errand(lambda: link.run(step.operations, self._deadline, self._grace_s))
            errand.listen(self._bell)

    def _look(self, part: _Part) -> bool:
        """Go on with a call that waits, if what it waits for is there; whether it was."""
        waits = part.waits
        if isinstance(waits, _Running):
            for operation in waits.operations:
                if not operation.done and operation not in waits.link.parked:
                    self._attend(waits.link, operation)
                if not operation.done:
                    return False
            error = next((each.error for each in waits.operations if each.error is not None), None)
            self._advance(part, None, None if error is None else part.way.told(error))
            return True
        if isinstance(waits, Errand):
            if waits.done:
                failure = waits.error
                if failure is not None and not isinstance(failure, MezzoError):
                    raise failure
                if failure is not None:
                    failure = copy.copy(failure) if part.connects else part.way.told(failure)
                self._advance(part, waits.value, failure)
                return True
            if self._now() < part.patience:
                return False
            self._advance(part, None, Unavailable(STILL_CONNECTING))
            return True
        if isinstance(waits, StagingRequest) and (waits.piece is not None or waits.error is not None):
            self._advance(part, waits.piece, waits.error)
            return True
        return False

    # Moving.

    def _turn(self, enough: int | None) -> None:
        """Look at all that wait; then, unless that was ``enough``, wait for something to happen, and receive what has come."""
        for part in self._parts:
            while not part.ended and self._look(part):
                pass  # to what it waits for next
        if self._are_enough(enough):
            return
        waiting = [part for part in self._parts if not part.ended]
        until = min(self._deadline, *[part.patience for part in waiting])
        self._receive(until)

    def _receive(self, until: float) -> None:
        for link in self._receivable(until):
            link.take_turn(self._deadline)
            if link.session.failure is not None:
                self._leave(link)

    def _receivable(self, until: float) -> list[BlockingLink]:
        ready = [link for link in self._moved if link.more]
        for link, (descriptor, events) in tuple(self._moved.items()):
            wanted = link.wanted_events
            if wanted != events:
                self._poll.modify(descriptor, wanted)
                self._moved[link] = descriptor, wanted
        left_s = 0.0 if ready else until - self._now()
        for descriptor, events in self._poll.poll(max(0.0, left_s) * 1000):
            if descriptor == self._bell.descriptor:
                self._bell.silence()
                continue
            link = self._by_descriptor[descriptor]
            if descriptor == link.wake_descriptor:
                link.woken()
                continue
            if events & select.POLLOUT:
                link.flush()
            if events & ~select.POLLOUT and link not in ready:
                ready.append(link)
        return ready

    def _attend(self, link: BlockingLink, operation: Operation) -> None:
        """See to it that somebody moves the link: this thread, unless another one does."""
        if link in self._moved:
            return
        if not link.attend(operation, self._bell):
            return
        descriptor = link.descriptor
        if descriptor < 0:  # lost just now
            link.leave((operation,))
            return
        self._moved[link] = descriptor, select.POLLIN
        for each in (descriptor, link.wake_descriptor):
            self._by_descriptor[each] = link
            self._poll.register(each, select.POLLIN)

    def _leave(self, link: BlockingLink) -> None:
        """This thread does not move the link any more."""
        del self._moved[link]
        for descriptor in [each for each, known in self._by_descriptor.items() if known is link]:
            del self._by_descriptor[descriptor]
            self._poll.unregister(descriptor)
        link.leave(())

    # Giving up.

    def _give_up(self, reason: MezzoError) -> None:
        """End what has not ended: requests only when their shards have let go of their memory, or by ending the
        connection; then the calls themselves.
        """
        waiting = [part for part in self._parts if not part.ended]
        running = [part.waits for part in waiting if isinstance(part.waits, _Running)]
        for link in tuple(self._moved):
            if link.cut():
                self._leave(link)
        for link, operations in running:
            link.abandon(operations, reason)
        end = self._now() + self._grace_s
        try:
            while self._held(running) and self._now() < end:
                for link, operations in self._held(running):
                    for operation in operations:
                        if operation.state is not State.DONE and operation not in link.parked:
                            self._attend(link, operation)
                self._receive(end)
        finally:
            for link, _ in self._held(running):
                link.end(ConnectionLost(f"the server did not cancel a request within {self._grace_s:.3g} s"))
                if link in self._moved:
                    self._leave(link)
            for link, operations in running:
                link.leave(operations)
            for link in tuple(self._moved):
                self._leave(link)
            for part in waiting:
                self._await_run(part)
            for part in waiting:
                if isinstance(part.waits, StagingRequest):
                    part.way.cancel_staging(part.waits)
                self._conclude(part, reason)

    def _await_run(self, part: _Part) -> None:
        """Of requests that another thread waits for: it gives them up by itself, at the same deadline."""
        errand = part.waits
        while isinstance(errand, Errand) and not part.connects and not errand.done:
            self._poll.poll()
            self._bell.silence()

    def _held(self, running: Sequence[_Running]) -> list[_Running]:
        return [
            each
            for each in running
            if any(operation.state not in (State.NEW, State.DONE) for operation in each.operations)
        ]

    def _conclude(self, part: _Part, reason: MezzoError) -> None:
        """Let a call put its things in order. There is no time to wait for more: what it still asks for is sent."""
        waits, part.waits = part.waits, None
        in_time = isinstance(waits, Errand) and waits.done and waits.error is None and not part.connects
        if isinstance(waits, _Running):
            in_time = all(operation.done and operation.error is None for operation in waits.operations)
        error: MezzoError | None = None if in_time else part.way.told(reason)
        while not part.ended:
            try:
                step = part.call.send(None) if error is None else part.call.throw(error)
            except StopIteration as stop:
                self._end(part, stop.value)
            except MezzoError as failure:
                self._end(part, failure)
            else:
                if isinstance(step, Run) and not any(operation.moves for operation in step.operations):
                    with suppress(MezzoError):
                        link: Any = step.link
                        if type(link) is BlockingLink:
                            link.begin(step.operations, self._deadline, 0.0)
            error = DeadlineExceeded(LATE)


def _staged(request: StagingRequest) -> Any:
    if request.piece is None:
        raise request.error or Unavailable("no staging memory")
    return request.piece
