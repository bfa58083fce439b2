"""What is told of tenants in metrics: tables of a sample, for a bounded number of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from mezzo_server.blockstore.schedule import BACKGROUND
from mezzo_server.quota.account import CAPACITY, HOT, LEASED, Account
from mezzo_server.quota.accounts import OTHERS, Accounts

IN_BACKGROUND = "(background)"
SPACES = (CAPACITY, HOT, LEASED)

Table = Mapping[tuple[str, ...], float]


def tables(accounts: Accounts, work: Mapping[bytes, tuple[int, float]]) -> dict[str, Table]:
    """By name of a table, then by labels, the tenant's name first; what is not told alone is summed up.

    ``work``: bytes that devices moved for each tenant, and how long that had waited (`TenantSpace.device_work`).
    """
    told = {account.tenant for account in accounts.told()}
    used: Counter[tuple[str, ...]] = Counter()
    limits: dict[tuple[str, ...], float] = {}
    refusals: Counter[tuple[str, ...]] = Counter()
    requests: Counter[tuple[str, ...]] = Counter()
    payload: Counter[tuple[str, ...]] = Counter()
    device_bytes: Counter[tuple[str, ...]] = Counter()
    device_wait: defaultdict[tuple[str, ...], float] = defaultdict(float)
    if BACKGROUND in work:
        device_bytes[IN_BACKGROUND,], device_wait[IN_BACKGROUND,] = work[BACKGROUND]
    for account in accounts:
        alone = account.tenant in told
        name = account.name if alone else OTHERS
        for space, nbytes in zip(SPACES, _spaces(accounts, account), strict=True):
            used[name, space] += nbytes
        for limit, count in account.refusals.items():
            refusals[name, limit] += count
        requests[name,] += account.requests_total
        payload[name,] += account.bytes_total
        if account.tenant in work:
            moved, waited = work[account.tenant]
            device_bytes[name,] += moved
            device_wait[name,] += waited
        if alone:
            limits.update(_limits(account))
    return {
        "tenant_used": used,
        "tenant_limits": limits,
        "tenant_refusals": refusals,
        "tenant_requests": requests,
        "tenant_payload": payload,
        "tenant_device_bytes": device_bytes,
        "tenant_device_wait": device_wait,
    }


def _spaces(accounts: Accounts, account: Account) -> tuple[int, int, int]:
    tenant = account.tenant
    return accounts.used_bytes(tenant), accounts.hot_bytes(tenant), accounts.leased_bytes(tenant)


def _limits(account: Account) -> Table:
    quota = account.quota
    limits = {
        "capacity_bytes": quota.capacity_bytes,
        "hot_bytes": quota.hot_bytes,
        "leased_bytes": quota.leased_bytes,
        "bytes_per_s": quota.bytes_per_s,
        "requests_per_s": quota.requests_per_s,
    }
    table: dict[tuple[str, ...], float] = {}
    for name, limit in limits.items():
        for which, value in (("soft", limit.soft), ("hard", limit.hard)):
            if value:
                table[account.name, name, which] = value
    return table
