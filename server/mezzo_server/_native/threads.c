#define _GNU_SOURCE
#include "threads.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "event.h"
#include "hash.h"

struct mezzo_pool {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct mezzo_job *queue_head, *queue_tail;
    struct mezzo_job *ended_head, *ended_tail;
    unsigned idle; /* threads that wait for `more` */
    bool stopping;
    int event_fd;
    unsigned thread_count;
    pthread_t threads[];
};

static void copy_pieces(const struct mezzo_job *job)
{
    const struct iovec *from = job->source, *from_end = from + job->source_count;
    size_t from_at = 0;

    for (size_t index = 0; index < job->target_count; index++) {
        char *to = job->target[index].iov_base;
        size_t left = job->target[index].iov_len;

        while (left && from < from_end) {
            size_t count = from->iov_len - from_at;

            if (count > left)
                count = left;
            memcpy(to, (const char *)from->iov_base + from_at, count);
            to += count;
            left -= count;
            from_at += count;
            if (from_at == from->iov_len) {
                from++;
                from_at = 0;
            }
        }
    }
}

static int64_t move_descriptor(const struct mezzo_job *job, const struct iovec *pieces, size_t piece_count)
{
    int64_t moved = 0;

    for (size_t index = 0; index < piece_count; index++) {
        char *at = pieces[index].iov_base;
        size_t left = pieces[index].iov_len;

        while (left) {
            ssize_t count = job->task == MEZZO_FD_READ ? pread(job->fd, at, left, job->offset + moved)
                                                       : pwrite(job->fd, at, left, job->offset + moved);

            if (count < 0 && errno == EINTR)
                continue;
            if (count < 0)
                return -errno;
            if (count == 0)
                return moved;
            at += count;
            left -= (size_t)count;
            moved += count;
        }
    }
    return moved;
}

void mezzo_job_run(struct mezzo_job *job)
{
    switch (job->task) {
    case MEZZO_CHECKSUM:
        job->result = mezzo_hash(job->source, job->source_count, job->seed);
        break;
    case MEZZO_COPY:
        copy_pieces(job);
        break;
    case MEZZO_COPY_CHECKSUM:
        job->result =
            mezzo_copy_hash(job->source, job->source_count, job->target, job->target_count, job->seed);
        break;
    case MEZZO_ZERO:
        for (size_t index = 0; index < job->target_count; index++)
            memset(job->target[index].iov_base, 0, job->target[index].iov_len);
        break;
    case MEZZO_FD_READ:
        job->moved = move_descriptor(job, job->target, job->target_count);
        break;
    case MEZZO_FD_WRITE:
        job->moved = move_descriptor(job, job->source, job->source_count);
        break;
    default:
        job->moved = -EINVAL;
    }
}

static void *work(void *argument)
{
    struct mezzo_pool *pool = argument;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct mezzo_job *job;
        bool first;

        while (!pool->queue_head && !pool->stopping) {
            pool->idle++;
            pthread_cond_wait(&pool->more, &pool->lock);
            pool->idle--;
        }
        job = pool->queue_head;
        if (!job)
            break;
        pool->queue_head = job->next;
        if (!pool->queue_head)
            pool->queue_tail = NULL;
        pthread_mutex_unlock(&pool->lock);

        mezzo_job_run(job);

        pthread_mutex_lock(&pool->lock);
        job->next = NULL;
        first = !pool->ended_head;
        if (first)
            pool->ended_head = job;
        else
            pool->ended_tail->next = job;
        pool->ended_tail = job;
        if (first) {
            /* Within the lock, so that the event is there before anybody can see the job and that
             * a stopped pool's descriptor is written to no more. It never blocks. */
            mezzo_event_signal(pool->event_fd);
        }
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

struct mezzo_pool *mezzo_pool_start(unsigned threads, int event_fd)
{
    struct mezzo_pool *pool = calloc(1, sizeof(*pool) + threads * sizeof(pthread_t));
    sigset_t all, before;
    int code = 0;

    if (!pool)
        return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    pool->event_fd = event_fd;
    /* Signals are the interpreter's; threads inherit the mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->thread_count < threads && !code) {
        code = pthread_create(&pool->threads[pool->thread_count], NULL, work, pool);
        if (!code)
            pthread_setname_np(pool->threads[pool->thread_count++], "mezzo-worker");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        mezzo_pool_stop(pool);
        mezzo_pool_free(pool);
        errno = code;
        return NULL;
    }
    return pool;
}

void mezzo_pool_push(struct mezzo_pool *pool, struct mezzo_job *first, size_t count)
{
    struct mezzo_job *last = first;
    unsigned idle;

    while (last->next)
        last = last->next;
    pthread_mutex_lock(&pool->lock);
    if (pool->queue_tail)
        pool->queue_tail->next = first;
    else
        pool->queue_head = first;
    pool->queue_tail = last;
    idle = pool->idle;
    pthread_mutex_unlock(&pool->lock);
    /* Threads at work look at the queue again before they sleep. */
    if (idle > 1 && count > 1)
        pthread_cond_broadcast(&pool->more);
    else if (idle)
        pthread_cond_signal(&pool->more);
}

struct mezzo_job *mezzo_pool_take(struct mezzo_pool *pool)
{
    struct mezzo_job *ended;

    pthread_mutex_lock(&pool->lock);
    ended = pool->ended_head;
    pool->ended_head = pool->ended_tail = NULL;
    pthread_mutex_unlock(&pool->lock);
    return ended;
}

void mezzo_pool_stop(struct mezzo_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    pthread_mutex_unlock(&pool->lock);
    pthread_cond_broadcast(&pool->more);
    for (unsigned index = 0; index < pool->thread_count; index++)
        pthread_join(pool->threads[index], NULL);
    pool->thread_count = 0;
}

void mezzo_pool_free(struct mezzo_pool *pool)
{
    /* The lock and the condition need no destruction on Linux, and must see none in a forked child,
     * where threads that are not there may be recorded as waiting. */
    free(pool);
}
