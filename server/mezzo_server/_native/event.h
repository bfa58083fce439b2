/* What ring and pool share: an eventfd, and waiting for it. */
#ifndef MEZZO_EVENT_H
#define MEZZO_EVENT_H

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static inline int mezzo_event_open(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

/* Make it readable. Never blocks: it would take 2^64 - 1 signals that nobody drained. */
static inline void mezzo_event_signal(int event)
{
    const uint64_t one = 1;
    ssize_t ignored = write(event, &one, sizeof(one));

    (void)ignored;
}

/* Make it unreadable. Always before looking at what it tells of, so that nothing is missed. */
static inline void mezzo_event_drain(int event)
{
    uint64_t count;
    ssize_t ignored = read(event, &count, sizeof(count));

    (void)ignored;
}

/* Until it is readable, or the timeout (negative: none), or a signal (then -1). */
static inline int mezzo_event_wait(int event, double timeout_s)
{
    struct pollfd watched = {.fd = event, .events = POLLIN};
    int timeout_ms = timeout_s < 0 ? -1 : timeout_s > 1e6 ? 1000000000 : (int)(timeout_s * 1e3 + 1);

    return poll(&watched, 1, timeout_ms) < 0 ? -1 : 0;
}

static inline double mezzo_now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
