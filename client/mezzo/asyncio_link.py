"""A connection driven by an event loop (asyncio or uvloop).

Everything here runs in the loop's thread.  The socket is read and written directly (no transport):
payloads are received straight into their targets and sent straight from their sources, and
descriptors can be passed.
"""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from mezzo.errors import ConnectionLost, DeadlineExceeded, InternalError, MezzoError, ProtocolError
from mezzo.operations import Operation, State
from mezzo.peer import Peer
from mezzo.protocol.connection import refusal
from mezzo.regions import Region
from mezzo.session import Session

RECEIVES_MAX = 16
"""Times that one turn of the loop receives, so that nobody else in the loop starves."""
CHECKSUM_INLINE_BYTES_MAX = 1024 * 1024
"""Checksums of larger chunks are computed in the loop's executor."""


class AsyncioLink:
    """A connected socket and its session. Owner of both."""

    direct = True
    """whether it leads to a shard itself"""
    spread = None
    """the calls over its shards, if it stands for several"""

    def __init__(
        self,
        sock: socket.socket,
        session: Session,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
    ) -> None:
        sock.setblocking(False)
        self.session = session
        self._sock = sock
        self._loop = loop
        self._now = now
        self._greeting: asyncio.Future[None] | None = None
        self._writing = False
        self._preparing = False
        self._send_failed = False
        self._ended = False
        self._pid = os.getpid()
        self._closed_regions: deque[int] = deque()
        session.watch_region = self._watch_region
        peer = Peer.of(sock)
        session.peer_gone = None if peer is None else peer.gone
        loop.add_reader(sock.fileno(), self._readable)

    async def greet(self, timeout_s: float) -> None:
        """Exchange hello and welcome. Raises what the server refused with, or DeadlineExceeded."""
        self._greeting = self._loop.create_future()
        self._flush()
        try:
            async with asyncio.timeout(timeout_s):
                await self._greeting
        except TimeoutError:
            raise DeadlineExceeded("the server did not answer the hello in time") from None
        finally:
            self._greeting = None
        if self.session.failure is not None:
            raise self.session.failure

    async def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit ``operations`` and wait for all of them.

        On a timeout or a cancellation they are cancelled with the server too, and this returns only
        when it has let go of their memory; if it does not within ``grace_s`` the connection is ended.
        """
        try:
            for operation in operations:
                operation.deadline = deadline
                self.session.submit(operation)
            self._settle()
            self._flush()
            await self._wait(operations, deadline - self._now())
        except BaseException as error:
            timed_out = isinstance(error, TimeoutError)
            reason = DeadlineExceeded("no answer within the time of the call") if timed_out else error
            await self._abandon(operations, reason, grace_s)
            if timed_out:
                raise reason from None
            raise
        for operation in operations:
            if operation.error is not None:
                raise operation.error from None

    def end(self, error: MezzoError) -> None:
        """End the connection: nothing is received into anybody's memory any more."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self.session.lose(error)
        self._settle()

    def end_from_anywhere(self, error: MezzoError) -> None:
        """As `end`, from any thread and whether or not the loop still runs."""
        try:
            self._loop.call_soon_threadsafe(self.end, error)
        except RuntimeError:  # the loop is closed
            self._sock.close()

    def close_descriptors(self) -> None:
        """In a forked child: give up the copy of the descriptor; the parent's stays."""
        self._sock.close()

    def region_closed(self, number: int) -> None:
        """A region that is registered here was closed, in any thread, perhaps by the collector."""
        if os.getpid() != self._pid:
            return  # a forked child's copy of the region: the connection and the loop are the parent's
        self._closed_regions.append(number)
        try:
            self._loop.call_soon_threadsafe(self._remove_regions)
        except RuntimeError:
            pass  # the loop is closed, and the connection with it

    # Waiting.

    async def _wait(self, operations: Sequence[Operation], timeout_s: float) -> None:
        for operation in operations:
            operation.waker = None if operation.done else self._loop.create_future()
        # On the way of every request: a timer costs a fifth of `asyncio.timeout`.
        limit = self._loop.call_later(max(0.0, timeout_s), self._late, operations)
        try:
            for operation in operations:
                if operation.waker is not None:
                    await operation.waker
        finally:
            limit.cancel()

    def _late(self, operations: Sequence[Operation]) -> None:
        """Their time is over: say so to who waits, which is for the first that is not done."""
        for operation in operations:
            if operation.waker is not None and not operation.waker.done():
                operation.waker.set_exception(TimeoutError())
                return

    async def _abandon(self, operations: Sequence[Operation], error: BaseException, grace_s: float) -> None:
        reason = error if isinstance(error, MezzoError) else DeadlineExceeded("the call was cancelled")
        for operation in operations:
            self.session.cancel(operation, reason)
        self._settle()
        self._flush()
        begun = [operation for operation in operations if operation.state is not State.NEW]
        try:
            await self._wait(begun, grace_s)
        except TimeoutError:
            self.end(ConnectionLost(f"the server did not cancel a request within {grace_s} s"))
        except BaseException:
            # Cancelled once more: nobody wants to wait any longer.
            self.end(ConnectionLost("ended by a cancellation while requests were being cancelled"))
            raise

    def _settle(self) -> None:
        """Wake who waits for the operations that are done."""
        finished = self.session.finished
        for operation in finished:
            if operation.waker is not None and not operation.waker.done():
                operation.waker.set_result(None)
        finished.clear()
        greeting = self._greeting
        if greeting is not None and not greeting.done() and (self.session.welcome or self.session.failure):
            greeting.set_result(None)

    def _watch_region(self, region: Region) -> None:
        region.call_on_close(self.region_closed)

    def _remove_regions(self) -> None:
        while self._closed_regions:
            self.session.remove_region(self._closed_regions.popleft())
        if not self._ended:
            self._flush()

    # The socket.

    def _readable(self) -> None:
        session = self.session
        try:
            for _ in range(RECEIVES_MAX):
                buffer = session.buffer()
                count = self._sock.recv_into(buffer)
                if count == 0:
                    self.end(session.ended())
                    return
                more = count == len(buffer) or session.in_payload
                session.received(count)
                while (event := session.next_event()) is not None:
                    session.handle(event)
                if not more:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except ProtocolError as error:
            self._refuse(error)
            return
        except OSError as error:
            self.end(ConnectionLost(f"the connection broke: {error}"))
            return
        except Exception as fault:  # where the stream stands is not known any more
            self.end(InternalError(f"fault in what has come from the server: {fault!r}"))
            return
        if session.refused is not None:
            self.end(session.refused)
            return
        self._settle()
        self._flush()

    def _refuse(self, error: ProtocolError) -> None:
        """The server broke the protocol: say so if that is possible at once, and end."""
        if not self.session.outgoing:
            try:
                self._sock.send(refusal(error))
            except OSError:
                pass  # it is only a courtesy
        self.end(error)

    def _flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        queue = self.session.outgoing
        while queue and not (self._preparing or self._send_failed or self._ended):
            payload = queue.unprepared
            if payload is not None and payload.length > CHECKSUM_INLINE_BYTES_MAX:
                self._preparing = True
                self._loop.run_in_executor(None, payload.prepare).add_done_callback(self._prepared)
                break
            buffers, descriptor = queue.gather()
            if not buffers:
                break
            try:
                if descriptor is not None:
                    rights = array.array("i", [descriptor])
                    count = self._sock.sendmsg(buffers, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                elif len(buffers) == 1:
                    count = self._sock.send(buffers[0])
                else:
                    count = self._sock.sendmsg(buffers)
            except (BlockingIOError, InterruptedError):
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                # What the server has still sent (why it refused) is to be read first; the end of the
                # stream follows it.
                self._send_failed = True
                if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    with suppress(OSError):  # ended already
                        self._sock.shutdown(socket.SHUT_RDWR)
                break
            queue.sent(count)
        if self._writing and not self._ended:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _prepared(self, future: asyncio.Future[None]) -> None:
        self._preparing = False
        if future.cancelled() or future.exception() is not None:
            self.end(ConnectionLost(f"a checksum could not be computed: {future}"))
        elif not self._ended:
            self._flush()
