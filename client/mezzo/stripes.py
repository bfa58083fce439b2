"""Several connections over TLS to one shard that act as one.

The first has everything that is not payload: lookups, leases, statistics.  Gets and puts go to the one that
has the fewest bytes under way; the others are opened when they first would help, and again when one is lost.
A get or put that was on a lost one is made again on another; if the first is lost, all are.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from mezzo.backoff import Backoff
from mezzo.errors import ClientClosed, ConnectionLost, DeadlineExceeded, MezzoError
from mezzo.operations import Operation, RenewTicket
from mezzo.session import Session
from mezzo.stripe import Stripe
from mezzo.transfers import Get, Put

STRIPES = 4
STRIPES_MAX = 64
OPEN_S_MAX = 5.0
"""for one more connection"""


class _Stripes:
    """The connections. Owner of them; shared by the threads of a client."""

    direct = True
    """whether it leads to a shard itself"""
    spread = None
    """the calls over its shards, if it stands for several"""

    def __init__(
        self,
        first: Stripe,
        open_more: Callable[[float], Stripe],
        count: int,
        now: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.session: Session = first.session
        """of the first: its limits are those of all"""
        self.session.stripes = count
        self._first = first
        self._stripes = [first]
        self._open_more = open_more
        self._count = count
        self._now = now
        self._lock = threading.RLock()  # as that of a stripe
        self._opening = False
        self._ending: MezzoError | None = None
        self._backoff = Backoff(random)
        first.call_when_lost(self._first_lost)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._stripes)

    def end(self, error: MezzoError, *, wait: bool = True) -> None:
        """End all connections."""
        with self._lock:
            self._ending = self._ending or error
            stripes = tuple(self._stripes)
        for stripe in stripes:
            stripe.end(error, wait=False)
        if wait:
            for stripe in stripes:
                stripe.end(error)

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""
        for stripe in self._stripes:
            stripe.close_descriptors()

    def _is_ending(self) -> bool:
        return self._ending is not None

    # -- placing

    def _readmitting(self, operations: Sequence[Operation]) -> None:
        """A new ticket is for each connection: those besides the first are given it too.

        One that does not take it fails the requests that come to it, and the client gets another ticket.
        """
        for operation in operations:
            if isinstance(operation, RenewTicket):
                with self._lock:
                    others = [each for each in self._stripes if each is not self._first]
                for stripe in others:
                    with suppress(MezzoError):
                        stripe.submit(RenewTicket(operation.ticket))

    def _submit(self, operation: Operation, placed: dict[Operation, Stripe]) -> None:
        nbytes = _payload_bytes(operation)
        with self._lock:
            stripe = self._first
            if nbytes:
                usable = [each for each in self._stripes if each.session.failure is None] or [self._first]
                stripe = min(usable, key=_load)
                more = stripe.load_bytes > 0 and len(usable) < self._count
                stripe.load_bytes += nbytes
                placed[operation] = stripe
                if more:
                    self._open_others()
            else:
                placed[operation] = stripe
        try:
            stripe.submit(operation)
        except BaseException:
            self._arrived(operation, placed)
            raise

    def _arrived(self, operation: Operation, placed: dict[Operation, Stripe]) -> Stripe | None:
        """``operation`` is done, or was never begun: its load is off. The stripe that it was on."""
        stripe = placed.pop(operation, None)
        if stripe is not None:
            with self._lock:
                stripe.load_bytes -= _payload_bytes(operation)
        return stripe

    def _may_go_again(self, operation: Operation, stripe: Stripe | None, deadline: float) -> bool:
        """Whether it failed only because its stripe was lost, and another may do it."""
        return (
            isinstance(operation.error, ConnectionLost)
            and operation.moves
            and stripe is not self._first
            and self.session.failure is None
            and self._now() < deadline
        )

    def _open_others(self) -> None:
        """Under the lock: open those that are missing, in a thread that ends with that."""
        if self._opening or self._is_ending() or self._now() < self._backoff.not_before:
            return
        self._opening = True
        try:
            threading.Thread(target=self._open, name="mezzo-tls-opening", daemon=True).start()
        except RuntimeError:  # no more threads: it goes on with the connections that it has
            self._opening = False
            self._backoff.failed(self._now())

    def _open(self) -> None:
        try:
            while True:
                with self._lock:
                    self._stripes = [each for each in self._stripes if each.session.failure is None]
                    if len(self._stripes) >= self._count or self._is_ending():
                        return
                stripe = self._open_more(self._now() + OPEN_S_MAX)
                if stripe.session.limits.shard_incarnation != self.session.limits.shard_incarnation:
                    stripe.end(ConnectionLost("another shard answers there by now"))
                    return
                with self._lock:
                    self._backoff.succeeded()
                    if not self._is_ending():
                        self._stripes.append(stripe)
                        continue
                stripe.end(ClientClosed("the client was closed"))
        except Exception:
            # Whatever it was: it goes on with those that it has, and the next that would help is tried later.
            with self._lock:
                self._backoff.failed(self._now())
        finally:
            with self._lock:
                self._opening = False

    def _first_lost(self, first: Stripe) -> None:
        self.end(first.session.failure or ConnectionLost("the connection was lost"), wait=False)


class StripedLink(_Stripes):
    """For threads; see `mezzo.blocking.BlockingLink`."""

    blocking = True
    """which kind of client it belongs to"""

    def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit ``operations`` and wait for all of them; see `mezzo.blocking.BlockingLink.run`."""
        done: queue.SimpleQueue[Operation] = queue.SimpleQueue()
        placed: dict[Operation, Stripe] = {}
        retried: set[Operation] = set()
        try:
            for operation in operations:
                operation.deadline, operation.waker = deadline, done.put
                self._submit(operation, placed)
            self._readmitting(operations)
            while placed:
                try:
                    operation = done.get(timeout=max(0.0, deadline - self._now()))
                except queue.Empty:
                    raise DeadlineExceeded("no answer within the time of the call") from None
                stripe = self._arrived(operation, placed)
                if operation not in retried and self._may_go_again(operation, stripe, deadline):
                    retried.add(operation)
                    operation.renew()
                    self._submit(operation, placed)
        except BaseException as error:
            self._abandon(placed, done, error, grace_s)
            raise
        _raise_first(operations)

    def _abandon(
        self,
        placed: dict[Operation, Stripe],
        done: queue.SimpleQueue[Operation],
        error: BaseException,
        grace_s: float,
    ) -> None:
        me = threading.get_ident()
        if any(stripe.inside == me for stripe in placed.values()):
            self.end(ConnectionLost("ended by an interrupt in the middle of a request"))
        reason = error if isinstance(error, MezzoError) else DeadlineExceeded("the call was interrupted")
        try:
            for operation, stripe in tuple(placed.items()):
                stripe.cancel(operation, reason)
            grace_end = self._now() + grace_s
            while placed:
                self._arrived(done.get(timeout=max(0.0, grace_end - self._now())), placed)
        except BaseException as second:
            for stripe in set(placed.values()):
                stripe.end(_not_cancelled(grace_s))
            for operation in tuple(placed):
                self._arrived(operation, placed)
            if not isinstance(second, queue.Empty):
                raise  # a second interrupt: nobody wants to wait any longer


