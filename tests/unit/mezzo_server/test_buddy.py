"""The buddy allocator against a set of pages."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mezzo_server.buddy import Buddy, order_of


class BuddyMachine(RuleBasedStateMachine):
    """Runs never overlap, what is set aside is nobody's until it is there whole, and all pages come back."""

    @initialize(pages=st.integers(1, 70))
    def begin(self, pages: int) -> None:
        self.buddy = Buddy(pages)
        self.runs: dict[int, int] = {}
        self.aside = -1
        """order of what is set aside"""

    def taken(self) -> set[int]:
        return {page for first, pages in self.runs.items() for page in range(first, first + pages)}

    @rule(pages=st.integers(1, 20))
    def take(self, pages: int) -> None:
        if pages > self.buddy.pages_max:
            return
        first = self.buddy.take(pages)
        if first >= 0:
            assert not self.taken() & set(range(first, first + pages))
            assert first + pages <= self.buddy.pages
            self.runs[first] = pages

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(sorted(self.runs)))
        assert self.buddy.give(first) == self.runs.pop(first)

    @precondition(lambda self: any(pages > 1 for pages in self.runs.values()))
    @rule(data=st.data())
    def shorten(self, data: st.DataObject) -> None:
        first = data.draw(st.sampled_from(sorted(first for first, pages in self.runs.items() if pages > 1)))
        pages = data.draw(st.integers(1, self.runs[first] - 1))
        assert self.buddy.shorten(first, pages) == self.runs[first] - pages
        self.runs[first] = pages

    @precondition(lambda self: self.aside < 0)
    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        self.aside = data.draw(st.integers(0, order_of(self.buddy.pages_max)))
        self.buddy.set_aside(self.aside)

    @precondition(lambda self: self.aside >= 0)
    @rule()
    def end_aside(self) -> None:
        whole, order = self.buddy.aside_is_free, self.aside
        self.aside = -1
        self.buddy.end_aside()
        if whole:
            first = self.buddy.take(1 << order)
            assert first >= 0, "it was there, and is not"
            self.runs[first] = 1 << order

    @invariant()
    def pages_add_up(self) -> None:
        buddy = self.buddy
        assert buddy.free_pages + buddy.aside_free_pages + len(self.taken()) == buddy.pages
        assert self.aside >= 0 or not buddy.aside_free_pages

    def teardown(self) -> None:
        if not hasattr(self, "buddy"):
            return
        for first in self.runs:
            self.buddy.give(first)
        if self.aside >= 0:
            assert self.buddy.aside_is_free
            self.buddy.end_aside()
        # All of it merged again.
        assert self.buddy.free_pages == self.buddy.pages
        assert self.buddy.take(self.buddy.pages_max) >= 0


TestBuddy = BuddyMachine.TestCase
TestBuddy.settings = settings(max_examples=60, stateful_step_count=40)
