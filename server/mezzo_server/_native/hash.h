/* XXH3-64 with a seed over a list of pieces, as fast as this processor can. */
#ifndef MEZZO_HASH_H
#define MEZZO_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

uint64_t mezzo_hash(const struct iovec *pieces, size_t count, uint64_t seed);

/* Copy, and the hash of the bytes as they are in the target: what changes in the source meanwhile does
 * not part the two.  Equal totals, split in any way. */
uint64_t mezzo_copy_hash(const struct iovec *source, size_t source_count, const struct iovec *target,
                         size_t target_count, uint64_t seed);

/* Which variant runs: "avx512", "avx2" or "baseline" (SSE2 on x86-64, NEON on Arm). */
const char *mezzo_hash_variant(void);

#endif
