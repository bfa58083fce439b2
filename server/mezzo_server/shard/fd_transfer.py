"""Get and put through a region that may not be mapped: device, staging, pread and pwrite by workers.

A file that can shrink must never be touched through a mapping (SIGBUS).  Here a file that shrank is
a short transfer, which fails that request and nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from mezzo.errors import MezzoError, RegionError, TooLarge
from mezzo.protocol.messages import Get, Put
from mezzo_server.blockstore.api import GetChunk, GetOutcome, PutOutcome
from mezzo_server.blockstore.io import Job, Task
from mezzo_server.memory import Span
from mezzo_server.shard.regions import Region
from mezzo_server.shard.shm_transfer import ShmGet, ShmPut, check_source, count_stored

if TYPE_CHECKING:
    from mezzo_server.shard.session import Session


class FdGet(ShmGet):
    """A get into a region that is reached through its descriptor. One chunk at a time is staged
    for each piece of the connection's staging that is free.
    """

    __slots__ = ()

    slice_keys_max = 1

    def __init__(self, session: Session, request_id: int, body: Get, region: Region) -> None:
        super().__init__(session, request_id, body, region)

    def begin_slice(self, first: int, last: int, nbytes: int) -> None:
        """Stage one chunk."""
        service, session = self.session.service, self.session
        pairs = self.place.pairs(self.extents[first])
        info = service.store.info(session.scope, self.keys[first])
        if info is None:
            self.slice_ended(nbytes)
            return
        last_part = self.first_part + self.part_count if self.part_count else len(info.parts)
        length = sum(info.parts[self.first_part : last_part])
        if length > nbytes:
            raise TooLarge(f"a chunk of {length} bytes does not fit its extents of {nbytes}")
        if length == 0:
            self.slice_ended(nbytes)
            return

        def staged(span: Span) -> None:
            try:
                service.get(
                    session.scope,
                    [GetChunk(self.keys[first], (span,))],
                    lambda outcome: self._read(first, nbytes, pairs, span, outcome),
                    first_part=self.first_part,
                    part_count=self.part_count,
                    time=self,
                )
            except MezzoError as error:
                session.share.give(span)
                # Put anew and longer while we waited: as if it had come after us.
                self.slice_ended(nbytes, None if isinstance(error, TooLarge) else error)

        self.stage(length, nbytes, staged)

    def _read(
        self, index: int, nbytes: int, pairs: list[tuple[int, int]], span: Span, outcome: GetOutcome
    ) -> None:
        length = outcome.lengths[0]
        if length <= 0 or self.cancelled:
            self.session.share.give(span)
            self.slice_ended(nbytes)
            return
        region = self.place
        if region.is_truncated():
            self.session.share.give(span)
            self.slice_ended(nbytes, _truncated(region))
            return

        def ended(error: MezzoError | None) -> None:
            self.session.share.give(span)
            if error is None:
                self.lengths[index] = length
            self.slice_ended(nbytes, error)

        transfer(self.session, Task.FD_WRITE, region, pairs, span.part(0, length), ended)


class FdPut(ShmPut):
    """A put out of a region that is reached through its descriptor."""

    __slots__ = ()

    slice_keys_max = 1

    def __init__(self, session: Session, request_id: int, body: Put, region: Region) -> None:
        super().__init__(session, request_id, body, region)

    def begin_slice(self, first: int, last: int, nbytes: int) -> None:
        """Stage one chunk."""
        session = self.session
        region = self.place
        pairs = region.pairs(self.extents[first])
        check_source(nbytes, self.parts[first])

        def staged(span: Span) -> None:
            transfer(session, Task.FD_READ, region, pairs, span, lambda error: read(span, error))

        def read(span: Span, error: MezzoError | None) -> None:
            if error is not None or self.cancelled:
                session.share.give(span)
                self.slice_ended(nbytes, error)
                return
            chunk = self.chunk(first, (span,))

            def done(outcome: PutOutcome) -> None:
                session.share.give(span)
                self.statuses[first] = outcome.statuses[0]
                count_stored(session, "shm", [chunk], outcome)
                self.put_error = self.put_error or outcome.error
                self.slice_ended(nbytes)

            try:
                service = session.service
                service.put(session.scope, [chunk], done, deadline=self.deadline, time=self)
            except MezzoError as refused:
                session.share.give(span)
                self.slice_ended(nbytes, refused)

        self.stage(nbytes, nbytes, staged)


def transfer(
    session: Session,
    task: Task,
    region: Region,
    pairs: list[tuple[int, int]],
    span: Span,
    ended: Callable[[MezzoError | None], None],
) -> None:
    """Move ``span`` from or to (offset, length) pairs of the region's file, then call ``ended``."""
    left = 0
    error: MezzoError | None = None

    def done(job: Job) -> None:
        nonlocal left, error
        wanted = job.context
        if job.result != wanted and error is None:
            error = _truncated(region) if job.result >= 0 else _failed(region, -job.result)
        left -= 1
        if left == 0:
            ended(error)

    jobs = []
    at = 0
    for offset, room in pairs:
        length = min(room, span.length - at)
        if length <= 0:
            break
        piece = (span.part(at, length),)
        at += length
        if task is Task.FD_READ:
            job = Job(task, target=piece, fd=region.fd, offset=offset, done=done, context=length)
        else:
            job = Job(task, source=piece, fd=region.fd, offset=offset, done=done, context=length)
        jobs.append(job)
    left = len(jobs)
    session.service.run_jobs(jobs, session.scope.tenant)


def _truncated(region: Region) -> RegionError:
    return RegionError(f"the file of region {region.number} was truncated")


def _failed(region: Region, number: int) -> RegionError:
    return RegionError(f"region {region.number} cannot be reached: {errno.errorcode.get(number, number)}")
