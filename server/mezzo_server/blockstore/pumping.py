"""What moves a store: transfers and jobs are handed out, and the callbacks of what has ended are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mezzo.errors import DeviceFailed
from mezzo_server.blockstore.context import Context
from mezzo_server.blockstore.io import Device, Job, Workers
from mezzo_server.blockstore.spans import total

STEPS_PER_PUMP = 64
"""Deferred steps run in one turn; each takes some tens of microseconds."""
ROUNDS_PER_PUMP = 8
QUIET_S_MAX = 60.0
"""Opening and closing give up when nothing came back for so long."""


class Pumping:
    """The part of `BlockStore` that moves it. Owns nothing."""

    _context: Context

    def pump(self) -> int:
        """Submit what is queued and run the callbacks of what ended; how much ended.

        Ends after a bounded number of rounds: `eager` says that there is more to do at once.
        """
        context = self._context
        # Once, and none of those that these add: a slice of a long request goes on in the next turn.
        context.later.run(STEPS_PER_PUMP, context.failures.append)
        context.inline_left = context.options.inline_bytes
        moved = 0
        for _ in range(ROUNDS_PER_PUMP):
            self._submit()
            ended = 0
            for log in context.logs:
                reaped = log.device.reap()
                if not reaped:
                    continue
                now = context.now()
                nbytes = 0
                for transfer in reaped:
                    nbytes += transfer.length
                    if transfer.time is not None:
                        transfer.time.device_ended = now
                    if transfer.done is not None:
                        context.call(transfer.done, transfer)
                ended += len(reaped)
                log.schedule.ended(len(reaped), nbytes, now)
                log.pace.moved(nbytes, now)
            for queue in context.job_queues:
                jobs = queue.workers.reap()
                if not jobs:
                    continue
                ended += len(jobs)
                queue.ended(jobs, context.now())
                for job in jobs:
                    if job.done is not None:
                        context.call(job.done, job)
            if not ended:
                break
            moved += ended
        self._submit()
        if context.failures:
            raise context.failures.pop(0)
        return moved

    def run_jobs(self, jobs: Sequence[Job], tenant: bytes) -> None:
        """Work of the caller's for the workers, in its turn; `pump` calls back what has ended."""
        queue = self._context.jobs
        for job in jobs:
            queue.add(job, tenant, total(job.source) + total(job.target))

    @property
    def jobs_scheduled(self) -> int:
        """Jobs that wait for their tenant's turn before the workers are given them."""
        return sum(queue.schedule.waiting for queue in self._context.job_queues)

    def _submit(self) -> None:
        context = self._context
        for jobs in context.job_queues:
            if jobs.queue or jobs.schedule.waiting:
                jobs.submit(context.shares, context.now)
        for log in context.logs:
            if log.queue or log.schedule.waiting:
                log.submit()

    @property
    def eager(self) -> bool:
        """Whether `pump` should be called again at once, without waiting for an event."""
        context = self._context
        queued = any(jobs.queue for jobs in context.job_queues) or any(log.queue for log in context.logs)
        return bool(len(context.later) or queued)

    def _run_until(self, reached: Callable[[], bool]) -> None:
        """Pump until a condition holds. DeviceFailed if nothing moves for a minute."""
        context = self._context
        moved_at = context.now()
        while True:
            moved = self.pump()
            if reached():
                return
            if moved or self.eager:
                moved_at = context.now()
                continue
            busy: list[Device | Workers] = [log.device for log in context.logs if log.device.in_flight]
            busy.extend(workers for workers in context.all_workers if workers.in_flight)
            if not busy:
                raise DeviceFailed("the store waits for something that is not under way")
            if context.now() - moved_at >= QUIET_S_MAX:
                raise DeviceFailed(f"nothing came back from devices and workers for {QUIET_S_MAX:g} s")
            busy[0].wait(QUIET_S_MAX if len(busy) == 1 else 0.001)
