/* Threads that run jobs on memory and descriptors and never meet the interpreter.
 *
 * A job belongs to the pool from mezzo_pool_push until mezzo_pool_take returns it.
 */
#ifndef MEZZO_THREADS_H
#define MEZZO_THREADS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* Numbers of mezzo_server.blockstore.io.Task. */
enum {
    MEZZO_CHECKSUM = 0,
    MEZZO_COPY = 1,
    MEZZO_ZERO = 2,
    MEZZO_FD_READ = 3,
    MEZZO_FD_WRITE = 4,
    MEZZO_COPY_CHECKSUM = 5
};

struct mezzo_job {
    struct mezzo_job *next;
    void *owner; /* the caller's, not looked at */
    int task;
    int fd;
    int64_t offset;
    uint64_t seed;
    struct iovec *source;
    struct iovec *target;
    size_t source_count;
    size_t target_count;
    uint64_t result;      /* of CHECKSUM and COPY_CHECKSUM */
    int64_t moved;        /* of all others: bytes, 0, or -errno */
    struct iovec room[4]; /* for jobs of few pieces: source, then target */
};

struct mezzo_pool;

/* Do a job here and now. */
void mezzo_job_run(struct mezzo_job *job);

/* Start threads (all signals blocked); NULL and errno if that fails. event_fd is written to when
 * mezzo_pool_take turns from nothing to something. */
struct mezzo_pool *mezzo_pool_start(unsigned threads, int event_fd);

/* Queue a chain of jobs, linked by next. */
void mezzo_pool_push(struct mezzo_pool *pool, struct mezzo_job *first, size_t count);

/* All jobs that ended since, linked by next in the order in which they ended. */
struct mezzo_job *mezzo_pool_take(struct mezzo_pool *pool);

/* Run what is queued, end the threads. Jobs that ended stay for mezzo_pool_take. */
void mezzo_pool_stop(struct mezzo_pool *pool);

/* After mezzo_pool_stop, or in a forked child, where there are no threads. */
void mezzo_pool_free(struct mezzo_pool *pool);

#endif
