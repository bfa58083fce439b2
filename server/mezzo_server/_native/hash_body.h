/* One variant of the hash: the including file sets the target and HASH_NAME.
 *
 * xxhash.h picks its vector unit from the macros of the target, and is compiled into each variant
 * whole (XXH_INLINE_ALL), so that three of them live in one library.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hash.h"

uint64_t HASH_NAME(const struct iovec *pieces, size_t count, uint64_t seed);

uint64_t HASH_NAME(const struct iovec *pieces, size_t count, uint64_t seed)
{
    XXH3_state_t state;

    if (count == 1)
        return XXH3_64bits_withSeed(pieces[0].iov_base, pieces[0].iov_len, seed);
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, seed);
    for (size_t index = 0; index < count; index++)
        XXH3_64bits_update(&state, pieces[index].iov_base, pieces[index].iov_len);
    return XXH3_64bits_digest(&state);
}
