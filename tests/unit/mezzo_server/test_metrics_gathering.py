"""A sample's way from the loop to a scraper: asked once, waited for briefly, the last one if it hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.gathering import LoopGatherer


class Loop:
    """Runs what it is given at once, or keeps it until `turn`."""

    def __init__(self) -> None:
        self.hangs = False
        self.closed = False
        self.kept: list[Callable[[], None]] = []
        self.made = 0

    def call(self, step: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.kept.append(step)
        if not self.hangs:
            self.turn()

    def turn(self) -> None:
        kept, self.kept = self.kept, []
        for step in kept:
            step()

    def make(self) -> Sample:
        self.made += 1
        return Sample(numbers={"made": self.made}, words={"version": "1"})


def test_each_scrape_has_a_new_sample() -> None:
    loop = Loop()
    gather = LoopGatherer(loop.call, loop.make)
    assert [gather().numbers for _ in range(2)] == [
        {"made": 1, "loop_stalled": 0},
        {"made": 2, "loop_stalled": 0},
    ]
    assert gather.healthy()


def test_a_loop_that_hangs_is_asked_once_and_the_last_sample_told() -> None:
    loop = Loop()
    gather = LoopGatherer(loop.call, loop.make, wait_s=0.0)
    gather()
    loop.hangs = True
    for _ in range(5):
        sample = gather()
        assert sample.numbers == {"made": 1, "loop_stalled": 1}
        assert sample.words == {"version": "1"}
    assert len(loop.kept) == 1, "a queue that only grows is no way to find out that nobody serves it"
    assert not gather.healthy()
    loop.hangs = False
    loop.turn()
    assert gather().numbers == {"made": 3, "loop_stalled": 0}


def test_before_the_first_sample_there_is_only_that_it_hangs() -> None:
    loop = Loop()
    loop.hangs = True
    assert LoopGatherer(loop.call, loop.make, wait_s=0.0)().numbers == {"loop_stalled": 1}


def test_a_closed_loop_is_a_stalled_one() -> None:
    loop = Loop()
    gather = LoopGatherer(loop.call, loop.make)
    gather()
    loop.closed = True
    assert gather().numbers == {"made": 1, "loop_stalled": 1}


def test_those_who_wait_together_share_a_sample() -> None:
    loop = Loop()
    loop.hangs = True
    asked = threading.Event()

    def call(step: Callable[[], None]) -> None:
        loop.call(step)
        asked.set()

    gather = LoopGatherer(call, loop.make, wait_s=30.0)
    told: list[Sample] = []
    threads = [threading.Thread(target=lambda: told.append(gather())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert asked.wait(30)
    while any(thread.is_alive() for thread in threads):
        loop.turn()
        for thread in threads:
            thread.join(0.01)
    assert len(told) == 4
    assert all(sample.numbers["loop_stalled"] == 0 for sample in told)
    assert loop.made <= 4
