"""A thread that encrypts and decrypts for many connections, in turns.

It owns their sockets and waits for all of them at once (epoll, edge-triggered: a connection is looked at when
something about its socket has changed, or when the loop has given it something to do).
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from mezzo_server.shard.tls_pipe import TlsPipe

log = structlog.get_logger("mezzo.tls")

CHECK_S = 0.1
"""between two looks at the deadlines of handshakes, while there are any"""


class CipherThread:
    """Owner of its connections' sockets; from `start` to `stop`."""

    def __init__(
        self, number: int, tell: Callable[[Callable[[], None]], None], now: Callable[[], float]
    ) -> None:
        """``tell`` has the event loop call something, from any thread."""
        self._tell = tell
        self.now = now
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._pipes: dict[int, TlsPipe] = {}
        self._shaking: set[TlsPipe] = set()
        self._asked: deque[TlsPipe | Callable[[], None]] = deque()
        self._asleep = False
        self._stopping = False
        self.stopped = False
        """whether it has ended: then what it is asked for is done at once, by whoever asks"""
        self.faults = 0
        self.connections = 0
        """that it has, those in their handshake included; counted by the loop"""
        self._thread = threading.Thread(target=self._run, name=f"mezzo-tls-{number}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End all connections; on return nothing of anybody's memory is touched any more."""
        if self.stopped:
            return
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self.stopped = True
        while self._asked:
            item = self._asked.popleft()
            if not isinstance(item, TlsPipe):
                item()
        self._epoll.close()
        os.close(self._wake_fd)

    # -- asked by the loop

    def add(self, pipe: TlsPipe) -> None:
        """Take a connection over, from its handshake on."""
        self.connections += 1

        def take() -> None:
            self._pipes[pipe.fd] = pipe
            self._shaking.add(pipe)
            try:
                self._epoll.register(
                    pipe.fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
                )
            except OSError as error:  # the kernel watches no more of them
                pipe.fail("other", str(error))

        self.call(take)
        self.poke(pipe)

    def poke(self, pipe: TlsPipe) -> None:
        """There is something to do for ``pipe``."""
        if not self.stopped:
            self._asked.append(pipe)
            self._wake()

    def call(self, step: Callable[[], None]) -> None:
        """Call ``step`` in the thread; at once if it has stopped."""
        if self.stopped:
            step()
            return
        self._asked.append(step)
        self._wake()

    # -- asked by pipes, in the thread

    def tell(self, step: Callable[[], None]) -> None:
        """Call ``step`` in the loop; at once if the thread has stopped, since the loop is what asks then."""
        if self.stopped:
            step()
            return
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._tell(step)

    def shaken(self, pipe: TlsPipe) -> None:
        """Its handshake is over."""
        self._shaking.discard(pipe)

    def forget(self, pipe: TlsPipe) -> None:
        """It is about to be closed."""
        self._shaking.discard(pipe)
        if self._pipes.pop(pipe.fd, None) is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(pipe.fd)

    # -- the thread

    def _wake(self) -> None:
        if self._asleep:
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        active: dict[TlsPipe, None] = {}
        asked = self._asked
        while not self._stopping:
            for fd, events in self._wait(idle=not active):
                pipe = self._pipes.get(fd)
                if pipe is not None:
                    active[pipe] = None
                    if events & ~select.EPOLLOUT:
                        pipe.readable = True
                elif fd == self._wake_fd:
                    os.eventfd_read(fd)
            while asked:
                item = asked.popleft()
                if isinstance(item, TlsPipe):
                    active[item] = None
                else:
                    item()
            for pipe in tuple(active):
                if not self._turn(pipe):
                    del active[pipe]
            if self._shaking:
                self._check_time()
        for pipe in tuple(self._pipes.values()):
            if pipe in self._shaking:
                pipe.fail("lost", "the shard stops")
            else:
                pipe.broke("the shard stops")

    def _wait(self, *, idle: bool) -> list[tuple[int, int]]:
        timeout_s = 0.0
        if idle:
            # Whoever asks after this is seen sees us asleep, and wakes us.
            self._asleep = True
            if not self._asked and not self._stopping:
                timeout_s = CHECK_S if self._shaking else -1
        try:
            return self._epoll.poll(timeout_s)
        finally:
            self._asleep = False

    def _turn(self, pipe: TlsPipe) -> bool:
        try:
            return pipe.turn()
        except Exception:  # a fault of ours must cost this client only, and be seen
            self.faults += 1
            log.exception("fault in a thread for TLS", peer=pipe.peer)
            if pipe in self._shaking:
                pipe.fail("other", "a fault in the shard")
            else:
                pipe.broke("a fault in the shard")
            return False

    def _check_time(self) -> None:
        now = self.now()
        for pipe in tuple(self._shaking):
            if now > pipe.deadline:
                pipe.fail("timeout", "the handshake took too long")
