/* XXH3-64 with a seed over a list of pieces, as fast as this processor can. */
#ifndef MEZZO_HASH_H
#define MEZZO_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

uint64_t mezzo_hash(const struct iovec *pieces, size_t count, uint64_t seed);

/* Which variant runs: "avx512", "avx2" or "baseline" (SSE2 on x86-64, NEON on Arm). */
const char *mezzo_hash_variant(void);

#endif
