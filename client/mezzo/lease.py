"""Leases: a time-bound right to read named chunks without their being evicted. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from mezzo.calls import Grant


class LeaseBase:
    """What was leased. Ends by ``release``, at ``expires``, or with the connection."""

    def __init__(self, grant: Grant, now: Callable[[], float]) -> None:
        self.prefix = grant.prefix
        """keys present and leased, counted from the first one on"""
        self.bytes = grant.bytes
        """their bytes in all"""
        self.load_s = grant.load_s
        """estimate of the time that a get of them would take, in seconds"""
        self.expires = grant.expires
        """reading of ``time.monotonic`` at which it ends by itself"""
        self._grant = grant
        self._now = now
        self._released = False

    def __repr__(self) -> str:
        state = "held" if self.held else "ended"
        return f"<mezzo.{type(self).__name__} of {self.prefix} chunks, {self.bytes} bytes, {state}>"

    @property
    def held(self) -> bool:
        """Whether it still protects its chunks, as far as this side can know."""
        if self._released or not self.prefix or self._now() >= self.expires:
            return False
        return all(link.session.failure is None for link, _ in self._grant.leases)


class Lease(LeaseBase):
    """A lease of a `Client`; a context manager that releases it."""

    def __init__(self, grant: Grant, now: Callable[[], float], end: Callable[[], bool]) -> None:
        super().__init__(grant, now)
        self._end = end

    def release(self) -> bool:
        """End it now. False: it had ended already."""
        if self._released:
            return False
        self._released = True
        return self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class AsyncLease(LeaseBase):
    """A lease of an `AsyncClient`; an asynchronous context manager that releases it."""

    def __init__(self, grant: Grant, now: Callable[[], float], end: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(grant, now)
        self._end = end

    async def release(self) -> bool:
        """End it now. False: it had ended already."""
        if self._released:
            return False
        self._released = True
        return await self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()
