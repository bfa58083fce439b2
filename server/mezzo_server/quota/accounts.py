"""The accounts of all tenants, and what the store and the hot tier ask of them. No I/O, no clock.

A tenant's *share* of a space is its soft limit, or its hard one, or failing both its part by weight among
the tenants that have something there.  Who has more than that goes first when space is needed.  Who is over a
soft limit comes last when others have work; to have more than one's share without a limit costs nothing but space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec.structs import replace

from mezzo_server.blockstore.shares import Shares
from mezzo_server.hot.arenas import HotShares
from mezzo_server.quota.account import CAPACITY, HOT, Account, merged
from mezzo_server.quota.part import POINTS, WHOLE, Part
from mezzo_server.tenancy.model import Limit, Quota, Tenant

TOLD_MAX = 100
"""Tenants that are told of one by one in metrics, those that use the most; the others are summed up."""
OTHERS = "(others)"
OPERATORS = "(operators)"
"""who is of no tenant, where there are tenants"""
EVERYBODY = "(everybody)"
"""where there are none"""
PROMISED_SHARE = 0.75
"""Quotas are promised up to this share of the devices: reclaim needs something that it may evict."""
ACCOUNTS_MAX = 65536
"""Accounts of tenants that nobody knows any more are dropped when there are so many."""
STEP_ACCOUNTS = 64
"""Accounts that get another part in one turn: less than a millisecond."""


class Accounts(Shares, HotShares):
    """Accounts by tenant. Owner: `Service`; belongs to one thread."""

    def __init__(
        self,
        now: Callable[[], float],
        default: Quota | None = None,
        burst_s: float = 1.0,
        part: Part = WHOLE,
    ) -> None:
        """``default``: for tenants with no quota of their own; ``burst_s``: seconds of a rate used at once;
        ``part``: what this shard enforces of each quota.
        """
        self._part = part
        self._parting: list[Account] = []
        """accounts that have the former part still"""
        self._parted: Callable[[], None] | None = None
        self._dropped_at = ACCOUNTS_MAX
        self._now = now
        self._default = default or Quota()
        self._burst_s = burst_s
        self._accounts: dict[bytes, Account] = {}
        self._known: Mapping[bytes, Tenant] = {}
        self.used_bytes: Callable[[bytes], int] = _nothing
        """bytes of a tenant on the devices; whoever has the store sets it"""
        self.stored: Callable[[], Iterable[bytes]] = tuple
        """the tenants that have any"""
        self.hot_bytes: Callable[[bytes], int] = _nothing
        """bytes that a tenant's arenas take of the hot tier"""
        self.leased_bytes: Callable[[bytes], int] = _nothing
        """bytes that a tenant's leases hold"""
        self.capacity_bytes = 0
        """of the devices"""
        self.weight_sum = 0.0
        """of the tenants that have chunks"""
        self._divided = False
        self._promised = 1.0
        """of each quota"""

    def of(self, tenant: bytes) -> Account:
        """A tenant's account; made if there is none."""
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= self._dropped_at:
                self._drop_unknown()
            account = self._accounts[tenant] = Account(tenant)
            self._allow(account)
        return account

    def __iter__(self) -> Iterator[Account]:
        return iter(tuple(self._accounts.values()))

    def tenants_are(self, tenants: Mapping[bytes, Tenant]) -> None:
        """Who there is, with what quota and weight, from now on."""
        before, self._known = self._known, tenants
        for tenant, account in self._accounts.items():
            if before.get(tenant) != tenants.get(tenant):
                self._allow(account)
        self.count_weights()

    def _allow(self, account: Account) -> None:
        tenant = self._known.get(account.tenant)
        quota = self._default if tenant is None else merged(tenant.quota, self._default)
        name = self._name_of_unknown(account.tenant) if tenant is None else tenant.name
        weight = 1 if tenant is None else tenant.weight
        part = self._part.of(quota, account.tenant)
        if part is not quota:
            part = self._at_least(account, part, quota)
        account.allow(name, weight, part, self._burst_s, self._now(), whole=quota)

    def _at_least(self, account: Account, part: Quota, whole: Quota) -> Quota:
        """A part of capacity is never less than the tenant's longest chunk, nor, before all is settled, than what
        it has: a shard that comes back to its pod must not lose what it holds while its part is found.
        """
        limit = part.capacity_bytes
        held = 0 if self._part.settled else self.used_bytes(account.tenant)
        least = max(account.chunk_bytes, held)
        soft = max(limit.soft, min(least, whole.capacity_bytes.soft))
        hard = max(limit.hard, min(least, whole.capacity_bytes.hard))
        if (soft, hard) == (limit.soft, limit.hard):
            return part
        return replace(part, capacity_bytes=Limit(soft, hard))

    # -- parts

    @property
    def part(self) -> Part:
        """What this shard enforces of each quota."""
        return self._part

    def part_is(self, part: Part, done: Callable[[], None]) -> None:
        """Another part is enforced from now on; ``done`` is called when it is for every tenant: in this call if they
        are few, else from `tick`.  If another comes before, only that one's ``done`` is.
        """
        if part is not self._part:
            self._part = part
            self._parting = list(self._accounts.values())
        self._parted = done
        self.tick()

    def tick(self) -> None:
        """Go on with a part that came, some accounts at a time."""
        if self._parted is None:
            return
        for _ in range(min(STEP_ACCOUNTS, len(self._parting))):
            self._allow(self._parting.pop())
        if not self._parting:
            done, self._parted = self._parted, None
            done()

    def _name_of_unknown(self, tenant: bytes) -> str:
        if any(tenant):
            return tenant.hex()[:8]
        return OPERATORS if self._known else EVERYBODY

    def _drop_unknown(self) -> None:
        for tenant in tuple(self._accounts):
            if tenant not in self._known and not self.leased_bytes(tenant) and not self.used_bytes(tenant):
                del self._accounts[tenant]
        # Not for each that comes, if they are all known: that would be all of them every time.
        self._dropped_at = max(ACCOUNTS_MAX, 2 * len(self._accounts))

    # -- what the store asks

    def weight(self, tenant: bytes) -> float:
        """The tenant's weight."""
        return self.of(tenant).weight

    def behind(self, tenant: bytes) -> bool:
        """Whether it is over any of its soft limits."""
        account = self.of(tenant)
        quota = account.quota
        leased, hot, capacity = quota.leased_bytes.soft, quota.hot_bytes.soft, quota.capacity_bytes.soft
        return (
            account.rate_is_over(self._now())
            or bool(leased and self.leased_bytes(tenant) > leased)
            or bool(hot and self.hot_bytes(tenant) > hot)
            or bool(capacity and self.used_bytes(tenant) > capacity)
        )

    def capacity_bytes_max(self, tenant: bytes) -> int:
        """The hard limit of its capacity."""
        account = self._accounts.get(tenant) or self.of(tenant)  # one call less for each put
        return account.quota.capacity_bytes.hard

    def capacity_bytes_for(self, tenant: bytes, chunk_bytes: int) -> tuple[int, int]:
        """The limit of its capacity, raised so that one chunk of so many bytes fits, and that of all shards together.

        The first is no more than the second: what a quota as a whole does not allow is not allowed here.
        """
        account = self.of(tenant)
        if chunk_bytes > account.chunk_bytes:
            account.chunk_bytes = chunk_bytes
            self._allow(account)
        return account.quota.capacity_bytes.hard, account.whole.capacity_bytes.hard

    def over_share(self, tenant: bytes) -> bool:
        """Whether it has more on the devices than its share."""
        account = self.of(tenant)
        return self.used_bytes(tenant) > self._share(
            account, account.quota.capacity_bytes, self.capacity_bytes
        )

    @property
    def divided(self) -> bool:
        """Whether several tenants have chunks, or one that has a quota."""
        return self._divided

    def within_quota(self, tenant: bytes) -> bool:
        """Whether it has a quota of capacity and uses no more than that.

        Quotas that are more than `PROMISED_SHARE` of the devices together are promised in proportion.
        """
        limit = self.of(tenant).quota.capacity_bytes
        quota = limit.soft or limit.hard
        return bool(quota) and self.used_bytes(tenant) <= quota * self._promised

    def refused(self, tenant: bytes) -> None:
        """A put of its was refused for want of capacity."""
        self.of(tenant).refusals[CAPACITY] += 1

    # -- what the leases ask

    def leased_bytes_max(self, tenant: bytes) -> int:
        """The hard limit of its leases; 0: there is none of its own."""
        account = self._accounts.get(tenant) or self.of(tenant)  # one call less for each lease
        return account.quota.leased_bytes.hard

    def leased_bytes_whole(self, tenant: bytes) -> int:
        """That of all shards together."""
        return self.of(tenant).whole.leased_bytes.hard

    # -- what the hot tier asks

    def exists(self, tenant: bytes) -> bool:
        """Whether it has not been deleted; where nobody keeps tenants, all exist."""
        known = self._known.get(tenant)
        return not known.deleted if known is not None else not self._known

    def hot_bytes_max(self, tenant: bytes) -> int:
        """The most bytes of arenas that it may have; 0: no limit."""
        return self.of(tenant).quota.hot_bytes.hard

    def hot_share(self, tenant: bytes) -> int:
        """The bytes of arenas that are its share by quota; 0: by its weight."""
        limit = self.of(tenant).quota.hot_bytes
        return limit.soft or limit.hard

    def hot_refused(self, tenant: bytes) -> None:
        """It wanted more of the hot tier than it may have."""
        self.of(tenant).refusals[HOT] += 1

    # -- shares

    def count_weights(self) -> None:
        """Look who has chunks now: among them the devices are shared. Called now and then."""
        there = [self.of(tenant) for tenant in self.stored()]
        self.weight_sum = sum(account.weight for account in there)
        limits = [a.quota.capacity_bytes.soft or a.quota.capacity_bytes.hard for a in there]
        quotas = sum(limits)
        self._divided = len(there) > 1 or quotas > 0
        room = PROMISED_SHARE * self.capacity_bytes
        promised = quotas
        if self._part.default != POINTS:
            # Parts are more than what is used of them: by their slack, and where much was wanted and little came.
            promised = sum(
                min(limit, self.used_bytes(a.tenant)) for limit, a in zip(limits, there, strict=True) if limit
            )
        self._promised = room / quotas if quotas > room and promised > room else 1.0

    def _share(self, account: Account, limit: Limit, whole: int) -> float:
        if limit.soft or limit.hard:
            return limit.soft or limit.hard
        if self.weight_sum <= account.weight:
            return whole  # it is alone
        return whole * account.weight / self.weight_sum

    # -- what is told

    def told(self) -> list[Account]:
        """The accounts to tell of one by one: those that use the most."""
        accounts = list(self._accounts.values())
        if len(accounts) <= TOLD_MAX:
            return accounts
        return sorted(accounts, key=lambda account: -account.requests_total)[:TOLD_MAX]


def _nothing(tenant: bytes) -> int:
    return 0
