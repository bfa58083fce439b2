from __future__ import annotations

from collections.abc import Iterator

import pytest

from mezzo.errors import InternalError, TooLarge
from mezzo_server.memory import PAGE_BYTES, Span
from mezzo_server.shard.share import Ask, StagingShare
from mezzo_server.staging import StagingPool


@pytest.fixture
def pool() -> Iterator[StagingPool]:
    pool = StagingPool(16 * PAGE_BYTES)
    yield pool
    assert pool.pieces_taken == 0
    pool.close()


class Holder:
    """Pieces that came, in order."""

    def __init__(self, share: StagingShare) -> None:
        self.share = share
        self.came: list[Span | None] = []

    def ask(self, pages: int) -> Ask:
        return self.share.request(pages * PAGE_BYTES, self.came.append)

    def give(self) -> None:
        span = self.came.pop(0)
        assert span is not None
        self.share.give(span)


def test_a_share_is_kept_to(pool: StagingPool) -> None:
    mine = Holder(StagingShare(pool, 4 * PAGE_BYTES))
    for _ in range(3):
        mine.ask(2)
    assert len(mine.came) == 2
    yours = Holder(StagingShare(pool, 4 * PAGE_BYTES))
    yours.ask(4)
    assert len(yours.came) == 1
    mine.give()
    assert len(mine.came) == 2
    for holder in (mine, mine, yours):
        holder.give()
    assert mine.share.bytes_held == yours.share.bytes_held == 0


def test_one_piece_may_be_larger_than_the_share(pool: StagingPool) -> None:
    mine = Holder(StagingShare(pool, PAGE_BYTES))
    mine.ask(8)
    mine.ask(1)
    assert len(mine.came) == 1
    mine.give()
    assert len(mine.came) == 1
    mine.give()


def test_what_was_cancelled_never_comes(pool: StagingPool) -> None:
    mine = Holder(StagingShare(pool, 2 * PAGE_BYTES))
    mine.ask(2)
    mine.ask(2).cancel()
    mine.ask(1)
    mine.give()
    assert [span.length for span in mine.came if span] == [PAGE_BYTES]
    mine.give()


def test_a_piece_that_the_pool_owes_to_a_cancelled_ask_goes_back(pool: StagingPool) -> None:
    other = pool.take(16 * PAGE_BYTES)
    assert other is not None
    mine = Holder(StagingShare(pool, 8 * PAGE_BYTES))
    asked = mine.ask(2)
    mine.ask(3)
    asked.cancel()
    pool.give(other)
    assert [span.length for span in mine.came if span] == [3 * PAGE_BYTES]
    mine.give()


def test_a_closed_share_only_takes_back(pool: StagingPool) -> None:
    other = pool.take(12 * PAGE_BYTES)
    assert other is not None
    mine = Holder(StagingShare(pool, 16 * PAGE_BYTES))
    mine.ask(2)
    mine.ask(8)
    mine.ask(1)
    mine.share.close()
    pool.give(other)
    assert len(mine.came) == 1
    mine.give()
    assert mine.share.bytes_held == 0
    with pytest.raises(InternalError):
        mine.share.give(Span(pool.memory, 0, PAGE_BYTES))


def test_a_piece_that_can_never_be_is_refused_at_once(pool: StagingPool) -> None:
    mine = Holder(StagingShare(pool, 64 * PAGE_BYTES))
    with pytest.raises(TooLarge):
        mine.ask(32)
    mine.ask(1)
    mine.give()
