"""`mezzo pod parts`: which part of a tenant's quota each shard of a pod enforces, and what it says that is used of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.markup import escape
from rich.table import Table

from mezzo.sizes import about_size
from mezzo_server.quota.account import LIMITS, merged
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS

if TYPE_CHECKING:
    from mezzo_server.pod.view import PodView
    from mezzo_server.tenancy.model import Quota, Tenant

BYTES = ("capacity_bytes", "hot_bytes", "leased_bytes", "bytes_per_s")


class ShardPart(msgspec.Struct, frozen=True):
    """One shard's part of one limit; 1 is the whole."""

    id: str
    node: str
    part: float
    used: float | None
    """None: the shard has not told, since it is not near its part"""
    wanted: float | None


class LimitParts(msgspec.Struct, frozen=True):
    """One limit of a tenant."""

    limit: str
    soft: int
    hard: int
    weighed: bool
    """its parts follow what is used and wanted; else they are the shares of the slots"""
    shards: list[ShardPart]


class PartsReport(msgspec.Struct, frozen=True):
    """A tenant's quota over a pod."""

    tenant: str
    round: int
    settled: bool
    behind: int
    """shards that have not said yet that they enforce this round"""
    limits: list[LimitParts]


def parts_report(view: PodView, tenant: Tenant, default: Quota) -> PartsReport:
    """What the metadata say; ``default``: the quota of a tenant that has none of its own."""
    parts, quota = view.parts, merged(tenant.quota, default)
    marks = [use.mark for shard, use in view.uses.items() if shard in parts.shards]
    behind = len(parts.shards) - marks.count(view.parts_mark)
    told = {
        (shard, row.limit): row
        for shard, use in view.uses.items()
        for row in use.rows
        if row.tenant == tenant.id
    }
    place = {shard: index for index, shard in enumerate(parts.shards)}
    limits = []
    for at, name in enumerate(LIMITS):
        limit = getattr(quota, name)
        if not limit.soft and not limit.hard:
            continue
        own: Sequence[int] = parts.rows.get((tenant.id, at), parts.default)
        shards = []
        for shard, record in sorted(view.records.items()):
            points = own[place[shard]] if shard in place else NEWCOMER_POINTS
            row = told.get((shard, at))
            shards.append(
                ShardPart(
                    shard.hex(),
                    record.node,
                    round(points / POINTS, 4),
                    None if row is None else round(row.used / POINTS, 4),
                    None if row is None else round(row.wanted / POINTS, 4),
                )
            )
        limits.append(LimitParts(name, limit.soft, limit.hard, (tenant.id, at) in parts.rows, shards))
    return PartsReport(tenant.name, parts.number, parts.settled, behind, limits)


def parts_table(report: PartsReport) -> Table:
    """The same for people."""
    table = Table("quota", "shard", "node", "part", "is", "used", "wanted", box=None, pad_edge=False)
    for limit in report.limits:
        name = f"{limit.limit}{'' if limit.weighed else ' (by slots)'}"
        for shard in limit.shards:
            table.add_row(
                name,
                shard.id[:8],
                escape(shard.node),
                f"{shard.part:.1%}",
                _amount(limit, shard.part),
                "-" if shard.used is None else _amount(limit, shard.used),
                "-" if shard.wanted is None else _amount(limit, shard.wanted),
            )
            name = ""
    settled = "" if report.settled else ", another is on its way"
    table.title = f"{escape(report.tenant)}: division {report.round}{settled}"
    table.title_justify = "left"
    return table


def _amount(limit: LimitParts, part: float) -> str:
    amount = int((limit.hard or limit.soft) * part)
    return about_size(amount) if limit.limit in BYTES else str(amount)
