# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""One io_uring for one descriptor, submitted to and reaped in batches.

Invariants: no more requests are in the kernel than the ring has entries (and the completion queue
has twice as many), so that it never overflows; a request's iovecs live until its last completion;
the transfer of a request is referenced from ``submit`` until ``reap`` returned it, so that neither it
nor the memory of its spans can be collected meanwhile.

A ring belongs to one thread at a time.  After a fork the child must not use it.
"""

from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EBUSY, EINTR, EINVAL, EIO, ENOSYS, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.unistd cimport close

import os

from mezzo.errors import Busy, DeviceFailed, InvalidArgument

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "sys/mman.h" nogil:
    int madvise(void *address, size_t length, int advice)

cdef extern from "event.h" nogil:
    int mezzo_event_open()
    void mezzo_event_signal(int event)
    void mezzo_event_drain(int event)
    int mezzo_event_wait(int event, double timeout_s)
    double mezzo_now_s()

cdef extern from "liburing.h" nogil:
    cdef struct io_uring_sqe:
        unsigned char flags
        uint64_t user_data
    cdef struct io_uring_cqe:
        uint64_t user_data
        int res
    cdef struct io_sq_ring "io_uring_sq":
        unsigned *kflags
    cdef struct io_uring:
        io_sq_ring sq
        unsigned features
    cdef struct io_uring_params:
        unsigned flags
    int io_uring_queue_init_params(unsigned entries, io_uring *ring, io_uring_params *params)
    void io_uring_queue_exit(io_uring *ring)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    int io_uring_submit(io_uring *ring)
    int io_uring_get_events(io_uring *ring)
    unsigned io_uring_sq_ready(const io_uring *ring)
    unsigned io_uring_peek_batch_cqe(io_uring *ring, io_uring_cqe **cqes, unsigned count)
    void io_uring_cq_advance(io_uring *ring, unsigned count)
    void io_uring_prep_readv(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned count, uint64_t offset)
    void io_uring_prep_writev(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned count, uint64_t offset)
    void io_uring_prep_read(io_uring_sqe *sqe, int fd, void *buffer, unsigned count, uint64_t offset)
    void io_uring_prep_write(io_uring_sqe *sqe, int fd, const void *buffer, unsigned count, uint64_t offset)
    void io_uring_prep_read_fixed(
        io_uring_sqe *sqe, int fd, void *buffer, unsigned count, uint64_t offset, int index)
    void io_uring_prep_write_fixed(
        io_uring_sqe *sqe, int fd, const void *buffer, unsigned count, uint64_t offset, int index)
    void io_uring_prep_fsync(io_uring_sqe *sqe, int fd, unsigned flags)
    void io_uring_sqe_set_data(io_uring_sqe *sqe, void *data)
    int io_uring_register_files(io_uring *ring, const int *files, unsigned count)
    int io_uring_unregister_files(io_uring *ring)
    int io_uring_register_eventfd(io_uring *ring, int fd)
    int io_uring_register_buffers_sparse(io_uring *ring, unsigned count)
    int io_uring_register_buffers_tags(
        io_uring *ring, const iovec *iovs, const uint64_t *tags, unsigned count)
    int io_uring_register_buffers_update_tag(
        io_uring *ring, unsigned first, const iovec *iovs, const uint64_t *tags, unsigned count)
    unsigned IORING_FSYNC_DATASYNC
    unsigned IOSQE_FIXED_FILE
    unsigned IOSQE_ASYNC
    unsigned IORING_SETUP_CLAMP
    unsigned IORING_SETUP_SUBMIT_ALL
    unsigned IORING_SETUP_COOP_TASKRUN
    unsigned IORING_SETUP_TASKRUN_FLAG
    unsigned IORING_SQ_TASKRUN
    unsigned IORING_SQ_CQ_OVERFLOW
    unsigned IORING_FEAT_NODROP
    unsigned IORING_FEAT_SUBMIT_STABLE

cdef enum:
    OP_READ = 0
    OP_WRITE = 1
    OP_FLUSH = 2
    INLINE_SPANS = 6
    IOVS_MAX = 1024            # IOV_MAX: what one readv or writev takes
    RETRIES_MAX = 64           # EINTR and EAGAIN of one transfer; the later ones go to a kernel worker
    SUBMIT_FAILURES_MAX = 4096 # io_uring_enter in a row, with nothing in flight that could help
    CQE_BATCH = 64
    TABLE_SLOTS = 4096
    BUFFER_BYTES = 1 << 24
    POPULATE_WRITE = 23        # MADV_POPULATE_WRITE, which older headers lack

BUFFER_SLOTS = TABLE_SLOTS
"""Buffers that a ring's table has room for."""

