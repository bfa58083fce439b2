"""A connection driven by the threads that wait on it.

There is no thread of the client's own.  Of all threads that wait for an answer, one at a time is the
*mover*: it polls, receives for all, and hands over when its own answer is there.  Any thread sends
what it has queued without blocking; what the socket does not take is sent by the mover.  So a put's
payload and a get's never wait for each other.

``lock`` guards the session and ``_mover``; ``_send_lock`` guards the socket's sending side and is
taken first where both are.
"""

from __future__ import annotations

import array
import copy
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from mezzo.errors import ConnectionLost, DeadlineExceeded, InternalError, MezzoError, ProtocolError
from mezzo.operations import Operation, State
from mezzo.peer import Peer
from mezzo.protocol.connection import refusal
from mezzo.regions import Region
from mezzo.session import Session

_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_HANDOVER_S_MAX = 10.0


class Turn(Protocol):
    """What one who waits is woken with: a lock that he has taken, or a bell."""

    def release(self) -> object:
        """Wake him."""


class BlockingLink:
    """A connected socket and its session. Owner of both."""

    direct = True
    """whether it leads to a shard itself"""
    spread = None
    """the calls over its shards, if it stands for several"""

    def __init__(self, sock: socket.socket, session: Session, now: Callable[[], float]) -> None:
        sock.setblocking(False)
        self.session = session
        self.lock = threading.Lock()
        self._sock = sock
        self._now = now
        self._send_lock = threading.Lock()
        self._send_failed = False
        self._blocked = False  # the socket took no more, and something is left
        self._mover = 0  # thread id; 0: nobody
        self._parked: dict[Operation, Turn] = {}
        self._ending: MezzoError | None = None
        self._ended = threading.Event()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._polls_out = False
        # Thread that is in the middle of a step which an interrupt must not cut in two; 0: nobody.
        self._receiving = self._sending = self._submitting = 0
        self._pid = os.getpid()
        # Regions that were closed; their removal is submitted by whoever holds the lock next.
        self._closed_regions: deque[int] = deque()
        session.watch_region = self._watch_region
        peer = Peer.of(sock)
        session.peer_gone = None if peer is None else peer.gone
        self._more = False  # there may be more to receive: no poll before the next attempt

    def greet(self, deadline: float) -> None:
        """Exchange hello and welcome. Raises what the server refused with, or DeadlineExceeded."""
        self._mover = threading.get_ident()
        try:
            self.flush()
            while self.session.welcome is None and self.session.failure is None:
                if not self._turn(deadline):
                    break
        finally:
            self._mover = 0
        if self.session.failure is not None:
            raise copy.copy(self.session.failure)
        if self.session.welcome is None:
            raise DeadlineExceeded("the server did not answer the hello in time")

    def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit ``operations`` and wait for all of them.

        On a timeout or an interrupt they are cancelled, and the call returns only when the server
        has let go of their memory; if it does not within ``grace_s`` the connection is ended.
        """
        me = threading.get_ident()
        try:
            with self.lock:
                self._submit(operations, deadline)
                moving = self._mover == 0
                if moving:
                    self._mover = me
            if moving:
                in_time = self._move_until(operations[0], deadline)
            else:
                self.flush()
                in_time = True
            for operation in operations:
                if not (operation.state is State.DONE or (in_time and self._wait(operation, deadline))):
                    raise DeadlineExceeded("no answer within the time of the call")
        except BaseException as error:
            self._abandon(operations, error, grace_s)
            raise
        for operation in operations:
            if operation.error is not None:
                raise operation.error from None

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        with self._send_lock:
            self._blocked = self._send_some()
        if self._blocked:
            with self.lock:
                if self._mover not in (0, threading.get_ident()) and not self._ended.is_set():
                    os.eventfd_write(self._wake_fd, 1)

    # For who waits for several connections at a time (`at_once`): he is the mover of those that have none.

    @property
    def parked(self) -> Mapping[Operation, Turn]:
        """Operations that somebody waits for who is not the mover."""
        return self._parked

    @property
    def descriptor(self) -> int:
        """Of the socket; -1: the connection has ended."""
        return self._sock.fileno()

    @property
    def wake_descriptor(self) -> int:
        """Readable when the mover is to look at what the socket did not take; `woken` then."""
        return self._wake_fd

    @property
    def wanted_events(self) -> int:
        """What the mover polls the socket for."""
        return select.POLLIN | (select.POLLOUT if self._blocked and not self._send_failed else 0)

    @property
    def more(self) -> bool:
        """Whether there may be more to receive without a poll."""
        return self._more

    def begin(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit ``operations`` and send what the socket takes of them; `run` without the waiting."""
        try:
            with self.lock:
                self._submit(operations, deadline)
            self.flush()
        except BaseException as error:
            self._abandon(operations, error, grace_s)
            raise

    def attend(self, operation: Operation, bell: Turn) -> bool:
        """Become the mover (True); or ``bell`` is released when ``operation`` is done, or a mover is wanted."""
        with self.lock:
            if operation.done:
                return False
            if self._mover:
                self._parked[operation] = bell
                return False
            self._mover = threading.get_ident()
            return True

    def leave(self, operations: Sequence[Operation]) -> None:
        """Wait for these no more, nor be the mover."""
        with self.lock:
            for operation in operations:
                self._parked.pop(operation, None)
            moving = self._mover == threading.get_ident()
            if not moving:
                self._offer_place()
        if moving:
            self._step_down()

    def take_turn(self, deadline: float) -> None:
        """As the mover: receive what is there, and act on it."""
        self._more = True
        self._turn(deadline)

    def woken(self) -> None:
        """As the mover: it was heard."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def cut(self) -> bool:
        """Whether an interrupt came in the middle of a frame: then the connection is ended."""
        if threading.get_ident() not in (self._receiving, self._sending, self._submitting):
            return False
        self.end(ConnectionLost("ended by an interrupt in the middle of a frame"))
        return True

    def abandon(self, operations: Sequence[Operation], reason: MezzoError) -> None:
        """Have the server let go of what was submitted. Does not wait for that."""
        if self.cut():
            return
        with self.lock:
            for operation in operations:
                if operation.state is not State.NEW:
                    self.session.cancel(operation, reason)
            self._wake_finished()
        self.flush()

    def end(self, error: MezzoError) -> None:
        """End the connection; on return nothing is received into anybody's memory any more."""
        with self.lock:
            if self._ended.is_set():
                return
            self._ending = self._ending or error
            mine = self._mover in (0, threading.get_ident())
            if mine:
                self._mover = threading.get_ident()
        if mine:
            self._lose(error)
            return
        # The mover sees the end of the stream, or has what it waited for: either way it does the rest.
        _shut_down(self._sock)
        self._ended.wait(_HANDOVER_S_MAX)

    def region_closed(self, number: int) -> None:
        """A region that is registered here was closed, perhaps by the garbage collector in the middle
        of anything: so this waits for no lock.
        """
        if os.getpid() != self._pid:
            return  # a forked child's copy of the region: the connection is the parent's
        self._closed_regions.append(number)
        if self.lock.acquire(blocking=False):
            try:
                self._remove_regions()
            finally:
                self.lock.release()
            if self._send_lock.acquire(blocking=False):
                try:
                    self._blocked = self._send_some()
                finally:
                    self._send_lock.release()

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""
        self._sock.close()
        os.close(self._wake_fd)

    def _watch_region(self, region: Region) -> None:
        region.call_on_close(self.region_closed)

    def _remove_regions(self) -> None:
        while self._closed_regions:
            self.session.remove_region(self._closed_regions.popleft())

    def _submit(self, operations: Sequence[Operation], deadline: float) -> None:
        """Under the lock."""
        session = self.session
        self._submitting = threading.get_ident()
        if self._closed_regions:
            self._remove_regions()
        for operation in operations:
            operation.deadline = deadline
            session.submit(operation)
        self._submitting = 0
        if session.finished:
            self._wake_finished()

    # Waiting and moving.

    def _wait(self, operation: Operation, deadline: float) -> bool:
        """Until ``operation`` is done (True) or the deadline has passed (False)."""
        me = threading.get_ident()
        while True:
            with self.lock:
                if operation.done:
                    return True
                moving = self._mover == 0
                if moving:
                    self._mover = me
                else:
                    turn = threading.Lock()
                    turn.acquire()
                    self._parked[operation] = turn
            if moving:
                return self._move_until(operation, deadline)
            woken = turn.acquire(timeout=max(0.0, deadline - self._now()))
            if not woken:
                with self.lock:
                    # Not parked any more: the mover's place was just offered here, so pass it on.
                    if self._parked.pop(operation, None) is None:
                        self._offer_place()
                return operation.done

    def _move_until(self, operation: Operation, deadline: float) -> bool:
        """As the mover, until ``operation`` is done (True) or the deadline has passed (False)."""
        try:
            self.flush()
            while operation.state is not State.DONE:
                if not self._turn(deadline):
                    break
        finally:
            self._step_down()
        return operation.done

    def _step_down(self) -> None:
        """Be the mover no more. Who wants the connection ended, and waits for the mover to do it, does not wait in vain."""
        with self.lock:
            ending = None if self._ended.is_set() else self._ending
            if ending is None:
                self._mover = 0
                self._offer_place()
        if ending is not None:
            self._lose(ending)

    def _offer_place(self) -> None:
        """Wake one waiting thread to become the mover; under the lock."""
        if self._mover == 0 and self._parked:
            self._parked.pop(next(iter(self._parked))).release()

    def _wake_finished(self) -> None:
        """Wake who waits for the operations that are done; under the lock."""
        finished = self.session.finished
        if finished:
            for operation in finished:
                turn = self._parked.pop(operation, None)
                if turn is not None:
                    turn.release()
            finished.clear()

    def _turn(self, deadline: float) -> bool:
        """One round of the mover: poll, receive, act. False: the deadline has passed.

        It may pass in the middle of what comes for others, who go on from there.
        """
        session = self.session
        if not self._more and not self._poll_once(deadline):
            return self._now() < deadline
        self._receiving = threading.get_ident()
        try:
            buffer = session.buffer()
            count = self._sock.recv_into(buffer)
            if count == 0:
                self._lose(session.ended())
                return True
            self._more = count == len(buffer) or session.in_payload
            session.received(count)
            while (event := session.next_event()) is not None:
                with self.lock:
                    session.handle(event)
                    if self._closed_regions:
                        self._remove_regions()
                    if session.finished:
                        self._wake_finished()
        except (BlockingIOError, InterruptedError):
            self._more = False
        except ProtocolError as error:
            self._refuse(error)
        except OSError as error:
            self._lose(ConnectionLost(f"the connection broke: {error}"))
        except Exception as fault:  # where the stream stands is not known any more
            self._lose(InternalError(f"fault in what has come from the server: {fault!r}"))
        else:
            if session.refused is not None:
                self._lose(session.refused)
            elif session.outgoing:
                self.flush()
        self._receiving = 0
        return self._now() < deadline

    def _poll_once(self, deadline: float) -> bool:
        """Wait for the socket. True: there is something to receive."""
        polls_out = self._blocked and not self._send_failed
        if polls_out != self._polls_out:
            self._polls_out = polls_out
            self._poll.modify(self._sock.fileno(), select.POLLIN | (select.POLLOUT if polls_out else 0))
        readable = False
        left_s = deadline - self._now()
        for descriptor, events in self._poll.poll(left_s * 1000 if left_s > 0 else 0):
            if descriptor == self._wake_fd:
                os.eventfd_read(self._wake_fd)
                continue
            if events & select.POLLOUT:
                self.flush()
            readable = bool(events & _READABLE)
        return readable

    # Giving up.

    def _abandon(self, operations: Sequence[Operation], error: BaseException, grace_s: float) -> None:
        me = threading.get_ident()
        if not isinstance(error, Exception) and me in (self._receiving, self._sending, self._submitting):
            self.end(ConnectionLost("ended by an interrupt in the middle of a frame"))
            return
        self._submitting = 0 if self._submitting == me else self._submitting
        reason = error if isinstance(error, MezzoError) else DeadlineExceeded("the call was interrupted")
        with self.lock:
            for operation in operations:
                if operation.state is not State.NEW:
                    self.session.cancel(operation, reason)
            self._wake_finished()
        self.flush()
        grace_end = self._now() + grace_s
        try:
            held = [op for op in operations if op.state is not State.NEW and not self._wait(op, grace_end)]
        except BaseException:
            # A second interrupt: nobody wants to wait any longer.
            self.end(ConnectionLost("ended by an interrupt while requests were being cancelled"))
            raise
        if held:
            self.end(ConnectionLost(f"the server did not cancel a request within {grace_s} s"))

    def _refuse(self, error: ProtocolError) -> None:
        """The server broke the protocol: say so if that is possible at once, and end."""
        with self._send_lock:
            if not self.session.outgoing:
                try:
                    self._sock.send(refusal(error))
                except OSError:
                    pass  # it is only a courtesy
        self._lose(error)

    def _lose(self, error: MezzoError) -> None:
        """End the connection; only the mover calls this, so nobody is receiving."""
        _shut_down(self._sock)
        with self._send_lock, self.lock:
            if self._ended.is_set():
                return
            self._ended.set()
            self.session.lose(self._ending or error)
            self._wake_finished()
            self._offer_place()
            self._sock.close()
            os.close(self._wake_fd)

    # Sending; under the send lock.

    def _send_some(self) -> bool:
        """True: the socket takes no more, and something is left."""
        queue = self.session.outgoing
        if self._send_failed or self._ended.is_set():
            return False
        me = threading.get_ident()
        more = True
        while more:
            buffers, descriptor = queue.gather()
            if not buffers:
                return False
            self._sending = me
            try:
                if descriptor is not None:
                    rights = array.array("i", [descriptor])
                    count = self._sock.sendmsg(buffers, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                elif len(buffers) == 1:
                    count = self._sock.send(buffers[0])
                else:
                    count = self._sock.sendmsg(buffers)
            except (BlockingIOError, InterruptedError):
                self._sending = 0
                return True
            except OSError as error:
                self._sending = 0
                # What the server has still sent (why it refused) is to be read first; the end of the
                # stream follows it.
                self._send_failed = True
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    _shut_down(self._sock)
                return False
            more = queue.sent(count)
            self._sending = 0
        return False


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # ended already
