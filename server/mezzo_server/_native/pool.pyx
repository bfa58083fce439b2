# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Jobs on memory, run by threads that never meet the interpreter (threads.c), and the same at once.

A job is referenced from ``submit`` until ``reap`` returned it, so that neither it nor the memory of
its spans can be collected while a thread works on it.  After a fork the child must not use a pool; it
may drop it.
"""

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close, getpid

from mezzo.errors import Busy, InternalError, InvalidArgument

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "event.h" nogil:
    int mezzo_event_open()
    void mezzo_event_signal(int event)
    void mezzo_event_drain(int event)
    int mezzo_event_wait(int event, double timeout_s)
    double mezzo_now_s()

cdef extern from "hash.h" nogil:
    const char *mezzo_hash_variant()

cdef extern from "threads.h" nogil:
    enum:
        MEZZO_CHECKSUM
        MEZZO_COPY
        MEZZO_ZERO
        MEZZO_FD_READ
        MEZZO_FD_WRITE
        MEZZO_COPY_CHECKSUM
    cdef struct mezzo_job:
        mezzo_job *next
        void *owner
        int task
        int fd
        int64_t offset
        uint64_t seed
        iovec *source
        iovec *target
        size_t source_count
        size_t target_count
        uint64_t result
        int64_t moved
        iovec room[4]
    cdef struct mezzo_pool:
        pass
    void mezzo_job_run(mezzo_job *job)
    mezzo_pool *mezzo_pool_start(unsigned threads, int event_fd)
    void mezzo_pool_push(mezzo_pool *pool, mezzo_job *first, size_t count)
    mezzo_job *mezzo_pool_take(mezzo_pool *pool)
    void mezzo_pool_stop(mezzo_pool *pool)
    void mezzo_pool_free(mezzo_pool *pool)

cdef enum:
    ROOM = 4
    UNLOCK_BYTES = 32768  # below, giving the interpreter lock away and back costs more than the work

HASH_VARIANT = mezzo_hash_variant().decode()


cdef int64_t fill(iovec *pieces, object spans) except -1:
    """Addresses of ``spans``, checked to lie in their memory; their total length."""
    cdef int64_t offset, length, memory_length, total = 0
    cdef size_t at = 0
    for span in spans:
        memory = span[0]
        offset = span[1]
        length = span[2]
        memory_length = memory.length
        if offset < 0 or length < 0 or offset > memory_length - length:
            raise InvalidArgument(f"span {offset}+{length} is outside of {memory_length} bytes of memory")
        pieces[at].iov_base = <void *> (<uint64_t> memory.address + <uint64_t> offset)
        pieces[at].iov_len = length
        total += length
        at += 1
    return total


cdef int64_t set_up(mezzo_job *job, int task, object source, object target) except -1:
    """Fill in a job; bytes that it works on. What it allocates is freed by ``clear``."""
    cdef size_t source_count = len(source)
    cdef size_t target_count = len(target)
    cdef int64_t from_bytes, to_bytes
    cdef iovec *pieces = job.room
    job.next = NULL
    job.owner = NULL
    job.task = task
    job.result = 0
    job.moved = 0
    job.source = NULL
    if source_count + target_count > ROOM:
        pieces = <iovec *> malloc((source_count + target_count) * sizeof(iovec))
        if pieces is NULL:
            raise MemoryError
    job.source = pieces
    job.target = pieces + source_count
    job.source_count = source_count
    job.target_count = target_count
    try:
        from_bytes = fill(job.source, source)
        to_bytes = fill(job.target, target)
        if task < MEZZO_CHECKSUM or task > MEZZO_COPY_CHECKSUM:
            raise InvalidArgument(f"unknown task {task}")
        if task in (MEZZO_COPY, MEZZO_COPY_CHECKSUM) and from_bytes != to_bytes:
            raise InvalidArgument(f"copy of {from_bytes} bytes into {to_bytes}")
    except BaseException:
        clear(job)
        raise
    return from_bytes + to_bytes


cdef void clear(mezzo_job *job) noexcept nogil:
    if job.source is not job.room:
        free(job.source)
    job.source = job.room


cdef run_now(mezzo_job *job, int64_t total):
    if total < UNLOCK_BYTES:
        mezzo_job_run(job)
    else:
        with nogil:
            mezzo_job_run(job)
    clear(job)


def checksum(source, uint64_t seed):
    """XXH3-64 with ``seed`` of the spans ``source`` in order."""
    cdef mezzo_job job
    cdef int64_t total = set_up(&job, MEZZO_CHECKSUM, source, ())
    job.seed = seed
    run_now(&job, total)
    return job.result


def copy(source, target):
    """Copy between two lists of spans of equal totals, split in any way; they do not overlap."""
    cdef mezzo_job job
    cdef int64_t total = set_up(&job, MEZZO_COPY, source, target)
    run_now(&job, total)


def copy_checksum(source, target, uint64_t seed):
    """Copy as `copy` does; XXH3-64 with ``seed`` of the bytes as they are in ``target``."""
    cdef mezzo_job job
    cdef int64_t total = set_up(&job, MEZZO_COPY_CHECKSUM, source, target)
    job.seed = seed
    run_now(&job, total)
    return job.result


def zero(target):
    """Fill the spans ``target`` with zeros."""
    cdef mezzo_job job
    cdef int64_t total = set_up(&job, MEZZO_ZERO, (), target)
    run_now(&job, total)


cdef class Pool:
    """``threads`` threads that run at most ``jobs_max`` jobs; OSError if they cannot be started."""

    cdef mezzo_pool *pool
    cdef int event
    cdef int process
    cdef readonly unsigned threads
    cdef readonly uint64_t jobs_max
    cdef uint64_t owned       # jobs not reaped yet
    cdef mezzo_job *ended     # taken from the pool, not yet reaped
    cdef mezzo_job *ended_tail

    def __cinit__(self, unsigned threads, *, uint64_t jobs_max):
        self.event = -1
        if threads < 1 or threads > 256:
            raise InvalidArgument(f"{threads} threads are not in 1..256")
        self.threads = threads
        self.jobs_max = jobs_max
        self.process = getpid()
        self.event = mezzo_event_open()
        if self.event < 0:
            PyErr_SetFromErrno(OSError)
        self.pool = mezzo_pool_start(threads, self.event)
        if self.pool is NULL:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        self._end()
        cdef mezzo_job *job
        while self.ended is not NULL:
            job = self.ended
            self.ended = job.next
            self._forget(job)

    cdef void _end(self) noexcept:
        cdef mezzo_pool *pool = self.pool
        self.pool = NULL
        if pool is not NULL:
            # In a forked child there are no threads to end, and whatever they held is undefined.
            if self.process == getpid():
                with nogil:
                    mezzo_pool_stop(pool)
                self._collect(pool)
                mezzo_pool_free(pool)
        if self.event >= 0:
            close(self.event)
            self.event = -1

    @property
    def event_fd(self):
        """Readable when ``reap`` has something."""
        return self.event

    @property
    def in_flight(self):
        """Jobs submitted and not reaped."""
        return self.owned

    def submit(self, jobs):
        """Begin all of them, or none: InvalidArgument for the first that is out of order."""
        cdef mezzo_job *head = NULL
        cdef mezzo_job *tail = NULL
        cdef mezzo_job *job
        cdef size_t count = len(jobs)
        self._check_open()
        if self.owned + count > self.jobs_max:
            raise Busy(f"{self.owned} jobs in flight; at most {self.jobs_max}")
        try:
            for item in jobs:
                job = self._parse(item)
                if tail is NULL:
                    head = job
                else:
                    tail.next = job
                tail = job
        except BaseException:
            while head is not NULL:
                job = head
                head = job.next
                self._forget(job)
            raise
        if head is NULL:
            return
        self.owned += count
        with nogil:
            mezzo_pool_push(self.pool, head, count)

    cdef mezzo_job *_parse(self, object item) except NULL:
        cdef mezzo_job *job = <mezzo_job *> malloc(sizeof(mezzo_job))
        if job is NULL:
            raise MemoryError
        try:
            set_up(job, item.task, item.source, item.target)
        except BaseException:
            free(job)
            raise
        try:
            job.seed = item.seed
            job.fd = item.fd
            job.offset = item.offset
            if job.task in (MEZZO_FD_READ, MEZZO_FD_WRITE) and (job.fd < 0 or job.offset < 0):
                raise InvalidArgument(f"{item.task!r} on descriptor {job.fd} at {job.offset}")
        except BaseException:
            clear(job)
            free(job)
            raise
        Py_INCREF(item)
        job.owner = <void *> item
        return job

    cdef void _forget(self, mezzo_job *job) noexcept:
        cdef void *owner = job.owner
        clear(job)
        free(job)
        Py_DECREF(<object> owner)

    cdef void _collect(self, mezzo_pool *pool) noexcept:
        """Move what ended from the pool to ``ended``."""
        cdef mezzo_job *job = mezzo_pool_take(pool)
        if job is NULL:
            return
        if self.ended is NULL:
            self.ended = job
        else:
            self.ended_tail.next = job
        while job.next is not NULL:
            job = job.next
        self.ended_tail = job

    def reap(self):
        """The jobs that ended since, ``result`` set."""
        cdef mezzo_job *job
        cdef list jobs = []
        if self.pool is not NULL:
            mezzo_event_drain(self.event)
            self._collect(self.pool)
        while self.ended is not NULL:
            job = self.ended
            self.ended = job.next
            item = <object> job.owner
            if job.task in (MEZZO_CHECKSUM, MEZZO_COPY_CHECKSUM):
                item.result = job.result
            else:
                item.result = job.moved
            jobs.append(item)
            self._forget(job)
            self.owned -= 1
        return jobs

    def wait(self, timeout_s=None):
        """Block until ``reap`` would return something, nothing is in flight, or the timeout."""
        cdef double until = -1 if timeout_s is None else mezzo_now_s() + timeout_s
        cdef double left = -1
        cdef int code
        while self.pool is not NULL:
            mezzo_event_drain(self.event)
            self._collect(self.pool)
            if self.ended is not NULL:
                mezzo_event_signal(self.event)  # it was drained, and reap has something
                return
            if until >= 0:
                left = until - mezzo_now_s()
            if self.owned == 0 or (until >= 0 and left <= 0):
                return
            with nogil:
                code = mezzo_event_wait(self.event, left)
            if code < 0:
                PyErr_CheckSignals()

    def close(self):
        """Let what is in flight end (it may still be reaped), and end the threads."""
        self._end()

    cdef int _check_open(self) except -1:
        if self.pool is NULL:
            raise InternalError("the pool is closed")
        if self.process != getpid():
            raise InternalError("a pool does not live on in a forked child")
        return 0