SLICE_BYTES = BUFFER_BYTES
"""Length of one registered buffer: pinning it holds the ring for about a millisecond."""

cdef uint64_t MOVE_BYTES_MAX = 0x7ffff000      # MAX_RW_COUNT: what one request moves at most

cdef struct Request:
    PyObject *transfer
    Request *next
    iovec *iov                 # what is left to move; cut in place as it goes
    int iov_count
    int iov_first
    int op
    int buffer_index           # -1: not in a registered buffer
    int retries
    bint asynchronous          # IOSQE_ASYNC: straight to a kernel worker
    uint64_t offset            # on the device, of what is left
    int64_t left
    int64_t result
    iovec inline_iov[INLINE_SPANS]
    iovec *heap_iov

cdef struct RequestList:
    Request *head
    Request *tail

cdef inline void push(RequestList *where, Request *request) noexcept nogil:
    request.next = NULL
    if where.tail is NULL:
        where.head = request
    else:
        where.tail.next = request
    where.tail = request

cdef inline Request *pop(RequestList *where) noexcept nogil:
    cdef Request *request = where.head
    if request is not NULL:
        where.head = request.next
        if where.head is NULL:
            where.tail = NULL
    return request

cdef int set_up(io_uring *ring, unsigned entries, object flags_used) except *:
    """Make the ring with the best set of flags that this kernel takes; ``-errno`` if none."""
    cdef io_uring_params params
    cdef int code = 0
    # Completions wait until this thread enters the kernel (5.19) instead of interrupting it, and a
    # batch goes on past a request that cannot begin (5.18). SINGLE_ISSUER with DEFER_TASKRUN was
    # within 3 % of this with an eventfd (docs/devices.md), and would tie the ring to one thread.
    for flags in (
        IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL,
        IORING_SETUP_CLAMP,
    ):
        memset(&params, 0, sizeof(params))
        params.flags = flags
        code = io_uring_queue_init_params(entries, ring, &params)
        if code == 0:
            flags_used.append(flags)
            return 0
        if code != -EINVAL:  # EINVAL: a flag that this kernel does not know
            return code
    return code


def probe():
    """``(0, features)`` if a ring can be made here, else ``(errno, 0)``."""
    cdef io_uring ring
    flags = []
    cdef int code = set_up(&ring, 4, flags)
    if code < 0:
        return -code, 0
    features = ring.features
    io_uring_queue_exit(&ring)
    return 0, features


