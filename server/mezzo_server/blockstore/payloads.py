"""What is done with the bytes of chunks: checksums, copies, encryption, in the loop or off it.

Little work is done at once, within a budget for each turn of the loop, since handing it over costs more than
doing it; the rest becomes jobs, queued for the tenant that it is for (`jobs.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mezzo.checksum import part_seed
from mezzo_server.blockstore.index import NamespaceIndex
from mezzo_server.blockstore.io import Job, Task, Workers
from mezzo_server.blockstore.jobs import JobQueue
from mezzo_server.blockstore.sealing import Sealer, Unseal, bound_to, run_seal, run_unseal, sealed_parts
from mezzo_server.blockstore.spans import by_part, copy, total
from mezzo_server.memory import Span

COPY_INLINE_BYTES = 64 << 10
"""`spans.copy` holds the interpreter lock"""
SMALL_BYTES = 256 << 10
"""What a worker needs for so much is less than what it costs to wake it, and a core that is not idle: half of what the
loop does in one turn is for such alone.  Of larger ones a worker takes some off the loop for what handing over costs."""
CIPHER_INLINE_BYTES = 64 << 10
"""Parts up to this size are encrypted in the loop: handing one over costs more."""


class Payloads:
    """The part of `Context` that works on payloads. ``tenant``: for whom; `schedule.BACKGROUND`: for nobody."""

    workers: Workers
    jobs: JobQueue
    cipher_jobs: JobQueue | None
    sealer: Sealer
    inline_left: int
    inline_small: int
    """of ``inline_left``, for small ones alone"""

    def verify(
        self,
        seed: int,
        first_part: int,
        lengths: Sequence[int],
        checksums: Sequence[int],
        spans: Sequence[Span],
        done: Callable[[bool], None],
        tenant: bytes,
    ) -> None:
        """Whether the parts in ``spans`` have these checksums: now if small, else off the loop."""

        def compare(found: list[int]) -> None:
            done(all(map(int.__eq__, found, checksums)))

        self.digest(seed, first_part, lengths, spans, compare, tenant)

    def digest(
        self,
        seed: int,
        first_part: int,
        lengths: Sequence[int],
        spans: Sequence[Span],
        done: Callable[[list[int]], None],
        tenant: bytes,
    ) -> None:
        """Checksums of the parts that lie in ``spans`` one after the other."""
        size = spans[0].length if len(spans) == 1 else total(spans)
        if self._takes(size):
            checksum = self.workers.checksum
            parts = enumerate(by_part(spans, lengths), first_part)
            done([checksum(pieces, part_seed(seed, part)) for part, pieces in parts])
            return
        found = [0] * len(lengths)
        left = len(lengths)

        def one(at: int, job: Job) -> None:
            nonlocal left
            found[at] = job.result
            left -= 1
            if not left:
                done(found)

        for at, pieces in enumerate(by_part(spans, lengths)):
            part = part_seed(seed, first_part + at)
            job = Job(Task.CHECKSUM, source=pieces, seed=part, done=partial(one, at))
            self.jobs.add(job, tenant, lengths[at])

    def copy_digest(
        self,
        seed: int,
        first_part: int,
        lengths: Sequence[int],
        target: Sequence[Span],
        source: Sequence[Span],
        done: Callable[[list[int]], None],
        tenant: bytes,
    ) -> None:
        """Copy parts, and take the checksums of what arrived: now if small, else off the loop."""
        size = 2 * total(target)  # a copy holds the loop for longer than a checksum
        parts = list(zip(by_part(target, lengths), by_part(source, lengths), strict=True))
        if self._takes(size):
            copy_checksum = self.workers.copy_checksum
            numbered = enumerate(parts, first_part)
            done([copy_checksum(pieces, to, part_seed(seed, part)) for part, (to, pieces) in numbered])
            return
        found = [0] * len(parts)
        left = len(parts)

        def one(at: int, job: Job) -> None:
            nonlocal left
            found[at] = job.result
            left -= 1
            if not left:
                done(found)

        for at, (to, pieces) in enumerate(parts):
            part = part_seed(seed, first_part + at)
            job = Job(Task.COPY_CHECKSUM, source=pieces, target=to, seed=part, done=partial(one, at))
            self.jobs.add(job, tenant, lengths[at])

    def copy(
        self, target: Sequence[Span], source: Sequence[Span], done: Callable[[], None], tenant: bytes
    ) -> None:
        """Copy: now if small, else off the loop."""
        size = total(target)
        if size <= min(self.inline_left, COPY_INLINE_BYTES):
            self.inline_left -= size
            copy(target, source)
            done()
        else:
            job = Job(Task.COPY, target=target, source=source, done=lambda job: done())
            self.jobs.add(job, tenant, size)

    def seal(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        parts: Sequence[int],
        target: Span,
        source: Sequence[Span],
        done: Callable[[int], None],
    ) -> None:
        """Encrypt the parts of a chunk, ``parts`` bytes each, one behind the other into ``target``; 0 or ``-errno``."""
        into = list(by_part([target], sealed_parts(parts)))
        ended = _all_of(len(parts), done)
        for part, pieces in enumerate(by_part(source, parts)):
            seal = self.sealer.seal(namespace.scope, key, part, len(parts))
            job = Job(Task.SEAL, source=pieces, target=into[part], done=ended, context=seal)
            queue = self._handed_over(parts[part])
            if queue is None:
                job.result = run_seal(seal, pieces, into[part])
                ended(job)
            else:
                queue.add(job, namespace.scope.tenant, parts[part])

    def unseal(
        self,
        namespace: NamespaceIndex,
        key: bytes,
        parts: tuple[int, int],
        lengths: Sequence[int],
        source: Span,
        target: Sequence[Span],
        done: Callable[[int], None],
    ) -> None:
        """Decrypt parts of a chunk that lie one behind the other in ``source``; 0, or the worst ``-errno``.

        ``parts``: number of the first, count of parts of the whole chunk; ``lengths``: of those that are
        read, bytes, decrypted.
        """
        first, count = parts
        pieces = list(by_part([source], sealed_parts(lengths)))
        ended = _all_of(len(lengths), done)
        for at, into in enumerate(by_part(target, lengths)):
            unseal = Unseal(
                self.sealer, namespace.scope.tenant, bound_to(namespace.scope, key, first + at, count)
            )
            job = Job(Task.UNSEAL, source=pieces[at], target=into, done=ended, context=unseal)
            queue = self._handed_over(lengths[at])
            if queue is None:
                job.result = run_unseal(unseal, pieces[at], into)
                ended(job)
            else:
                queue.add(job, namespace.scope.tenant, lengths[at])

    def _handed_over(self, size: int) -> JobQueue | None:
        """Who encrypts or decrypts so many bytes; None: the loop does, here and now."""
        if self.cipher_jobs is not None and size > min(CIPHER_INLINE_BYTES, self.inline_left):
            return self.cipher_jobs
        self.inline_left -= size
        return None

    def _takes(self, size: int) -> bool:
        """Whether the loop does work on so many bytes, here and now; they are taken from what it does in this turn."""
        if size > self.inline_left - (self.inline_small if size > SMALL_BYTES else 0):
            return False
        self.inline_left -= size
        return True

    def zero(self, target: Sequence[Span], done: Callable[[], None], tenant: bytes) -> None:
        """Fill with zeros, off the loop."""
        self.jobs.add(Job(Task.ZERO, target=target, done=lambda job: done()), tenant, total(target))


def _all_of(count: int, done: Callable[[int], None]) -> Callable[[Job], None]:
    """A callback for ``count`` jobs that calls ``done`` once, with the lowest of their results or 0."""
    worst = 0

    def ended(job: Job) -> None:
        nonlocal count, worst
        worst = min(worst, job.result)
        count -= 1
        if not count:
            done(worst)

    return ended
