"""Leases: a time-bound right to read named chunks without their being evicted. No I/O."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from mezzo.calls import Grant
from mezzo.errors import CallerError, ClientClosed, Gone, MezzoError
from mezzo.in_place import Views

_ADVICE = "what was read in place since the last check may be wrong: drop it, and acquire again or use get"


class LeaseBase:
    """What was leased. Ends by ``release``, at ``expires``, or with the connection.

    A lease that was acquired *in place* also lets its holder read those of its chunks that are hot
    where they lie (`views`), without a copy.  The bytes read are to be believed only after a check that
    followed the reading: leaving the ``with`` block of the lease, `using`, `check` and ``release`` all
    check, and raise `Gone` if the shard had to take a chunk back (a lease that was kept for too long,
    a chunk that was deleted, a lost connection).  With a GPU that copies out of a view, wait for its
    stream before that.  After ``release`` the views are unusable.
    """

    def __init__(self, grant: Grant, now: Callable[[], float]) -> None:
        self.found = grant.found
        """what `Client.lookup` would have told of the keys"""
        self.prefix = grant.found.prefix
        """keys present and leased, counted from the first one on"""
        self.bytes = grant.found.bytes
        """their bytes in all"""
        self.load_s = grant.found.load_s
        """estimate of the time that a get of them would take, in seconds"""
        self.expires = grant.expires
        """reading of ``time.monotonic`` at which it ends by itself"""
        self._grant = grant
        self._now = now
        self._released = False
        self._viewed = False

    def __repr__(self) -> str:
        state = "held" if self.held else "ended"
        hot = f", {self.hot} in place" if self._grant.places is not None else ""
        return f"<mezzo.{type(self).__name__} of {self.prefix} chunks, {self.bytes} bytes{hot}, {state}>"

    @property
    def held(self) -> bool:
        """Whether it still protects its chunks, as far as this side can know."""
        if self._released or not self.prefix or self._now() >= self.expires:
            return False
        return all(link.session.failure is None for link, _ in self._grant.leases)

    @property
    def hot(self) -> int:
        """How many chunks of the prefix are in place; 0 if it was not asked for."""
        places = self._grant.places
        return 0 if places is None else places.hot

    @property
    def views(self) -> Views:
        """For each chunk of the prefix its bytes where they lie, read-only; None for one that is not hot.

        Raises:
            Gone: the lease was released.
        """
        if self._released:
            raise Gone("the lease was released, and its places with it: acquire again")
        places = self._grant.places
        if places is None:
            return (None,) * self.prefix
        self._viewed = True
        return places.views

    def check(self) -> None:
        """What was read in place before this call is right, unless it raises.

        Raises:
            Gone: it may be wrong; drop it.
        """
        if (gone := self._gone()) is not None:
            raise gone

    @contextmanager
    def using(self) -> Iterator[Views]:
        """`views` for the block, and a check after it.

        Raises:
            Gone: what the block read may be wrong; raised from the block's own error if there was one,
                since bytes that changed may have caused it.
        """
        views = self.views
        try:
            yield views
        except Exception as error:
            gone = self._gone()
            if gone is not None:
                raise gone from error
            raise
        self.check()

    def _renewable(self) -> None:
        """Raise Gone unless there is something to renew."""
        if self._released:
            raise Gone("the lease was released: acquire again")
        if not self.prefix:
            raise Gone("nothing was present, so nothing is leased")

    def _lost(self) -> None:
        """A part of it has ended: it protects its chunks no longer as a whole."""
        self.expires = min(self.expires, self._now())

    def _gone(self) -> Gone | None:
        """Why the places are not to be believed any more."""
        places = self._grant.places
        if self._released:
            return Gone(f"the lease was released; {_ADVICE}")
        if places is None or not places.hot:
            return None
        if changed := places.changed():
            return Gone(f"{changed} of {places.hot} chunks in place were taken back by the shard; {_ADVICE}")
        for link, _ in self._grant.leases:
            if (failure := link.session.failure) is not None:
                return Gone(f"the connection has ended ({failure}), and the lease with it; {_ADVICE}")
        return None

    def _give_up(self) -> MezzoError | None:
        """The lease ends now: what is to be raised about its places, if they were looked at."""
        gone = self._gone() if self._viewed else None
        self._released = True
        places = self._grant.places
        if places is None:
            return None
        in_use = places.give_back()
        if gone is None and in_use:
            return CallerError(
                f"arrays or tensors over {in_use} views of the lease are still alive, and the shard may "
                "overwrite their bytes from now on: copy what is to stay, and drop them before the lease ends"
            )
        return gone


def _conclude(outcome: MezzoError | None, failure: MezzoError | None, error: BaseException | None) -> None:
    """Raise what is to be heard of a lease that was ended: of its places first, then why it could not be.

    It ends by itself, so a ``failure`` is not worth hiding the block's ``error``; with its client it has ended.
    """
    if failure is not None and outcome is None and error is None and not isinstance(failure, ClientClosed):
        raise failure
    _raise(outcome, error)


def _raise(outcome: MezzoError | None, error: BaseException | None = None) -> None:
    """Raise what became of the places: `Gone` instead of the block's ``error``, anything else only if
    the block had none.
    """
    if outcome is None or (error is not None and not isinstance(error, Exception)):
        return
    if error is None or isinstance(outcome, Gone):
        raise outcome from error


class Lease(LeaseBase):
    """A lease of a `Client`; a context manager that checks what was read in place, and releases it."""

    def __init__(
        self,
        grant: Grant,
        now: Callable[[], float],
        end: Callable[[], bool],
        renew: Callable[[float], float],
    ) -> None:
        super().__init__(grant, now)
        self._end = end
        self._renew = renew

    def release(self) -> bool:
        """End it now. False: it had ended already, by itself, with its connection or its client.

        Raises:
            Gone: what was read in place since the last check may be wrong. It is released.
            CallerError: something made over a view is still alive. It is released.
        """
        return self._release(None)

    def renew(self, ttl_s: float) -> float:
        """Let it last until ``ttl_s`` seconds from now, or as long as it would have; ``expires`` is set anew.

        The server may give less (its longest lease). What is in place stays in place for as long.
        Returns the seconds that are left.

        Raises:
            Gone: it has ended: its time was over, it was released, or its connection or shard is gone. Its
                chunks may have been evicted meanwhile: acquire again.
        """
        self._renewable()
        try:
            self.expires = max(self.expires, self._renew(ttl_s))
        except Gone:
            self._lost()
            raise
        return self.expires - self._now()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(error)

    def _release(self, error: BaseException | None) -> bool:
        if self._released:
            return False
        outcome, held = self._give_up(), False
        failure: MezzoError | None = None
        try:
            held = self._end()
        except MezzoError as raised:
            failure = raised
        _conclude(outcome, failure, error)
        return held


class AsyncLease(LeaseBase):
    """A lease of an `AsyncClient`; an asynchronous context manager that checks what was read in place,
    and releases it.
    """

    def __init__(
        self,
        grant: Grant,
        now: Callable[[], float],
        end: Callable[[], Awaitable[bool]],
        renew: Callable[[float], Awaitable[float]],
    ) -> None:
        super().__init__(grant, now)
        self._end = end
        self._renew = renew

    async def release(self) -> bool:
        """See `Lease.release`."""
        return await self._release(None)

    async def renew(self, ttl_s: float) -> float:
        """See `Lease.renew`."""
        self._renewable()
        try:
            self.expires = max(self.expires, await self._renew(ttl_s))
        except Gone:
            self._lost()
            raise
        return self.expires - self._now()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._release(error)

    async def _release(self, error: BaseException | None) -> bool:
        if self._released:
            return False
        outcome, held = self._give_up(), False
        failure: MezzoError | None = None
        try:
            held = await self._end()
        except MezzoError as raised:
            failure = raised
        _conclude(outcome, failure, error)
        return held
