"""How the asynchronous client performs its calls; see `mezzo.performing`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from mezzo.async_opening import AnyLink, AsyncOpening, to_its_end
from mezzo.asyncio_link import AsyncioLink
from mezzo.base import copy_bytes
from mezzo.calls import Call, CatchUp, Connect, Copy, Follow, Pause, Run, Stage, Step, Together
from mezzo.driving import drive_async
from mezzo.errors import (
    ClientClosed,
    DeadlineExceeded,
    MezzoError,
    Unavailable,
)
from mezzo.pod import KnownPod
from mezzo.pod_link import MET_MAX, Ways, hello, not_met
from mezzo.reaching import ToShard
from mezzo.staging import Piece, StagingRequest

T = TypeVar("T")

_COPY_INLINE_BYTES_MAX = 1024 * 1024  # what is larger is copied in the loop's executor


class AsyncPerforming(AsyncOpening):
    """Performs the steps of calls, in one event loop."""

    async def _perform(self, call: Call[T], timeout_s: float | None, deadline_s: float | None = None) -> T:
        """Run a call: perform its steps and tell it how they went."""
        self._check_usable()
        self._bind()
        deadline = self._deadline(timeout_s, deadline_s)
        return await drive_async(call, self._take, deadline)

    async def _take(self, step: Step, deadline: float, grace_s: float | None = None) -> object:
        """Perform a step; ``grace_s``: other than the client's own."""
        if type(step) is Connect:
            link = self._link
            if link is not None and link.session.failure is None and not self._tickets.due:
                return link
            return await self._connected(deadline)
        if type(step) is Run:
            runner: Any = step.link
            if type(runner) is not AsyncioLink and not getattr(runner, "asynchronous", False):
                raise TypeError("this lease belongs to another kind of client")
            try:
                await runner.run(
                    step.operations, deadline, self.cancel_grace_s if grace_s is None else grace_s
                )
            except MezzoError as error:
                raise self._run_failed(runner, error) from None
            return None
        if isinstance(step, Stage):
            return await self._stage(step.length, deadline)
        if isinstance(step, Copy):
            await self._copy(step)
            return None
        if isinstance(step, Together):
            pod_link: Any = step.link
            if not isinstance(pod_link, AsyncPodLink):
                raise TypeError("this lease belongs to another kind of client")
            return await pod_link.together(step.parts, *pod_link.in_time(deadline, self.cancel_grace_s))
        if isinstance(step, Follow | CatchUp):
            opens, limit = self._about_map(step, deadline)
            await drive_async(opens, self._make, limit)
            over: Any = step.link
            over.end_leavers()
        if isinstance(step, Pause):
            left_s = deadline - self._surroundings.now()
            await asyncio.sleep(max(0.0, min(step.seconds, left_s / 2)))
        return None

    async def _stage(self, length: int, deadline: float) -> Piece:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ready(request: StagingRequest) -> None:
            if not arrived.done():
                arrived.set_result(None)

        request = self._staging.request(length, ready)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._surroundings.now())):
                await arrived
            if request.piece is None:
                raise request.error or Unavailable("no staging memory")
        except TimeoutError:
            self._staging.cancel(request)
            raise DeadlineExceeded("no staging memory within the time of the call (staging_bytes)") from None
        except BaseException:
            self._staging.cancel(request)
            raise
        return request.piece

    async def _copy(self, step: Copy) -> None:
        def copy() -> None:
            for targets, sources in step.moves:
                copy_bytes(targets, sources)

        if sum(len(view) for _, sources in step.moves for view in sources) <= _COPY_INLINE_BYTES_MAX:
            copy()
        else:
            await to_its_end(asyncio.get_running_loop().run_in_executor(None, copy))

    async def _open_pod(self, pod: KnownPod, deadline: float) -> AsyncPodLink:
        # The ways must not keep the client, which ends them when nobody uses it any more.
        outfit = self._outfit

        def make(shard: bytes) -> AsyncShardWay:
            return AsyncShardWay(outfit, pod, shard)

        link = AsyncPodLink(pod, make, self._surroundings, self._counters, str(self.address))
        try:
            await link.meet(deadline)
        except BaseException:
            link.end(ClientClosed("no shard was reached"))
            raise
        return link


