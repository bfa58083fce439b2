"""What a shard tells its pod of its tenants: what they use of their parts, and where they want more. No I/O, no clock.

Told are the limits that were weighed for this shard (`Part.exceptions`), and of the others those of which a tenant uses
`NEAR` of its part or more, or was refused something: as many as fit, the fullest first.  Accounts are looked at some at
a time, so that the loop is never held; passes over all of them begin `look_s` apart, give or take a quarter, so that many
shards do not write at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mezzo_server.quota.account import LIMITS, Account
from mezzo_server.quota.accounts import Accounts
from mezzo_server.quota.part import BYTES_AT, CAPACITY_AT, HOT_AT, LEASED_AT, POINTS, REQUESTS_AT, Part

SOON_SHARE = 10
"""After another part came the next pass begins within a tenth of the time: there may be rows to be told of."""
STEP_ACCOUNTS = 64
NEAR = 0.75
FULL = 15 / 16
"""Who uses as much of a part wants more of it, refused or not: capacity that is used up refuses nothing."""
MORE_POINTS_MIN = POINTS >> 10
"""that is wanted at least, where more is"""
USED_POINTS_MAX = (1 << 32) - 1
CHANGE_SHARE = 16
"""Told again is what differs by so much of the part, or more."""

Told = tuple[bytes, int, int, int]
"""tenant, limit (its place in `LIMITS`), points used, points wanted"""


@dataclass(slots=True)
class _Before:
    """An account at the last pass."""

    at: float
    totals: tuple[int, int]
    """payload bytes and requests"""
    refusals: tuple[int, ...]
    wanted: list[int]
    """points of each limit, which fade away"""


class Wants:
    """Looks at the accounts of a shard. Owner of what they were at the last pass; belongs to their thread."""

    def __init__(
        self, accounts: Accounts, random: Callable[[], float], *, told_max: int, look_s: float
    ) -> None:
        """``random``: between 0 and 1; ``told_max``: rows that are told at most."""
        self._look_s = look_s
        self._accounts = accounts
        self._random = random
        self._told_max = told_max
        self._before: dict[bytes, _Before] = {}
        self._after: dict[bytes, _Before] = {}
        self._walk: Iterator[Account] | None = None
        self._part: Part | None = None
        self._weighed: dict[tuple[bytes, int], Told] = {}
        """rows that are told in any case"""
        self._found: dict[tuple[bytes, int], tuple[float, Told]] = {}
        """others, by how full they are: never more than twice what is told"""
        self._told: dict[tuple[bytes, int], Told] = {}
        self._next_at = 0.0

    def soon(self, now: float) -> None:
        """Another part is enforced: look at all of them again before long."""
        self._next_at = min(self._next_at, now + self._look_s / SOON_SHARE * self._random())

    def tick(self, now: float) -> list[Told] | None:
        """Go on; what is to be told, where a pass has ended with something new."""
        accounts = self._accounts
        if self._walk is None:
            if now < self._next_at:
                return None
            self._next_at = now + self._look_s * (0.75 + self._random() / 2)
            self._walk, self._part = iter(accounts), accounts.part
            self._weighed, self._found, self._after = {}, {}, {}
        for _ in range(STEP_ACCOUNTS):
            account = next(self._walk, None)
            if account is None:
                return self._passed()
            self._look(account, now)
        return None

    def _passed(self) -> list[Told] | None:
        self._walk = None
        self._before, self._after = self._after, {}
        part = self._part or self._accounts.part
        told: dict[tuple[bytes, int], Told] = {}
        for tenant, limits in part.exceptions.items():
            for limit in limits:
                told[tenant, limit] = self._weighed.get((tenant, limit), (tenant, limit, 0, 0))
        for key, (_, row) in self._fullest(max(0, self._told_max - len(told))):
            told[key] = row
        self._weighed, self._found = {}, {}
        if not self._is_new(told, part):
            return None
        self._told = told
        return list(told.values())

    def _fullest(self, count: int) -> list[tuple[tuple[bytes, int], tuple[float, Told]]]:
        return sorted(self._found.items(), key=lambda found: (-found[1][0], found[0]))[:count]

    def _is_new(self, told: dict[tuple[bytes, int], Told], part: Part) -> bool:
        if told.keys() != self._told.keys():
            return True
        for key, (tenant, limit, used, wanted) in told.items():
            _, _, used_before, wanted_before = self._told[key]
            notable = max(MORE_POINTS_MIN, part.points(tenant, limit) // CHANGE_SHARE)
            if abs(used - used_before) >= notable or abs(wanted - wanted_before) >= notable:
                return True
        return False

    def _look(self, account: Account, now: float) -> None:
        part = self._part or self._accounts.part
        quota = account.whole
        limits = (
            quota.capacity_bytes,
            quota.hot_bytes,
            quota.leased_bytes,
            quota.bytes_per_s,
            quota.requests_per_s,
        )
        wholes = [limit.hard or limit.soft for limit in limits]
        if not any(wholes):
            return
        tenant = account.tenant
        before = self._before.get(tenant)
        totals = (account.bytes_total, account.requests_total)
        refusals = tuple(account.refusals[name] for name in LIMITS)
        wanted_now = [0] * len(LIMITS)
        self._after[tenant] = _Before(now, totals, refusals, wanted_now)
        for limit, whole in enumerate(wholes):
            if not whole:
                continue
            points = part.points(tenant, limit)
            used = min(USED_POINTS_MAX, int(self._used(account, limit, now, before) * POINTS / whole))
            refused = before is not None and refusals[limit] > before.refusals[limit]
            wanted = used
            if refused or used >= FULL * points:
                wanted = max(used, points + max(points // 2, MORE_POINTS_MIN))
            if before is not None:
                wanted = max(wanted, before.wanted[limit] * 3 // 4)
            wanted = min(wanted, USED_POINTS_MAX)
            wanted_now[limit] = wanted
            row = (tenant, limit, used, wanted)
            if limit in part.exceptions.get(tenant, ()):
                self._weighed[tenant, limit] = row
            elif refused or max(used, wanted) >= NEAR * points:
                self._found[tenant, limit] = max(used, wanted) / max(1, points), row
                if len(self._found) >= 2 * self._told_max:
                    self._found = dict(self._fullest(self._told_max))

    def _used(self, account: Account, limit: int, now: float, before: _Before | None) -> float:
        """Bytes, or bytes or requests in a second since the last pass."""
        accounts, tenant = self._accounts, account.tenant
        if limit == CAPACITY_AT:
            return accounts.used_bytes(tenant)
        if limit == HOT_AT:
            return accounts.hot_bytes(tenant)
        if limit == LEASED_AT:
            return accounts.leased_bytes(tenant)
        if before is None or now <= before.at:
            return 0.0
        moved = account.bytes_total - before.totals[0]
        asked = account.requests_total - before.totals[1]
        return {BYTES_AT: moved, REQUESTS_AT: asked}[limit] / (now - before.at)
