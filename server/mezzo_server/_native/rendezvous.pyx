# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The tables of a pod in C: `mezzo.placement.rendezvous.owners` and `seconds.seconds`, a few hundred times as fast."""

from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "rendezvous.h" nogil:
    ctypedef struct mezzo_cost:
        pass
    void mezzo_offer_slots(
        uint64_t seed,
        uint64_t weight,
        uint16_t shard,
        uint64_t slots,
        const int64_t *logarithms,
        mezzo_cost *costs,
        uint16_t *table,
    )
    void mezzo_offer_seconds(
        uint64_t seed,
        uint64_t weight,
        uint16_t shard,
        uint64_t slots,
        const int64_t *logarithms,
        const uint16_t *owners,
        const uint16_t *domains,
        mezzo_cost *costs,
        uint16_t *seconds,
    )

DEF COST_BYTES = 16


def fill(
    const uint64_t[::1] seeds,
    const uint64_t[::1] weights,
    const uint16_t[::1] numbers,
    const int64_t[::1] logarithms,
    uint16_t[::1] table,
):
    """Fill ``table``, which has `NOBODY` everywhere, with ``numbers`` of shards; those in the order of their ids.

    Raises:
        ValueError: the arrays do not fit together.
        MemoryError: there is none for the costs of all slots.
    """
    cdef Py_ssize_t index, count = seeds.shape[0]
    cdef uint64_t slots = table.shape[0]
    cdef mezzo_cost *costs
    if weights.shape[0] != count or numbers.shape[0] != count or logarithms.shape[0] != 257:
        raise ValueError("seeds, weights and numbers are of as many shards; logarithms are 257")
    for index in range(count):
        if weights[index] == 0:
            raise ValueError("a shard without a weight owns nothing and is not to be offered slots")
    if count == 0 or slots == 0:
        return
    costs = <mezzo_cost *>malloc(slots * COST_BYTES)
    if costs == NULL:
        raise MemoryError
    try:
        with nogil:
            for index in range(count):
                mezzo_offer_slots(
                    seeds[index], weights[index], numbers[index], slots, &logarithms[0], costs, &table[0]
                )
    finally:
        free(costs)


def fill_seconds(
    const uint64_t[::1] seeds,
    const uint64_t[::1] weights,
    const uint16_t[::1] numbers,
    const int64_t[::1] logarithms,
    const uint16_t[::1] owners,
    const uint16_t[::1] domains,
    uint16_t[::1] seconds,
):
    """Fill ``seconds``, which has `NOBODY` everywhere; ``domains`` has a number for each shard that ``owners`` and
    ``numbers`` name.

    Raises:
        ValueError: the arrays do not fit together.
        MemoryError: there is none for the costs of all slots.
    """
    cdef Py_ssize_t index, count = seeds.shape[0], shards = domains.shape[0]
    cdef uint64_t slot, slots = seconds.shape[0]
    cdef mezzo_cost *costs
    if weights.shape[0] != count or numbers.shape[0] != count or logarithms.shape[0] != 257:
        raise ValueError("seeds, weights and numbers are of as many shards; logarithms are 257")
    if <uint64_t>owners.shape[0] != slots:
        raise ValueError("owners and seconds are of as many slots")
    for index in range(count):
        if weights[index] == 0 or numbers[index] >= shards:
            raise ValueError("a shard without a weight is no second, and each has a domain")
    for slot in range(slots):
        if owners[slot] != 0xFFFF and owners[slot] >= shards:
            raise ValueError("each owner has a domain")
    if count == 0 or slots == 0:
        return
    costs = <mezzo_cost *>malloc(slots * COST_BYTES)
    if costs == NULL:
        raise MemoryError
    try:
        with nogil:
            for index in range(count):
                mezzo_offer_seconds(
                    seeds[index], weights[index], numbers[index], slots, &logarithms[0],
                    &owners[0], &domains[0], costs, &seconds[0]
                )
    finally:
        free(costs)
