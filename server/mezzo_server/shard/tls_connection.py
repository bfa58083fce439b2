"""A client over TLS: as `connection`, with a thread between the socket and the loop.

What differs is when memory may be given back: what was handed to the thread is its own until it was
reported, so an end of the connection waits for the thread to let go (it never waits itself, so that is soon).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from mezzo_server.shard.connection import LINGER_BYTES, Connection, State
from mezzo_server.shard.output import OutputQueue

if TYPE_CHECKING:
    from mezzo_server.shard.runtime import Runtime
    from mezzo_server.shard.tls_pipe import TlsPipe

log = structlog.get_logger("mezzo.connection")

SCRAP_BYTES = 64 << 10


class HandedQueue(OutputQueue):
    """An output queue whose segments are handed to a thread, which says how far it has come."""

    __slots__ = ("_handed",)

    payload_bytes_high = 12 << 20  # large chunks wait behind one another while the first is encrypted

    def __init__(self) -> None:
        super().__init__()
        self._handed = 0

    def hand(self) -> list[memoryview]:
        """The views that were not handed out before."""
        views = [view for view, _ in islice(self._segments, self._handed, None)]
        self._handed += len(views)
        return views

    def sent(self, count: int) -> None:
        """So many more bytes of what was handed out are sent."""
        self._sent(count)

    def close(self) -> None:
        """See `OutputQueue.close`."""
        self._handed = 0
        super().close()

    def _popped(self) -> None:
        self._handed -= 1


class TlsConnection(Connection):
    """One client over TLS. Owner of its pipe."""

    def __init__(self, runtime: Runtime, pipe: TlsPipe, gone: Callable[[], None]) -> None:
        """``gone`` is called when the pipe is no more."""
        self._pipe = pipe
        self._gone = gone
        self._arrived = 0
        """bytes in the room that the reader was not told of"""
        # The room that the thread has, or that has bytes for the reader; how much of it the thread has yet to
        # fill (if all of it is to be filled: `_whole`).
        self._room: memoryview | None = None
        self._whole = False
        self._room_left = 0
        self._input_ended = False
        self._recalling = False
        self._has_let_go = False
        super().__init__(runtime, pipe.sock, pipe.peer)
        pipe.moved = runtime.turn(self.session, self._on_moved)

    def _new_output(self) -> HandedQueue:
        return HandedQueue()

    # -- what the thread reports

    def _on_moved(self) -> None:
        sent, arrived, ended = self._pipe.take()
        if self._state is State.CLOSED:
            return
        if sent:
            self._handed_output().sent(sent)
            self._output_out.moved(sent, self._output.waiting_bytes, self._runtime.service.now())
            self._output_moved()
            self._flush()
        if self._recalling:
            return
        if self._pipe.broken:
            log.info("connection failed", peer=self.peer, error=self._pipe.error)
            self.close()
            return
        if arrived:
            self._arrived += arrived
            self._room_left = self._room_left - arrived if self._whole else 0
        self._input_ended = self._input_ended or ended
        if self._reading and (arrived or ended):
            self._on_readable()

    def _receive(self) -> None:
        reader = self._reader
        began_ns = time.perf_counter_ns()
        if self._more_scheduled:
            self._more_scheduled = False
            if not self._handle_events(began_ns):
                return
        if self._arrived and self._room is not None:
            count, self._arrived = self._arrived, 0
            if self._whole:
                reader.filled(count)
                self._payload_came()
            else:
                self._take_received(self._room, count)
            if not self._handle_events(began_ns):
                return
        self.session.turn_ended()
        if self._input_ended and not self._arrived:
            if self._pipe.error:
                log.info("connection failed", peer=self.peer, error=self._pipe.error)
            self._end_of_input()
            return
        self._arm()

    def _discard_input(self) -> None:
        self._lingered_bytes += self._arrived
        self._arrived = 0
        if self._input_ended or self._lingered_bytes >= LINGER_BYTES:
            self.close()
        else:
            self._arm()

    def _arm(self) -> None:
        """Give the thread room to receive into, unless it has some, or nothing more is wanted now."""
        if self._room_left or self._arrived or self._recalling or not self._reading:
            return
        if self._state is State.OPEN:
            self._room = self._reader.buffer()
            # A payload's memory is filled as it comes; the buffer of small frames must be read first.
            self._whole = self._reader.delivers_directly
        elif self._state is State.LINGERING:
            self._room, self._whole = memoryview(bytearray(SCRAP_BYTES)), False
        else:
            return
        self._room_left = len(self._room)
        self._pipe.receive_into(self._room, whole=self._whole)

    # -- output

    def _send_now(self, frame: bytes) -> None:
        self._output.add_frame(frame)
        self._flush()

    def _flush(self) -> None:
        if self._output:
            if not self._writing:
                self._output_out.begin(self._output.waiting_bytes, self._runtime.service.now())
                self._writing = True
            self._hand_over()

    def _hand_over(self) -> None:
        views = self._handed_output().hand()
        if views:
            self._pipe.send(views)

    def _handed_output(self) -> HandedQueue:
        output = self._output
        if not isinstance(output, HandedQueue):
            raise TypeError("the output of a connection over TLS is handed to its thread")
        return output

    def _end_output(self) -> None:
        if not self._recalling:  # the last word is still to come
            self._pipe.end_output()

    # -- ends

    def close(self) -> None:
        """End it, and give everything back once the thread has let go of it."""
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._pipe.close(self._let_go)
        elif self._pipe.thread.stopped:
            self._let_go()  # the loop has stopped before it heard that the thread let go

    def _let_go(self) -> None:
        if not self._has_let_go:
            self._has_let_go = True
            super()._let_go()
            self._gone()

    def _retire(self, last: bytes) -> None:
        # The room that the thread has may be the session's memory, which is given back now.
        self._recalling = True

        def recalled() -> None:
            self._pipe.take()
            self._recalling = False
            self._arrived = self._room_left = 0
            self._room = None
            if self._state is State.LINGERING:
                super(TlsConnection, self)._retire(last)
                self._arm()

        self._pipe.recall(recalled)

    def _set_reading(self, wanted: bool) -> None:
        if wanted is self._reading:
            return
        self._reading = wanted
        if not wanted:
            return
        if self._arrived or self._input_ended:
            self._runtime.later_for(self.session, self._timed_readable)
        elif not self._more_scheduled:
            self._arm()

    def _set_writing(self, wanted: bool) -> None:
        if wanted:
            self._flush()
        else:
            self._writing = False
