"""Who plans: watches the pod, and writes the next plan when one is due, and parts of quotas (`rounds`). No I/O, no clock.

Any number of processes may plan at a time.  A plan is written only over the one that it follows, and only if
nobody has registered since the members were read; whoever comes second looks again.

Invariant: there is no next epoch before every member says that it follows the present one.  So of the maps
that shards act by at any moment, no two are more than one epoch apart, and whoever had a slot an epoch ago is
named by the map (``previous``).  A member that does not follow holds up the pod until its lease ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mezzo.backoff import Backoff
from mezzo.errors import FormatError, MezzoError, TooLarge
from mezzo_server.metadata.engine import Change, Check, Outcome, Scan, Write
from mezzo_server.pod.plan import Plan, due, next_plan, renumbered
from mezzo_server.pod.plan_format import encode_plan
from mezzo_server.pod.records import PARTS, PLAN, POD, ROSTER, SETTINGS, Settings, encode
from mezzo_server.pod.rounds import ROUND_S, Rounds
from mezzo_server.pod.standing import NEVER
from mezzo_server.pod.steps import Commit, Look, Step, Wait, Watch
from mezzo_server.pod.view import Complain, PodView

GATHER_S = 3.0
"""A pod that begins waits so long after the last shard registered: who is there at the first epoch need not be spared.
And a planner that begins waits so long for shards of the map that are not there: all nodes may be starting at once."""
RETURN_S = 10.0
"""After an outage of the engine in which leases may have ended that nobody could renew it waits so long for shards of the
map that are not there: each may have a call under way that is given up after 6 s, and tries again every 2 s."""
OUTAGE_ROUNDS = 4
"""An outage is one of so many rounds of quotas, of which a lease has nine."""
SPREAD_S = 0.5
"""Planners wait a part of it each, so that mostly one writes and the others find that it is done."""
WAIT_S_MIN, WAIT_S_MAX = 0.1, 2.0
"""between attempts at an engine that is away"""
UNPLANNED_S = 10.0
"""after a plan that cannot be written; the next try is without second copies"""
CONFIRM_S = 5.0
"""between two looks at whether the engine answers and the watch is not behind, while nothing changes"""

NOTHING_PLANNED: Mapping[str, int | float] = {
    **dict.fromkeys(
        (
            "pod_epoch",
            "pod_members",
            "pod_members_behind",
            "pod_slots_moved",
            "pod_plans",
            "pod_plans_lost",
            "pod_failures",
            "pod_rounds",
            "pod_rounds_written",
            "pod_parts_weighed",
            "pod_parts_behind",
        ),
        0,
    ),
    "pod_age_s": -1.0,
}
"""The numbers where there is no pod."""


class Planning:
    """A `Machine`. Owner of a view of the pod; `view` is what it knows, while the engine is away too."""

    def __init__(
        self,
        settings: Settings | None,
        complain: Complain,
        random: Callable[[], float],
        round_s: float = ROUND_S,
    ) -> None:
        """``settings``: what the pod is made with, if there is none yet; None: it is waited for that somebody makes one.
        ``round_s``: from one weighing of quotas to the next.
        """
        self._settings = settings
        self._complain = complain
        self._random = random
        self._backoff = Backoff(random, first_s=WAIT_S_MIN, max_s=WAIT_S_MAX)
        self._loaded = False
        self._changed_at = 0.0
        """when the members last became others, while there was no plan"""
        self._outage_s = OUTAGE_ROUNDS * round_s
        self._returned_by = NEVER
        """until then shards of the map are waited for that are not there"""
        self._proposal: Plan | None = None
        self._seconds = True
        """whether maps say who has second copies: not where that makes a plan larger than the metadata take"""
        self._not_before = 0.0
        self._writing = False
        """a plan is"""
        self._complained = ""
        self._seen_at: float | None = None
        self._rounds = Rounds(complain, random, round_s)
        self.view = PodView(complain)
        self.failures = 0
        self.plans_written = 0
        self.plans_lost = 0
        """plans that another had written first"""

    @property
    def watch(self) -> Watch | None:
        """See `Machine`."""
        return Watch(POD, self.view.revision) if self._loaded else None

    def next_step(self, now: float, wall_s: float) -> Step:
        """See `Machine`."""
        if self._backoff.not_before > now:
            return Wait(self._backoff.not_before - now)
        if not self._loaded:
            self._proposal = None
            return Look(POD)
        view = self.view
        if view.settings is None:
            if self._settings is None:
                return self._wait(None, now)
            return Commit([Check(SETTINGS, 0)], [Write(SETTINGS, encode(self._settings))])
        plan, pace = view.present, view.settings.pace
        if plan is None or view.unreadable:
            return self._wait(None, now)
        if self._proposal is None:
            if view.behind():
                return self._wait(None, now)
            gathered_at = self._gathered_at(plan)
            if now < gathered_at:
                return Wait(gathered_at - now)
            self._proposal = next_plan(plan, view.members(), wall_s, pace, seconds=self._seconds)
            followed = max((record.epoch for record in view.records.values()), default=0)
            if followed > plan.pod_map.epoch:
                # The metadata were restored, or are others: nobody would heed an epoch that was before.
                self._proposal = renumbered(self._proposal or plan, followed + 1)
            if self._proposal is None:
                return self._wait(due(plan, wall_s, pace), now)
            self._not_before = max(self._not_before, now + SPREAD_S * self._random())
        if self._not_before > now:
            return Wait(self._not_before - now)
        return self._write(self._proposal, now)

    def looked(self, scan: Scan, now: float) -> None:
        """See `Machine`."""
        self.view.load(scan)
        self._loaded = True
        if self._seen_at is None:
            self._returned_by = now + GATHER_S
        elif now - self._seen_at >= self._outage_s:
            self._returned_by = now + RETURN_S
        self._news(now)

    def changed(self, changes: Sequence[Change], now: float) -> None:
        """See `Machine`."""
        if self.view.apply(changes):
            self._news(now)
        else:
            self._answered(now)

    def committed(self, outcome: Outcome, now: float) -> None:
        """See `Machine`."""
        self._answered(now)
        if self._rounds.writing:
            self._rounds.committed(outcome)
            self._loaded = outcome.done  # the watch brings it
            return
        writing, self._writing = self._writing, False
        if writing:
            self.plans_written += outcome.done
            self.plans_lost += not outcome.done
        elif outcome.done and (self._settings is None or self.view.settings is not None):
            return  # all is as it is known
        # Whoever wrote, and what: it is seen at the next look, and the watch goes on from there.
        self._loaded = False

    def granted(self, lease: int, sent: float, now: float) -> None:
        """See `Machine`; it asks for none."""

    def kept(self, alive: bool, sent: float, now: float) -> None:
        """See `Machine`; it has none."""

    def revoked(self, now: float) -> None:
        """See `Machine`; it has none."""

    def watch_ended(self, now: float) -> None:
        """See `Machine`."""
        self._loaded = False

    def failed(self, error: MezzoError, now: float) -> None:
        """See `Machine`."""
        self._loaded = self._writing = False
        self._rounds.failed()
        self.failures += 1
        self._backoff.failed(now)
        if isinstance(error, FormatError) and str(error) != self._complained:
            self._complained = str(error)
            self._complain(POD, self._complained)

    def numbers(self, now: float) -> Mapping[str, int | float]:
        """How it fares; docs/metrics.md lists them."""
        plan, view = self.view.plan, self.view
        return {
            "pod_epoch": 0 if plan is None else plan.pod_map.epoch,
            "pod_members": len(view.records),
            "pod_members_behind": len(view.behind()),
            "pod_slots_moved": 0 if plan is None else len(plan.pod_map.previous),
            "pod_plans": self.plans_written,
            "pod_plans_lost": self.plans_lost,
            "pod_failures": self.failures,
            "pod_rounds": view.parts.number,
            "pod_rounds_written": self._rounds.written,
            "pod_parts_weighed": len(view.parts.rows),
            "pod_parts_behind": self._rounds.behind,
            "pod_age_s": -1.0 if self._seen_at is None else max(0.0, now - self._seen_at),
        }

    def _gathered_at(self, plan: Plan) -> float:
        """Until when others are waited for that may be about to come; never: nobody is."""
        if plan.pod_map.epoch == 0:
            return self._changed_at + GATHER_S if self.view.records else NEVER
        here = self.view.records.keys()
        return self._returned_by if any(place.id not in here for place in plan.pod_map.shards) else NEVER

    def _wait(self, seconds: float | None, now: float) -> Step:
        """Nothing is to be planned: share quotas, or wait, but look now and then whether what is known is so still."""
        commit, round_s = self._rounds.next_step(self.view, now)
        if commit is not None:
            return commit
        if round_s is not None:
            seconds = round_s if seconds is None else min(seconds, round_s)
        left_s = CONFIRM_S if self._seen_at is None else self._seen_at + CONFIRM_S - now
        if left_s <= 0:
            return Commit(self._checks(), [])
        return Wait(left_s if seconds is None else min(seconds, left_s))

    def _checks(self) -> list[Check]:
        view = self.view
        return [
            Check(PLAN, view.plan_revision),
            Check(ROSTER, view.roster_revision),
            Check(PARTS, view.parts_revision),
        ]

    def _write(self, proposal: Plan, now: float) -> Step:
        try:
            data = encode_plan(proposal)
        except TooLarge as error:
            self._complain(PLAN, str(error))
            self._seconds = False
            self._proposal, self._not_before = None, now + UNPLANNED_S
            return Wait(UNPLANNED_S)
        self._writing = True
        return Commit(self._checks()[:2], [Write(PLAN, data)])

    def _news(self, now: float) -> None:
        self._answered(now)
        self._proposal = None
        if self.view.plan is None:
            self._changed_at = now

    def _answered(self, now: float) -> None:
        self._seen_at = now
        self._backoff.succeeded()
