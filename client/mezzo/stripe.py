"""One connection over TLS, driven by a thread of its own.

The thread encrypts what is sent straight from where it lies and decrypts what comes straight into where it
goes, without the interpreter lock; several such connections to one shard (`stripes`) decrypt at the same time.
Only the thread touches the socket.  ``lock`` guards the session and whether the thread sleeps.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress

from mezzo.address import Address
from mezzo.connecting import Surroundings
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InternalError,
    MezzoError,
    ProtocolError,
    Unavailable,
)
from mezzo.operations import Operation, State
from mezzo.protocol.connection import refusal
from mezzo.session import Session
from mezzo.tls import TLS, explain, receiver, sender

TURN_BYTES = 256 * 1024
"""Sent before it is looked whether something has come."""
RECEIVE_BYTES_MAX = 1 << 20
"""Received before it is checked. More than a plain connection takes: it comes in records of 16 KiB, and each
look at what has come costs the interpreter's time."""
PATIENCE_S = 0.005
"""A payload under way is waited for in the receive itself for so long: to be told that nothing has come yet, and to
ask when it has, costs more. What else is to be sent waits no longer than that."""
END_S_MAX = 10.0
_WOULD_BLOCK = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, TimeoutError)


class Stripe:
    """A connection and its session. Owner of both, and of the thread, from `greet` to `end`.

    ``waker`` of an operation is called in the thread, with the operation, when it is done.
    """

    def __init__(self, sock: ssl.SSLSocket, address: Address, session: Session) -> None:
        sock.setblocking(False)
        session.receive_bytes_max = RECEIVE_BYTES_MAX
        self.session = session
        # The collector may end a forgotten client wherever something is allocated, so also in here.
        self.lock = threading.RLock()
        self.load_bytes = 0
        """of operations that were placed here; the owner's to count"""
        self.inside = 0
        """thread that is in the middle of a step which an interrupt must not cut in two; 0: none"""
        self._sock = sock
        self._address = address
        self._send_some, self._receive_some = sender(sock), receiver(sock)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._polls_out = False
        self._patient = False
        self._blocked = False  # the socket took no more, and something is left
        self._send_failed = False
        self._asleep = False
        self._ending: MezzoError | None = None
        self._greeted = threading.Event()
        self._ended = threading.Event()
        self._lost: Callable[[], Callable[[Stripe], None] | None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="mezzo-tls", daemon=True)

    def __repr__(self) -> str:
        return f"<Stripe {self._address}, {self.load_bytes} bytes under way>"

    def greet(self, seconds: float) -> None:
        """Exchange hello and welcome. Raises what the server refused with, or Unavailable."""
        self._thread.start()
        in_time = self._greeted.wait(max(0.0, seconds))
        failure = self.session.failure
        if failure is not None:
            raise failure
        if not in_time:
            self.end(ConnectionLost("the server did not answer the hello in time"))
            raise Unavailable(f"{self._address} did not answer the hello in time")

    def call_when_lost(self, method: Callable[[Stripe], None]) -> None:
        """Have the bound ``method`` called in the thread when the connection has ended (held weakly)."""
        self._lost = weakref.WeakMethod(method)

    def submit(self, operation: Operation) -> None:
        """Begin ``operation``. Raises as `Session.submit`."""
        with self.lock:
            self.inside = threading.get_ident()
            try:
                self.session.submit(operation)
            except Exception:  # refused; an interrupt is another matter
                self.inside = 0
                raise
            self._wake_finished()
            self._wake()
            self.inside = 0

    def cancel(self, operation: Operation, error: MezzoError) -> None:
        """Give ``operation`` up; it is done, with ``error``, once the server has let go of it."""
        with self.lock:
            if operation.state not in (State.NEW, State.DONE):
                self.session.cancel(operation, error)
                self._wake_finished()
                self._wake()

    def end(self, error: MezzoError, *, wait: bool = True) -> None:
        """End the connection; if it waits, nothing is received into anybody's memory any more on return."""
        with self.lock:
            self._ending = self._ending or error
            if not self._ended.is_set():
                _shut_down(self._sock)
                self._wake()
        if wait and threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._ended.wait(END_S_MAX)

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""
        self._sock.close()
        os.close(self._wake_fd)

    # -- the thread

    def _run(self) -> None:
        error: MezzoError
        try:
            while self._ending is None:
                sent = self._send()
                if not self._receive() and not sent:
                    self._wait()
            error = self._ending
        except ProtocolError as broken:
            with suppress(OSError):
                self._sock.send(refusal(broken))  # it is only a courtesy
            error = broken
        except MezzoError as raised:
            error = raised
        except OSError as raised:
            error = explain(self._address, raised)
            if self.session.welcome is not None and not isinstance(error, ConnectionLost):
                error = ConnectionLost(str(error))
        except Exception as fault:  # it must not leave anybody waiting
            error = InternalError(f"fault in a connection's thread: {fault!r}")
        self._lose(error)

    def _send(self) -> bool:
        """Send what is queued, up to a turn's worth. Whether anything was sent."""
        queue, send = self.session.outgoing, self._send_some
        moved = 0
        self._blocked = False
        if queue:
            self._be_patient(False)
        while moved < TURN_BYTES and queue and not self._send_failed:
            buffers, _ = queue.gather()
            if not buffers:
                break
            view, done = buffers[0], 0
            try:
                while done < len(view) and moved < TURN_BYTES:
                    count = send(view[done:])
                    done += count
                    moved += count
            except _WOULD_BLOCK:
                self._blocked = True
            except OSError:
                # What the server has still sent (why it refused) is to be read first; the end follows it.
                self._send_failed = True
            finally:
                if done:
                    queue.sent(done)
            if self._blocked:
                break
        return moved > 0

    def _receive(self) -> bool:
        """Receive and act on what has come. Whether anything has."""
        session, receive = self.session, self._receive_some
        buffer = session.buffer()
        got, size = 0, len(buffer)
        wanted = size if session.in_payload else 1
        self._be_patient(wanted > 1 and not session.outgoing)
        try:
            while got < wanted:  # a record of 16 KiB each
                count = receive(size - got, buffer[got:])
                if count == 0:
                    raise session.ended()
                got += count
        except _WOULD_BLOCK:
            pass
        except ssl.SSLEOFError:
            if not got:
                raise session.ended() from None
        if not got:
            return False
        session.received(got)
        while (event := session.next_event()) is not None:
            with self.lock:
                session.handle(event)
                self._wake_finished()
        if session.refused is not None:
            raise session.refused
        if session.welcome is not None and not self._greeted.is_set():
            self._greeted.set()
        return True

    def _be_patient(self, patient: bool) -> None:
        if patient is not self._patient:
            self._patient = patient
            self._sock.settimeout(PATIENCE_S if patient else 0.0)

    def _wait(self) -> None:
        with self.lock:
            more = self.session.outgoing and not (self._blocked or self._send_failed)
            if self._ending is not None or more:
                return
            self._asleep = True
        if self._polls_out is not self._blocked:
            self._polls_out = self._blocked
            self._poll.modify(self._sock.fileno(), select.POLLIN | (select.POLLOUT if self._polls_out else 0))
        for descriptor, _ in self._poll.poll():
            if descriptor == self._wake_fd:
                os.eventfd_read(self._wake_fd)
        self._asleep = False

    def _lose(self, error: MezzoError) -> None:
        with suppress(OSError, ValueError):
            self._sock.unwrap()  # says that we end it; what the other side says no longer matters
        _shut_down(self._sock)
        with self.lock:
            self.session.lose(self._ending or error)
            self._ended.set()
            self._wake_finished()
            self._sock.close()
            os.close(self._wake_fd)
        self._greeted.set()
        lost = self._lost()
        if lost is not None:
            lost(self)

    # -- under the lock

    def _wake(self) -> None:
        if self._asleep and not self._ended.is_set():
            os.eventfd_write(self._wake_fd, 1)

    def _wake_finished(self) -> None:
        """Wake who waits for the operations that are done."""
        finished = self.session.finished
        for operation in finished:
            if operation.waker is not None:
                operation.waker(operation)
        finished.clear()


