"""A proxy for TCP that cuts, delays and stalls what passes, in one direction or both.

What is cut is held, not lost, as on a network that drops packets and is repaired before the connections give up; a
`Link.heal` that resets ends them instead.  A cut may come after some more bytes, so in the midst of a frame.  New
connections are accepted while a link is cut, as by a machine whose network fails right afterwards, and get no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Literal, TypeVar

T = TypeVar("T")
Way = Literal["there", "back", "both"]
"""there: from who connects to the target"""
PIECE_BYTES = 256 << 10
CALL_S = 30.0


class _Gate:
    """One direction of a link. Used in the loop."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.open = asyncio.Event()
        self.open.set()
        self.left_bytes: int | None = None
        """so many pass yet, then it closes; None: it stays open"""

    def close(self, after_bytes: int) -> None:
        if after_bytes:
            self.left_bytes = after_bytes
        else:
            self.open.clear()

    def heal(self) -> None:
        self.delay_s, self.left_bytes = 0.0, None
        self.open.set()

    async def passes(self, wanted: int) -> int:
        """Wait until something may pass; how many bytes of so many."""
        await self.open.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
            await self.open.wait()
        if self.left_bytes is None:
            return wanted
        now = min(wanted, self.left_bytes)
        self.left_bytes -= now
        if not self.left_bytes:
            self.left_bytes = None
            self.open.clear()
        return now


class Link:
    """A port that leads to a target. Made by `Cutter.link`; its methods may be called from any thread."""

    def __init__(self, cutter: Cutter, host: str, port: int, target: tuple[str, int]) -> None:
        self.host, self.port = host, port
        self._cutter = cutter
        self._target = target
        self._gates = {"there": _Gate(), "back": _Gate()}
        self._connections: set[asyncio.Task[None]] = set()
        self.passed_bytes = 0
        """over all connections and both directions"""

    def __repr__(self) -> str:
        return f"<Link {self.port} to {self._target[1]}>"

    def cut(self, way: Way = "both", after_bytes: int = 0) -> None:
        """Let nothing pass any more, once so many bytes more have."""
        self._do(lambda: [gate.close(after_bytes) for gate in self._of(way)])

    def delay(self, seconds: float, way: Way = "both") -> None:
        """Hold every piece for so long before it passes."""

        def work() -> None:
            for gate in self._of(way):
                gate.delay_s = seconds

        self._do(work)

    def heal(self, *, reset: bool = False) -> None:
        """Let everything pass; with ``reset`` the connections that there are end."""

        def work() -> None:
            if reset:
                for task in self._connections:
                    task.cancel()
            for gate in self._gates.values():
                gate.heal()

        self._do(work)

    def _of(self, way: Way) -> list[_Gate]:
        return [gate for name, gate in self._gates.items() if way in (name, "both")]

    def _do(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        self._cutter.call(run())

    # In the loop.

    def took(self, sock: socket.socket) -> None:
        """Somebody has connected."""
        task = asyncio.ensure_future(self._serve(sock))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def end(self) -> None:
        """End all connections."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with near, socket.socket() as far:
            for sock in (near, far):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(far, self._target)
            except OSError:
                _abort(near)
                return
            ways = [
                asyncio.ensure_future(self._pump(near, far, self._gates["there"])),
                asyncio.ensure_future(self._pump(far, near, self._gates["back"])),
            ]
            try:
                await asyncio.gather(*ways)
            except OSError:
                _abort(near)
                _abort(far)
            except asyncio.CancelledError:
                _abort(near)
                _abort(far)
                raise
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, source: socket.socket, target: socket.socket, gate: _Gate) -> None:
        loop = asyncio.get_running_loop()
        while data := memoryview(await loop.sock_recv(source, PIECE_BYTES)):
            while data:
                count = await gate.passes(len(data))
                await loop.sock_sendall(target, data[:count])
                self.passed_bytes += count
                data = data[count:]
        await gate.passes(1)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Cutter:
    """Owner of the thread in which all links live. Made by `cutting`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: list[tuple[Link, socket.socket, asyncio.Task[None]]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting", daemon=True)
        self._thread.start()

    def link(self, target_port: int, *, port: int = 0, host: str = "127.0.0.1") -> Link:
        """A port of its own (or this one) that leads to a port of this host, which may be listened on later."""
        listener = socket.create_server((host, port), backlog=128)
        listener.setblocking(False)
        taken = listener.getsockname()[1]

        async def make() -> Link:
            link = Link(self, host, taken, ("127.0.0.1", target_port))
            self._links.append((link, listener, asyncio.ensure_future(self._accept(listener, link))))
            return link

        return self.call(make())

    def call(self, work: object) -> T:  # type: ignore[type-var]
        """Have a coroutine run in the thread, and its result."""
        done: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]
        return done.result(CALL_S)

    def close(self) -> None:
        """End every connection and the thread."""

        async def end() -> None:
            for link, listener, task in self._links:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                listener.close()
                await link.end()

        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        self._loop.close()

    @staticmethod
    async def _accept(listener: socket.socket, link: Link) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            link.took(sock)


@contextmanager
def cutting() -> Iterator[Cutter]:
    """A `Cutter`, closed at the end with all its links."""
    cutter = Cutter()
    try:
        yield cutter
    finally:
        cutter.close()


def _abort(sock: socket.socket) -> None:
    """So that closing it sends a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
