"""Jobs on their way to worker threads: which of them the threads have, and which wait for their tenant's turn.

Threads take what they were given in the order in which it came, so they get only as much as they do in one
device-queue time, and what is over that waits in a `Schedule`, as transfers wait for a device.  Of the order
of jobs nothing may be concluded: the store relies on completions alone.
"""

from __future__ import annotations

from collections.abc import Callable

from mezzo_server.blockstore.io import Job, Workers
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.blockstore.schedule import TRANSFER_COST_BYTES, Schedule
from mezzo_server.blockstore.shares import Shares

RATE_START = 1e9
"""Bytes a second of threads of which nothing is known yet: less than any memory, but enough to keep all busy."""


class JobQueue:
    """The jobs of some workers. Owner: `Context`."""

    def __init__(self, workers: Workers, options: StoreOptions, now: float) -> None:
        self.workers = workers
        self.schedule: Schedule[Job] = Schedule(
            options.device_queue_s, options.background_share, now, rate=RATE_START
        )
        self.queue: list[Job] = []
        """what came since the last `submit`"""
        self._cost = 0
        """of that"""

    def add(self, job: Job, tenant: bytes, length: int) -> None:
        """Queue a job on so many bytes for ``tenant``; the next `submit` looks at it."""
        job.tenant, job.length = tenant, length
        self.queue.append(job)
        self._cost += TRANSFER_COST_BYTES + length

    def submit(self, shares: Shares, now: Callable[[], float]) -> None:
        """Give the threads what they should have now, of what came and of what waits."""
        queue, self.queue = self.queue, []
        cost, self._cost = self._cost, 0
        if self.schedule.passes(cost):
            # The usual case, and on the way of every request: nobody waits, and the threads take it all.
            self.workers.submit(queue)
            return
        given = self.schedule.next(queue, shares, now())
        if given:
            self.workers.submit(given)

    def ended(self, jobs: list[Job], now: float) -> None:
        """The threads have ended these."""
        nbytes = jobs[0].length if len(jobs) == 1 else sum([job.length for job in jobs])
        self.schedule.ended(len(jobs), nbytes, now)