def open_stripe(
    address: Address, tls: TLS, surroundings: Surroundings, session: Session, deadline: float
) -> Stripe:
    """Connect, shake hands and greet.

    Raises:
        Unavailable: it failed; the message says why, and what to do.
        MezzoError: what the server refused with.
    """
    now = surroundings.now
    context = tls.context()
    try:
        sock = surroundings.open_socket(address, max(0.001, deadline - now()))
    except OSError as error:
        raise Unavailable(f"cannot connect to {address}: {error}") from error
    try:
        sock.settimeout(max(0.001, deadline - now()))
        wrapped = context.wrap_socket(sock, server_hostname=tls.name_for(address))
    except (OSError, ValueError) as error:
        sock.close()
        if isinstance(error, OSError):
            raise _as_unavailable(explain(address, error)) from None
        raise Unavailable(f"{address}: {error}") from None
    stripe = Stripe(wrapped, address, session)
    try:
        stripe.greet(deadline - now())
    except DeadlineExceeded as error:
        raise Unavailable(str(error)) from error
    except BaseException:
        stripe.end(ConnectionLost("the hello failed"))
        raise
    return stripe


def _as_unavailable(error: MezzoError) -> MezzoError:
    """Nothing was lost yet."""
    return Unavailable(str(error)) if isinstance(error, ConnectionLost) else error


def _shut_down(sock: ssl.SSLSocket) -> None:
    try:
        # The plain one: that of SSLSocket would have the thread go on without TLS.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # ended already
