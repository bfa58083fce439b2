#if defined(__x86_64__)
#pragma GCC target("avx2")
#define HASH_NAME mezzo_hash_avx2
#define COPY_HASH_NAME mezzo_copy_hash_avx2
#include "hash_body.h"
#endif
