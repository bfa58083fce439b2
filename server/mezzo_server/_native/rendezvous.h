/* Weighted rendezvous hashing as in mezzo/placement/rendezvous.py, which says what the numbers mean. */
#include <stdint.h>

typedef unsigned __int128 mezzo_cost;

/* What a slot costs a shard. */
mezzo_cost mezzo_slot_cost(uint64_t seed, uint64_t slot, uint64_t weight, const int64_t *logarithms);

/* Let a shard take every slot from first to end - 1 that costs it less than its owner. Shards are to be offered
   slots in the order of their ids, so that the lowest id keeps what costs two of them the same. */
void mezzo_offer_slots(uint64_t seed, uint64_t weight, uint16_t shard, uint64_t slots, const int64_t *logarithms,
                       mezzo_cost *costs, uint16_t *table);

/* Let a shard be second for every slot that costs it less than the second so far, and whose owner is in another
   failure domain: domains are by shard, owners a table that is complete. Offered in the order of their ids too. */
void mezzo_offer_seconds(uint64_t seed, uint64_t weight, uint16_t shard, uint64_t slots, const int64_t *logarithms,
                         const uint16_t *owners, const uint16_t *domains, mezzo_cost *costs, uint16_t *seconds);
