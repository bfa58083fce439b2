"""How the asynchronous client comes to its connection, and how it stays welcome there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mezzo.address import Address
from mezzo.asyncio_link import AsyncioLink
from mezzo.driving import drive_async
from mezzo.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArgument,
    MezzoError,
    Unavailable,
)
from mezzo.frontend.via import async_proxy_link
from mezzo.operations import RenewTicket
from mezzo.pod import KnownPod
from mezzo.reaching import EndProxy, OpeningStep, OpenPod, OpenProxy, OpenShard, Reaching
from mezzo.stripe import Stripe
from mezzo.stripes import AsyncStripedLink

if TYPE_CHECKING:
    from mezzo.async_performing import AsyncPodLink
    from mezzo.frontend.asynchronous import AsyncProxyLink

AnyLink: TypeAlias = "AsyncioLink | AsyncStripedLink | AsyncProxyLink | AsyncPodLink"


class AsyncOpening(Reaching):
    """An asynchronous client's connection: opened, readmitted, replaced when it was lost."""

    _link: AnyLink | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _connecting: asyncio.Lock | None = None
    _renewing: asyncio.Task[MezzoError | None] | None = None

    def _bind(self) -> asyncio.AbstractEventLoop:
        """The loop of the first call is the client's."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidArgument("this client belongs to another event loop; make one for each loop")
        return loop

    async def _connected(self, deadline: float) -> AnyLink:
        """The connection; made if there is none, and readmitted if its ticket is about to expire."""
        link = self._link
        if link is not None and link.session.failure is None:
            if self._tickets.due and link.direct:
                await self._readmit(link, deadline)
            return link
        self._bind()
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        now = self._surroundings.now
        try:
            async with asyncio.timeout(max(0.0, deadline - now())):
                await self._connecting.acquire()
        except TimeoutError:
            raise DeadlineExceeded("another task is still connecting") from None
        try:
            limit = min(deadline, now() + self.connect_timeout_s)
            made: AnyLink = await drive_async(self._connect(limit), self._make, limit)
            return made
        finally:
            self._connecting.release()

    async def _readmit(self, link: Any, deadline: float) -> None:
        """Have the ticket renewed; wait for it only if the old one has expired."""
        if self._renewing is None:
            self._tickets.check()
            loop = self._bind()
            self._renewing = loop.create_task(self._renew(link))
            self._renewing.add_done_callback(self._renewed)
        if not self._tickets.expired:
            return
        left_s = deadline - self._surroundings.now()
        # The task is shared: whoever gives up waiting for it leaves it to the others.
        done, _ = await asyncio.wait((self._renewing,), timeout=max(0.0, left_s))
        if not done:
            raise DeadlineExceeded("the ticket was not renewed within the time of the call")
        renewing = done.pop()
        if renewing.cancelled():
            raise self._ending()
        error = renewing.result()
        if error is not None and self._tickets.expired:
            raise copy.copy(error)

    async def _renew(self, link: Any) -> MezzoError | None:
        """Get another ticket and go on with it; why not, if not."""
        now = self._surroundings.now
        limit = now() + self.connect_timeout_s
        try:
            ticket = await drive_async(self._fetch_ticket(limit), self._make, limit)
            await link.run((RenewTicket(ticket.ticket),), limit, self.cancel_grace_s)
        except MezzoError as error:
            self._tickets.failed(error)
            if link.session.failure is None:
                return error
            return ConnectionLost(f"the connection was lost while its ticket was renewed: {error}")
        self._ticket = ticket
        self._tickets.took(ticket)
        return None

    def _renewed(self, task: asyncio.Task[MezzoError | None]) -> None:
        self._renewing = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._tickets.failed(error)  # what the caller's own function raised: tried again in a while

    async def _make(self, step: OpeningStep, deadline: float) -> object:
        """Perform a step on the way to a connection."""
        if isinstance(step, OpenShard):
            return await self._open_shard(self._bind(), step.address, deadline)
        if isinstance(step, OpenProxy):
            return await self._link_to_proxy(step, deadline)
        if isinstance(step, OpenPod):
            return await self._open_pod(step.pod, deadline)
        if isinstance(step, EndProxy):
            await step.proxied.close(step.error)
        else:
            await asyncio.sleep(step.seconds)
        return None

    async def _link_to_proxy(self, step: OpenProxy, deadline: float) -> AsyncProxyLink:
        return await async_proxy_link().open(
            step.address,
            self.tls,
            namespace=self.namespace_name,
            identity=self.identity,
            client_name=self.name,
            counters=self._counters,
            now=self._surroundings.now,
            timeout_s=max(0.001, (deadline - self._surroundings.now()) / step.share),
            bearer=self._bearer,
            had=step.had,
        )

    async def _open_pod(self, pod: KnownPod, deadline: float) -> AsyncPodLink:
        raise NotImplementedError

    async def _open_shard(
        self, loop: asyncio.AbstractEventLoop, address: Address, deadline: float
    ) -> AsyncioLink | AsyncStripedLink:
        now = self._surroundings.now
        if address.is_encrypted:
            return await self._open_striped(loop, address, deadline)
        left_s = max(0.001, deadline - now())
        opening = loop.run_in_executor(None, self._surroundings.open_socket, address, left_s)
        try:
            sock = await in_time(opening, left_s, lambda late: late.close())
        except OSError as error:
            raise Unavailable(f"cannot connect to {address}: {error}") from error
        link = AsyncioLink(sock, self._new_session(address), loop, now)
        try:
            await link.greet(max(0.0, deadline - now()))
        except DeadlineExceeded as error:
            link.end(ConnectionLost("the server did not answer the hello in time"))
            raise Unavailable(f"{address} did not answer the hello in time") from error
        except BaseException:
            link.end(ConnectionLost("the hello failed"))
            raise
        return link

    async def _open_striped(
        self, loop: asyncio.AbstractEventLoop, address: Address, deadline: float
    ) -> AsyncStripedLink:
        opener = self._stripe_opener(address)
        opening = loop.run_in_executor(None, opener, deadline)
        surroundings = self._surroundings
        left_s = max(0.001, deadline - surroundings.now())
        try:
            first = await in_time(opening, left_s, _end_late)
        except TimeoutError as error:
            raise Unavailable(f"cannot connect to {address}: {error}") from error
        return AsyncStripedLink(first, opener, self.stripes, surroundings.now, surroundings.random)


R = TypeVar("R")


def _end_late(stripe: Stripe) -> None:
    stripe.end(ConnectionLost("it came too late"), wait=False)


async def in_time(future: asyncio.Future[R], seconds: float, undo: Callable[[R], None]) -> R:
    """Await what another thread makes; what is made after ``seconds``, or after a cancellation, is undone.

    Raises:
        TimeoutError: it was not made in time. A look-up of a name has no timeout of its own.
    """

    def late(made: asyncio.Future[R]) -> None:
        if not made.cancelled() and made.exception() is None:
            undo(made.result())

    try:
        done, _ = await asyncio.wait((future,), timeout=seconds)
    except asyncio.CancelledError:
        future.add_done_callback(late)
        raise
    if not done:
        future.add_done_callback(late)
        raise TimeoutError("timed out")
    return future.result()


async def to_its_end(future: asyncio.Future[R]) -> R:
    """Await work of another thread; a cancellation is raised only when that thread has ended.

    Its memory must not be given to somebody else while it still works on it.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return future.result()
