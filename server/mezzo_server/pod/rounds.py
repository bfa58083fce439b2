"""When the parts of quotas are found anew, and written: a part of `planning`. No I/O, no clock.

A round is due at once when shards came or left, when the map is another, or when the last round was half of a way;
else after `round_s`, if `sharing` then finds that it is worth one.  So metadata are written by the clock and by what
happens to shards, however many chunks and requests there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mezzo.errors import TooLarge
from mezzo_server.metadata.engine import Check, Outcome, Write
from mezzo_server.pod.parts import encode_parts
from mezzo_server.pod.plan import Plan
from mezzo_server.pod.records import PARTS, ROSTER
from mezzo_server.pod.sharing import Known, behind, next_parts, urgent, weights_of
from mezzo_server.pod.standing import NEVER
from mezzo_server.pod.steps import Commit
from mezzo_server.pod.view import Complain, PodView

ROUND_S = 10.0
"""From one round to the next, if there is nothing that hurries: as often as shards renew their leases."""
AGAIN_S = 1.0
"""until it is looked again where there is, and nothing was found to do"""
SPREAD_S = 0.5
"""Planners wait a part of it each, so that mostly one writes and the others find that it is done."""


class Rounds:
    """Finds the next parts. Owner of when it last looked; driven by `Planning`, in its thread."""

    def __init__(self, complain: Complain, random: Callable[[], float], round_s: float) -> None:
        self._round_s = round_s
        self._complain = complain
        self._random = random
        self._plan: Plan | None = None
        self._weights: Mapping[bytes, int] = {}
        """of that plan"""
        self._revision = -1
        """of the parts that were seen last"""
        self._seen_at = NEVER
        """when"""
        self._tried_at = NEVER
        """when there was nothing to do"""
        self._due_at: float | None = None
        self._expected = 0
        """the revision of a round of ours, which is not seen yet"""
        self.writing = False
        self.behind = 0
        """shards that are waited for"""
        self.written = 0

    def next_step(self, view: PodView, now: float) -> tuple[Commit | None, float | None]:
        """What to write now, or in how many seconds to ask again; neither: when something has changed."""
        plan = view.plan
        if view.parts_revision != self._revision:
            self._revision, self._seen_at, self._due_at = view.parts_revision, now, None
        if plan is None or view.unreadable or view.revision < self._expected:
            return None, None
        if plan is not self._plan:
            self._plan, self._weights = plan, weights_of(plan)
        known = Known(sorted(view.records), self._weights, view.uses, view.parts_mark)
        self.behind = len(behind(view.parts, known))
        if self.behind:
            return None, None
        hurries = urgent(view.parts, known)
        not_before = max(self._tried_at + AGAIN_S, NEVER if hurries else self._seen_at + self._round_s)
        if not hurries:
            not_before = max(not_before, self._tried_at + self._round_s)
        if now < not_before:
            return None, not_before - now
        if self._due_at is None:
            first = not view.parts.number  # a pod that begins serves already
            self._due_at = now if first else now + SPREAD_S * self._random()
        if now < self._due_at:
            return None, self._due_at - now
        self._due_at = None
        found = next_parts(view.parts, known)
        if found is None:
            self._tried_at = now
            return None, AGAIN_S if hurries else self._round_s
        try:
            data = encode_parts(found)
        except TooLarge as error:
            self._complain(PARTS, str(error))
            self._tried_at = now
            return None, self._round_s
        self.writing = True
        checks = [Check(PARTS, view.parts_revision), Check(ROSTER, view.roster_revision)]
        return Commit(checks, [Write(PARTS, data)]), None

    def committed(self, outcome: Outcome) -> None:
        """A round of ours was decided."""
        self.writing = False
        if outcome.done:
            self.written += 1
            self._expected = outcome.revision

    def failed(self) -> None:
        """The metadata were not reached, or are read anew."""
        self.writing = False
        self._expected = 0
