#include "rendezvous.h"

#define GOLDEN UINT64_C(0x9E3779B97F4A7C15)
#define FRACTION_BITS 48
#define TABLE_BITS 8
#define COST_BITS 40
#define NOBODY 0xFFFF

static inline uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94D049BB133111EB);
    return value ^ (value >> 31);
}

static inline int64_t negative_log2(uint64_t number, const int64_t *logarithms)
{
    if (number == 0)
        number = 1;
    int leading = __builtin_clzll(number);
    uint64_t rest = (number << leading) & (UINT64_MAX >> 1);
    unsigned index = rest >> (63 - TABLE_BITS);
    int64_t low = logarithms[index], step = logarithms[index + 1] - low;
    uint64_t within = (rest >> (63 - TABLE_BITS - 24)) & 0xFFFFFF;
    int64_t inner = (int64_t)(((unsigned __int128)step * within) >> 24);
    return ((int64_t)(leading + 1) << FRACTION_BITS) - low - inner;
}

mezzo_cost mezzo_slot_cost(uint64_t seed, uint64_t slot, uint64_t weight, const int64_t *logarithms)
{
    uint64_t drawn = mix(seed + (slot + 1) * GOLDEN);
    return ((mezzo_cost)negative_log2(drawn, logarithms) << COST_BITS) / weight;
}

void mezzo_offer_slots(uint64_t seed, uint64_t weight, uint16_t shard, uint64_t slots, const int64_t *logarithms,
                       mezzo_cost *costs, uint16_t *table)
{
    for (uint64_t slot = 0; slot < slots; slot++) {
        mezzo_cost cost = mezzo_slot_cost(seed, slot, weight, logarithms);
        if (table[slot] == NOBODY || cost < costs[slot]) {
            costs[slot] = cost;
            table[slot] = shard;
        }
    }
}

void mezzo_offer_seconds(uint64_t seed, uint64_t weight, uint16_t shard, uint64_t slots, const int64_t *logarithms,
                         const uint16_t *owners, const uint16_t *domains, mezzo_cost *costs, uint16_t *seconds)
{
    for (uint64_t slot = 0; slot < slots; slot++) {
        if (owners[slot] == NOBODY || domains[owners[slot]] == domains[shard])
            continue;
        mezzo_cost cost = mezzo_slot_cost(seed, slot, weight, logarithms);
        if (seconds[slot] == NOBODY || cost < costs[slot]) {
            costs[slot] = cost;
            seconds[slot] = shard;
        }
    }
}
