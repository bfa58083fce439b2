"""What an owner tells seconds of: in batches, one at a time, again when it failed, and never without bound."""

from __future__ import annotations

from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.offers import (
    BACKOFF_S_MAX,
    BATCH_KEYS_MAX,
    BATCH_LOOKED_MAX,
    LATE_S,
    OFFERS_MAX,
    QUEUE_KEYS_MAX,
    Offers,
)

SCOPE, OTHER = Scope(b"t" * 16, b"n" * 16), Scope(b"t" * 16, b"m" * 16)
SECONDS = [bytes([number]) * 16 for number in range(8)]


def second_of(scope, key):
    """Named by the key's first digit; those that begin with another letter are nobody's."""
    return SECONDS[int(key[:1])] if key[:1].isdigit() else None


def offers(find=second_of) -> Offers:
    return Offers(find, lambda: 0.5)


def told(of: Offers, now: float = 0.0):
    offer = of.next(now)
    return None if offer is None else (offer.second, offer.scope, offer.keys, offer.popular)


def test_chunks_of_one_namespace_for_one_shard_are_told_of_together():
    queue = offers()
    queue.add(SCOPE, [b"1a", b"2a", b"1b"], 0.0)
    queue.add(OTHER, [b"1c"], 0.0)
    queue.add(SCOPE, [b"1d"], 0.0, popular=True)
    first = queue.next(0.0)
    assert first is not None
    assert (first.second, first.keys, first.popular) == (SECONDS[1], [b"1a", b"1b"], False)
    assert told(queue) == (SECONDS[2], SCOPE, [b"2a"], False)
    assert told(queue) is None, "one at a time to each"
    queue.ended(first, 1.0, failed=False)
    assert told(queue, 1.0) == (SECONDS[1], OTHER, [b"1c"], False)
    assert queue.numbers()["pod_offers"] == 2


def test_what_is_to_be_kept_is_not_told_of_as_popular_meanwhile():
    queue = offers()
    queue.add(SCOPE, [b"1a", b"1b"], 0.0, popular=True)
    queue.add(SCOPE, [b"1a"], 0.0)
    queue.add(SCOPE, [b"1a"], 0.0, popular=True)
    offer = queue.next(0.0)
    assert offer is not None
    assert (offer.keys, offer.popular) == ([b"1a"], False)
    queue.ended(offer, 0.0, failed=False)
    assert told(queue) == (SECONDS[1], SCOPE, [b"1b"], True)


def test_who_does_not_answer_is_told_again_later_and_others_meanwhile():
    queue = offers()
    queue.add(SCOPE, [b"1a"], 0.0)
    for attempt in range(3):
        offer = queue.next(100.0 * attempt / 10)
        assert offer is not None
        queue.ended(offer, 100.0 * attempt / 10, failed=True)
        assert queue.next(100.0 * attempt / 10) is None
        wait_s = queue.wait_s(100.0 * attempt / 10)
        assert wait_s is not None
        assert 0 < wait_s <= BACKOFF_S_MAX
    queue.add(SCOPE, [b"2a"], 20.0)
    assert told(queue, 20.0) == (SECONDS[2], SCOPE, [b"2a"], False)
    assert told(queue, 20.0 + BACKOFF_S_MAX) == (SECONDS[1], SCOPE, [b"1a"], False)
    assert queue.numbers()["pod_offers_failed"] == 3


def test_what_could_not_be_told_for_long_is_given_up_and_counted():
    queue = offers()
    queue.add(SCOPE, [b"1a"], 0.0)
    offer = queue.next(0.0)
    assert offer is not None
    queue.ended(offer, 0.0, failed=True)
    assert queue.next(LATE_S + 1) is None
    assert queue.wait_s(LATE_S + 1) is None
    assert queue.numbers() == {
        "pod_offers": 0, "pod_offers_dropped": 1, "pod_offers_failed": 1, "pod_offers_queued": 0,
    }  # fmt: skip


def test_what_has_no_second_any_more_or_was_deleted_is_not_told_of():
    queue = offers()
    queue.add(SCOPE, [b"xa", b"1a", b"1b"], 0.0)
    queue.forget(SCOPE, [b"1a"])
    assert told(queue) == (SECONDS[1], SCOPE, [b"1b"], False)


def test_all_of_it_is_bounded():
    queue = offers()
    queue.add(SCOPE, [b"1%d" % number for number in range(QUEUE_KEYS_MAX + 5)], 0.0)
    numbers = queue.numbers()
    assert (numbers["pod_offers_queued"], numbers["pod_offers_dropped"]) == (QUEUE_KEYS_MAX, 5)
    offer = queue.next(0.0)
    assert offer is not None
    assert len(offer.keys) == BATCH_KEYS_MAX
    busy = offers()
    busy.add(SCOPE, [b"%da" % number for number in range(OFFERS_MAX + 1)], 0.0)
    assert all(busy.next(0.0) is not None for _ in range(OFFERS_MAX))
    assert busy.next(0.0) is None
    assert busy.wait_s(0.0) is None


def test_one_that_does_not_answer_does_not_hide_the_others():
    queue = offers()
    queue.add(SCOPE, [b"1a"], 0.0)
    offer = queue.next(0.0)
    assert offer is not None
    queue.ended(offer, 0.0, failed=True)
    queue.add(SCOPE, [b"1%d" % number for number in range(2 * BATCH_LOOKED_MAX)], 0.0)
    queue.add(SCOPE, [b"2a"], 0.0)
    assert told(queue, 0.01) == (SECONDS[2], SCOPE, [b"2a"], False)


def test_what_waits_for_one_that_does_not_answer_is_not_looked_at_each_time():
    asked = []

    def counted(scope, key):
        asked.append(key)
        return second_of(scope, key)

    queue = offers(counted)
    queue.add(SCOPE, [b"1%d" % number for number in range(4 * BATCH_KEYS_MAX)], 0.0)
    offer = queue.next(0.0)
    assert offer is not None
    queue.ended(offer, 0.0, failed=True)
    asked.clear()
    assert queue.next(0.01) is None
    assert asked == []
    # The oldest come first when it is tried again.
    again = queue.next(BACKOFF_S_MAX)
    assert again is not None
    assert again.keys == offer.keys


def test_by_another_map_others_are_told():
    moved = []
    queue = offers(lambda scope, key: SECONDS[3] if key in moved else second_of(scope, key))
    queue.add(SCOPE, [b"1a", b"1b", b"1c"], 0.0)
    moved.append(b"1b")
    assert told(queue) == (SECONDS[1], SCOPE, [b"1a", b"1c"], False)
    assert told(queue) == (SECONDS[3], SCOPE, [b"1b"], False)
    assert queue.numbers()["pod_offers_queued"] == 0