class AsyncShardWay(ToShard, AsyncPerforming):
    """The asynchronous client's way to one shard of its pod. Owned by the `AsyncPodLink`."""

    _attempt: asyncio.Task[AnyLink] | None = None

    async def perform(self, call: Call[T], deadline: float, grace_s: float) -> T:
        """One call of this shard."""

        async def take(step: Step, deadline: float) -> object:
            return await self._take(step, deadline, grace_s)

        return await drive_async(call, take, deadline)

    async def _connected(self, deadline: float) -> AnyLink:
        """As for a client; but a call does not wait for long where no connection was to be had lately."""
        link = self._link
        if link is not None and link.session.failure is None:
            return await super()._connected(deadline)
        self._check_usable()
        if self._attempt is None:
            self._check_backoff()
            now = self._surroundings.now
            limit = now() + self.connect_timeout_s
            self._attempt = self._bind().create_task(super()._connected(limit))
            self._attempt.add_done_callback(self._attempted)
        attempt = self._attempt
        left_s = deadline - self._surroundings.now()
        waits_s = min(left_s, self.patience_s)
        # The task is shared: whoever gives up waiting for it leaves it to the others.
        done, _ = await asyncio.wait((attempt,), timeout=max(0.0, waits_s))
        if not done:
            raise self._not_connected(left_s, waits_s)
        if attempt.cancelled():
            raise self._ending()
        return attempt.result()

    def _attempted(self, task: asyncio.Task[AnyLink]) -> None:
        self._attempt = None
        if not task.cancelled():
            task.exception()  # it is heard by who waits for it, if anybody still does

    def tasks(self) -> list[asyncio.Task[Any]]:
        """What is under way besides the calls."""
        return [task for task in (self._attempt, self._renewing) if task is not None]

    def end(self, error: MezzoError) -> None:
        """See `ToShard.end`."""
        self._closed = True
        for task in self.tasks():
            task.cancel()
        super().end(error)

    def end_from_anywhere(self, error: MezzoError) -> None:
        """As `end`, from any thread and whether or not the loop still runs."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.end_from_anywhere(error)


class AsyncPodLink(Ways[AsyncShardWay]):
    """For an event loop; see `mezzo.pod_link.PodLink`."""

    asynchronous = True
    """which kind of client it belongs to"""

    async def together(
        self, parts: Sequence[tuple[bytes, Call[Any]]], deadline: float, grace_s: float
    ) -> list[Any]:
        """See `calls.Together`; what has no answer at ``deadline`` is given up within ``grace_s``."""

        async def outcome(shard: bytes, call: Call[Any]) -> Any:
            try:
                return await self._way(shard).perform(call, deadline, grace_s)
            except MezzoError as error:
                return error

        if len(parts) == 1:
            return [await outcome(*parts[0])]
        tasks = [asyncio.create_task(outcome(*part)) for part in parts]
        try:
            await asyncio.wait(tasks)
        finally:
            await _ended(tasks)
        return [task.result() for task in tasks]

    async def meet(self, deadline: float) -> None:
        """Have one of the shards answer, who all know the ids of a namespace. Raises MezzoError: none does."""
        shards = self._strangers()
        errors: list[MezzoError] = []
        for start in range(0, len(shards), MET_MAX):
            asked = shards[start : start + MET_MAX]
            tasks = [asyncio.create_task(self._way(shard).perform(hello(), deadline, 0.0)) for shard in asked]
            left = set(tasks)
            try:
                while left:
                    done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                    for task in [task for task in tasks if task in done]:
                        error = task.exception()
                        if error is None:
                            return
                        if not isinstance(error, MezzoError):
                            raise error
                        errors.append(error)
            finally:
                await _ended(tasks)
        raise not_met(errors)

    async def close(self, error: MezzoError) -> None:
        """As `end`, and wait until nothing is under way any more."""
        tasks = [task for way in self._each() for task in way.tasks()]
        self.end(error)
        if tasks:
            await asyncio.wait(tasks)

    def end_from_anywhere(self, error: MezzoError) -> None:
        """As `end`, from any thread and whether or not the loop still runs."""
        for way in self._close(error):
            way.end_from_anywhere(error)


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """See to it that all have ended, whatever ended the wait for them: their memory is their callers' again."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while any(not task.done() for task in left):
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled is not None:
        raise cancelled
