#if defined(__x86_64__)
#pragma GCC target("avx512f")
#define HASH_NAME mezzo_hash_avx512
#define COPY_HASH_NAME mezzo_copy_hash_avx512
#include "hash_body.h"
#endif
