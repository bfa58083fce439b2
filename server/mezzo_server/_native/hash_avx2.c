#if defined(__x86_64__)
#pragma GCC target("avx2")
#define HASH_NAME mezzo_hash_avx2
#include "hash_body.h"
#endif
