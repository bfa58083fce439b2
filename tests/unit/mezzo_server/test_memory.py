"""Memory that is used again."""

from mezzo_server.memory import PAGE_BYTES, SPARE_BYTES_MAX, SPARES_MAX, Spares


def test_what_is_given_back_is_used_again_if_it_is_long_enough():
    spares = Spares()
    page, long = spares.take(PAGE_BYTES), spares.take(3 * PAGE_BYTES)
    assert page is not long
    assert long.length == 3 * PAGE_BYTES
    spares.give(page)
    spares.give(long)
    assert spares.take(2 * PAGE_BYTES) is long
    assert spares.take(1) is page
    assert spares.take(1) not in (page, long)


def test_what_is_kept_is_bounded():
    spares = Spares()
    taken = [spares.take(PAGE_BYTES) for _ in range(SPARES_MAX + 2)]
    for memory in taken:
        spares.give(memory)
    assert [memory.length for memory in taken] == [PAGE_BYTES] * SPARES_MAX + [0, 0]
    long = Spares().take(SPARE_BYTES_MAX + 1)
    Spares().give(long)
    assert long.length == 0  # unmapped