cdef class Ring:
    """A ring of ``depth`` entries over descriptor ``fd``; OSError if there can be none.

    ``block_bytes`` and ``memory_align_bytes`` are what transfers must be aligned to, ``size_bytes`` is
    where the device ends, ``pinned_bytes_max`` bounds the registered memory.  ``asynchronous`` sends
    everything to kernel workers, for descriptors that would copy within the submitting call.
    ``move_bytes_max`` cuts longer one-span transfers into several requests.
    """

    cdef io_uring ring
    cdef bint ready
    cdef int event
    cdef readonly unsigned depth
    cdef readonly unsigned setup_flags
    cdef readonly unsigned features
    cdef readonly bint fixed_file
    cdef readonly bint fixed_buffers
    cdef readonly uint64_t size_bytes
    cdef readonly uint64_t block_bytes
    cdef readonly uint64_t memory_align_bytes
    cdef readonly uint64_t transfers_max
    cdef readonly uint64_t retried
    cdef readonly uint64_t fixed_transfers
    cdef readonly uint64_t move_bytes_max
    cdef bint asynchronous
    cdef int fd
    cdef unsigned in_kernel
    cdef uint64_t owned        # transfers not reaped yet
    cdef int submit_failures
    cdef RequestList waiting
    cdef RequestList ended
    cdef Request *spare
    cdef int spare_count
    cdef dict buffers

    def __cinit__(
        self,
        int fd,
        unsigned depth,
        *,
        uint64_t size_bytes,
        uint64_t block_bytes,
        uint64_t memory_align_bytes,
        uint64_t transfers_max,
        bint asynchronous=False,
        uint64_t move_bytes_max=MOVE_BYTES_MAX,
    ):
        self.event = -1
        self.ready = False
        self.fd = fd
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes
        self.memory_align_bytes = memory_align_bytes
        self.transfers_max = transfers_max
        self.asynchronous = asynchronous
        self.move_bytes_max = min(move_bytes_max, MOVE_BYTES_MAX)
        self.buffers = {}
        if depth < 1 or depth > 4096:
            raise InvalidArgument(f"ring depth {depth} is not in 1..4096")
        if block_bytes < 1 or memory_align_bytes < 1:
            raise InvalidArgument("alignments are at least 1")
        flags = []
        cdef int code = set_up(&self.ring, depth, flags)
        if code < 0:
            raise OSError(-code, os.strerror(-code))
        self.ready = True
        self.setup_flags = flags[0]
        self.features = self.ring.features
        self.depth = depth
        if not (self.features & IORING_FEAT_NODROP and self.features & IORING_FEAT_SUBMIT_STABLE):
            self._exit()
            raise OSError(ENOSYS, "this io_uring is older than Linux 5.5")
        self.event = mezzo_event_open()
        if self.event >= 0:
            code = io_uring_register_eventfd(&self.ring, self.event)
        if self.event < 0 or code < 0:
            code = errno if self.event < 0 else -code
            self._exit()
            raise OSError(code, os.strerror(code))
        self.fixed_file = io_uring_register_files(&self.ring, &self.fd, 1) == 0
        self._make_buffer_table()

    def grow(self, uint64_t size_bytes):
        """The device ends later: transfers up to there are in range from now on."""
        if size_bytes < self.size_bytes:
            raise InvalidArgument(f"a ring over {self.size_bytes} bytes cannot shrink to {size_bytes}")
        self.size_bytes = size_bytes

    def __dealloc__(self):
        # Whoever drops a ring without closing it leaks the requests that are in flight, and thereby
        # the memory that the kernel may still move bytes into: on purpose.
        self._exit()
        cdef Request *request
        while self.spare is not NULL:
            request = self.spare
            self.spare = request.next
            free(request)

    cdef void _exit(self) noexcept:
        if self.ready:
            self.ready = False
            # The kernel takes a ring apart at its leisure; the descriptor, and with it a block
            # device's O_EXCL, is to be free at once.
            if self.fixed_file:
                io_uring_unregister_files(&self.ring)
            io_uring_queue_exit(&self.ring)
        if self.event >= 0:
            close(self.event)
            self.event = -1

    cdef int _make_buffer_table(self) except -1:
        cdef iovec *empty
        cdef int code = io_uring_register_buffers_sparse(&self.ring, TABLE_SLOTS)
        if code < 0:
            # Before 5.19 there is no sparse flag, but empty buffers do the same since 5.13.
            empty = <iovec *> calloc(TABLE_SLOTS, sizeof(iovec))
            if empty is NULL:
                raise MemoryError
            code = io_uring_register_buffers_tags(&self.ring, empty, NULL, TABLE_SLOTS)
            free(empty)
        self.fixed_buffers = code == 0
        return 0

    @property
    def event_fd(self):
        """Readable when ``reap`` has something."""
        return self.event

    @property
    def in_flight(self):
        """Transfers submitted and not reaped."""
        return self.owned

    # -- memory: called by the pinning thread too, beside submit and reap --------------------------

    def populate(self, uint64_t address, uint64_t length):
        """Have the pages there (5.14), without the ring being held meanwhile. A hint: never fails."""
        with nogil:
            madvise(<void *> address, length, POPULATE_WRITE)

    def pin(self, int slot, uint64_t address, uint64_t length):
        """Make a range the table's buffer number ``slot``; 0 or ``-errno``. Holds the ring."""
        cdef iovec iov
        cdef int code
        self._check_open()
        iov.iov_base = <void *> address
        iov.iov_len = length
        with nogil:
            code = io_uring_register_buffers_update_tag(&self.ring, slot, &iov, NULL, 1)
        return min(code, 0)

    def unpin(self, int slot):
        """Let a buffer go, once the transfers that use it have ended."""
        self.pin(slot, 0, 0)

    def publish(self, memory, int first_slot, int ready):
        """From now on the first ``ready`` slices of ``memory`` are the buffers from ``first_slot`` on."""
        if ready:
            self.buffers[memory] = (first_slot, ready)
        else:
            self.buffers.pop(memory, None)

    # -- submission --------------------------------------------------------------------------------

    def submit(self, transfers):
        """Begin all of them, or none: InvalidArgument for the first that is out of order."""
        cdef RequestList batch
        cdef Request *request
        cdef uint64_t count = len(transfers)
        cdef bint over = False
        self._check_open()
        if self.owned + count > self.transfers_max:
            raise Busy(f"{self.owned} transfers in flight; at most {self.transfers_max}")
        batch.head = batch.tail = NULL
        try:
            for transfer in transfers:
                push(&batch, self._parse(transfer))
        except BaseException:
            while batch.head is not NULL:
                self._forget(pop(&batch))
            raise
        self.owned += count
        with nogil:
            while batch.head is not NULL:
                request = pop(&batch)
                if request.op != OP_FLUSH and request.offset + request.left > self.size_bytes:
                    request.result = -EIO
                    push(&self.ended, request)
                    over = True
                else:
                    push(&self.waiting, request)
            if over:
                mezzo_event_signal(self.event)
            self._pump()

    cdef Request *_parse(self, object transfer) except NULL:
        cdef Request *request = self._new()
        cdef int64_t offset, length, total = 0
        cdef uint64_t address, mask_hit = 0
        cdef Py_ssize_t count
        cdef PyObject *place
        cdef iovec *last
        cdef object memory = None
        cdef bint one_memory = True
        try:
            request.op = transfer.op
            request.retries = 0
            request.result = 0
            request.asynchronous = self.asynchronous
            request.buffer_index = -1
            request.iov_first = request.iov_count = 0
            request.iov = request.inline_iov
            request.left = 0
            if request.op == OP_FLUSH:
                request.offset = 0
            else:
                if request.op != OP_READ and request.op != OP_WRITE:
                    raise InvalidArgument(f"unknown operation {transfer.op!r}")
                offset = transfer.offset
                spans = transfer.spans
                count = len(spans)
                if count > INLINE_SPANS:
                    request.heap_iov = <iovec *> malloc(count * sizeof(iovec))
                    if request.heap_iov is NULL:
                        raise MemoryError
                    request.iov = request.heap_iov
                last = NULL
                for span in spans:
                    length = span[2]
                    address = self._address(span, length)
                    if memory is None:
                        memory = span[0]
                    elif memory is not span[0]:
                        one_memory = False
                    if address % self.memory_align_bytes or <uint64_t> length % self.memory_align_bytes:
                        raise InvalidArgument(
                            f"memory at {address:#x}+{length} is not aligned to"
                            f" {self.memory_align_bytes} bytes")
                    total += length
                    if last is not NULL and <uint64_t> last.iov_base + last.iov_len == address:
                        last.iov_len += length
                    elif length:
                        last = &request.iov[request.iov_count]
                        last.iov_base = <void *> address
                        last.iov_len = length
                        request.iov_count += 1
                if offset < 0 or not total or offset % self.block_bytes or total % self.block_bytes:
                    raise InvalidArgument(
                        f"{transfer.op!r} at {offset}+{total} is not in whole blocks"
                        f" of {self.block_bytes} bytes")
                if total != <int64_t> transfer.length:
                    raise InvalidArgument(f"{transfer.op!r} at {offset}: spans were changed after it was made")
                request.offset = offset
                request.left = total
                if one_memory and request.iov_count == 1:
                    place = PyDict_GetItem(self.buffers, memory)
                    if place is not NULL:
                        request.buffer_index = self._buffer_index(
                            <uint64_t> request.iov.iov_base - <uint64_t> memory.address, total,
                            <object> place)
        except BaseException:
            self._free(request)
            raise
        Py_INCREF(transfer)
        request.transfer = <PyObject *> transfer
        return request

    cdef inline uint64_t _address(self, object span, int64_t length) except? 0:
        """Address of a span that is checked to lie in its memory: bytes outside are not ours."""
        cdef object memory = span[0]
        cdef int64_t offset = span[1]
        cdef int64_t memory_length = memory.length
        if offset < 0 or length < 0 or offset > memory_length - length:
            raise InvalidArgument(f"span {offset}+{length} is outside of {memory_length} bytes of memory")
        return <uint64_t> memory.address + offset

    cdef inline int _buffer_index(self, uint64_t start, uint64_t length, object place) except -2:
        """Number of the buffer that the range lies in; -1 across two of them, or not pinned yet."""
        cdef uint64_t index = start // BUFFER_BYTES
        cdef int first = place[0]
        cdef uint64_t ready = place[1]
        if index >= ready or index != (start + length - 1) // BUFFER_BYTES:
            return -1
        self.fixed_transfers += 1
        return first + <int> index

    cdef Request *_new(self) except NULL:
        cdef Request *request = self.spare
        if request is not NULL:
            self.spare = request.next
            self.spare_count -= 1
        else:
            request = <Request *> malloc(sizeof(Request))
            if request is NULL:
                raise MemoryError
        request.transfer = NULL
        request.heap_iov = NULL
        return request

    cdef void _free(self, Request *request) noexcept:
        if request.heap_iov is not NULL:
            free(request.heap_iov)
        if self.spare_count >= 512:
            free(request)
            return
        request.next = self.spare
        self.spare = request
        self.spare_count += 1

    cdef void _forget(self, Request *request) noexcept:
        cdef PyObject *transfer = request.transfer
        self._free(request)
        Py_DECREF(<object> transfer)

    cdef void _pump(self) noexcept nogil:
        """Hand over what waits, as far as the ring has room, and enter the kernel."""
        cdef io_uring_sqe *sqe
        cdef Request *request
        cdef int code
        while self.waiting.head is not NULL and self.in_kernel < self.depth:
            sqe = io_uring_get_sqe(&self.ring)
            if sqe is NULL:
                break
            request = pop(&self.waiting)
            self._prepare(sqe, request)
            self.in_kernel += 1
        while io_uring_sq_ready(&self.ring):
            code = io_uring_submit(&self.ring)
            if code > 0:
                self.submit_failures = 0
            elif code != -EINTR:
                # EAGAIN: the kernel is out of memory for requests. EBUSY: completions first. The
                # entries stay queued; whoever reaps comes back to them.
                self.submit_failures += 1
                mezzo_event_signal(self.event)
                break

    cdef void _prepare(self, io_uring_sqe *sqe, Request *request) noexcept nogil:
        cdef iovec *iov = &request.iov[request.iov_first]
        cdef unsigned count
        cdef int fd = 0 if self.fixed_file else self.fd
        cdef unsigned flags = IOSQE_FIXED_FILE if self.fixed_file else 0
        if request.op == OP_FLUSH:
            io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC)
        elif request.buffer_index >= 0:
            count = <unsigned> min(iov.iov_len, self.move_bytes_max)
            if request.op == OP_READ:
                io_uring_prep_read_fixed(
                    sqe, fd, iov.iov_base, count, request.offset, request.buffer_index)
            else:
                io_uring_prep_write_fixed(
                    sqe, fd, iov.iov_base, count, request.offset, request.buffer_index)
        elif request.iov_count - request.iov_first == 1:
            count = <unsigned> min(iov.iov_len, self.move_bytes_max)
            if request.op == OP_READ:
                io_uring_prep_read(sqe, fd, iov.iov_base, count, request.offset)
            else:
                io_uring_prep_write(sqe, fd, iov.iov_base, count, request.offset)
        else:
            count = <unsigned> min(request.iov_count - request.iov_first, <int> IOVS_MAX)
            if request.op == OP_READ:
                io_uring_prep_readv(sqe, fd, iov, count, request.offset)
            else:
                io_uring_prep_writev(sqe, fd, iov, count, request.offset)
        if request.asynchronous:
            flags |= IOSQE_ASYNC
        sqe.flags |= <unsigned char> flags
        io_uring_sqe_set_data(sqe, request)

    # -- completion --------------------------------------------------------------------------------

    def reap(self):
        """The transfers that ended since, ``result`` set."""
        cdef Request *request
        cdef list transfers = []
        cdef object transfer
        if self.ready:
            with nogil:
                self._harvest()
            if self.submit_failures > SUBMIT_FAILURES_MAX and self.ended.head is NULL:
                self.submit_failures = 0
                raise OSError(EBUSY, f"the kernel refuses to take {io_uring_sq_ready(&self.ring)} requests")
        while self.ended.head is not NULL:
            request = pop(&self.ended)
            transfer = <object> request.transfer
            transfer.result = request.result
            transfers.append(transfer)
            self._forget(request)
            self.owned -= 1
        return transfers

    def wait(self, timeout_s=None):
        """Block until ``reap`` would return something, nothing is in flight, or the timeout."""
        cdef double until = -1 if timeout_s is None else mezzo_now_s() + timeout_s
        cdef double left = -1
        cdef int code
        while self.ready:
            with nogil:
                self._harvest()
            if self.ended.head is not NULL:
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

    cdef void _harvest(self) noexcept nogil:
        """Take completions out of the ring until it is empty, and refill it from what waits."""
        cdef io_uring_cqe *cqes[CQE_BATCH]
        cdef unsigned count, index
        mezzo_event_drain(self.event)
        if self.ring.sq.kflags[0] & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW):
            io_uring_get_events(&self.ring)
        while True:
            count = io_uring_peek_batch_cqe(&self.ring, cqes, CQE_BATCH)
            for index in range(count):
                self._complete(<Request *> <size_t> cqes[index].user_data, cqes[index].res)
            io_uring_cq_advance(&self.ring, count)
            if count < CQE_BATCH:
                break
        if self.waiting.head is not NULL or io_uring_sq_ready(&self.ring):
            self._pump()

    cdef void _complete(self, Request *request, int code) noexcept nogil:
        self.in_kernel -= 1
        if code == -EINTR or code == -EAGAIN:
            request.retries += 1
            if request.retries <= RETRIES_MAX:
                # A kernel worker may sleep where the submitting call may not.
                request.asynchronous = True
                self.retried += 1
                push(&self.waiting, request)
                return
        if request.op == OP_FLUSH or code < 0:
            request.result = code
            push(&self.ended, request)
            return
        if code == 0 or code > request.left:
            request.result = -EIO
            push(&self.ended, request)
            return
        request.left -= code
        request.offset += code
        request.result += code
        if request.left == 0:
            push(&self.ended, request)
            return
        # Short: the rest of the spans once more, from where it stopped.
        self.retried += 1
        while code:
            if <size_t> code < request.iov[request.iov_first].iov_len:
                request.iov[request.iov_first].iov_len -= code
                request.iov[request.iov_first].iov_base = (
                    <char *> request.iov[request.iov_first].iov_base + code)
                break
            code -= <int> request.iov[request.iov_first].iov_len
            request.iov_first += 1
        push(&self.waiting, request)

    def close(self):
        """Let what is in flight end (it may still be reaped), then give the ring back."""
        while self.ready and (self.in_kernel or self.waiting.head is not NULL):
            with nogil:
                self._harvest()
                if self.in_kernel or self.waiting.head is not NULL:
                    mezzo_event_wait(self.event, 0.1)
            if self.submit_failures > SUBMIT_FAILURES_MAX:
                break
        self.buffers.clear()
        self._exit()

    cdef int _check_open(self) except -1:
        if not self.ready:
            raise DeviceFailed("the ring is closed")
        return 0