class AsyncStripedLink(_Stripes):
    """For an event loop; see `mezzo.asyncio_link.AsyncioLink`."""

    asynchronous = True
    """which kind of client it belongs to"""

    async def run(self, operations: Sequence[Operation], deadline: float, grace_s: float) -> None:
        """Submit ``operations`` and wait for all of them; see `mezzo.asyncio_link.AsyncioLink.run`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Queue[Operation] = asyncio.Queue()
        placed: dict[Operation, Stripe] = {}
        retried: set[Operation] = set()

        def tell(operation: Operation) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.put_nowait, operation)

        try:
            async with asyncio.timeout(max(0.0, deadline - self._now())):
                for operation in operations:
                    operation.deadline, operation.waker = deadline, tell
                    self._submit(operation, placed)
                self._readmitting(operations)
                while placed:
                    operation = await done.get()
                    stripe = self._arrived(operation, placed)
                    if operation not in retried and self._may_go_again(operation, stripe, deadline):
                        retried.add(operation)
                        operation.renew()
                        self._submit(operation, placed)
        except TimeoutError:
            reason = DeadlineExceeded("no answer within the time of the call")
            await self._abandon(placed, done, reason, grace_s)
            raise reason from None
        except BaseException as error:
            await self._abandon(placed, done, error, grace_s)
            raise
        _raise_first(operations)

    async def close(self, error: MezzoError) -> None:
        """As `end`."""
        self.end(error)

    def end_from_anywhere(self, error: MezzoError) -> None:
        """As `end`, without waiting."""
        self.end(error, wait=False)

    async def _abandon(
        self,
        placed: dict[Operation, Stripe],
        done: asyncio.Queue[Operation],
        error: BaseException,
        grace_s: float,
    ) -> None:
        reason = error if isinstance(error, MezzoError) else DeadlineExceeded("the call was cancelled")
        try:
            for operation, stripe in tuple(placed.items()):
                stripe.cancel(operation, reason)
            async with asyncio.timeout(grace_s):
                while placed:
                    self._arrived(await done.get(), placed)
        except BaseException as second:
            # Their threads see the end of the stream at once, so this holds the loop for no longer than that.
            for stripe in set(placed.values()):
                stripe.end(_not_cancelled(grace_s))
            for operation in tuple(placed):
                self._arrived(operation, placed)
            if not isinstance(second, TimeoutError):
                raise  # cancelled once more: nobody wants to wait any longer


def _load(stripe: Stripe) -> int:
    return stripe.load_bytes


def _payload_bytes(operation: Operation) -> int:
    if isinstance(operation, Get | Put):
        return sum(operation.places.lengths)
    return 0


def _raise_first(operations: Sequence[Operation]) -> None:
    for operation in operations:
        if operation.error is not None:
            raise operation.error from None


def _not_cancelled(grace_s: float) -> ConnectionLost:
    return ConnectionLost(f"the server did not cancel a request within {grace_s} s")
