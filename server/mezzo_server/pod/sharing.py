"""How tenants' quotas are shared among the shards of a pod: from the parts in force to the next. No I/O, no clock.

By default a shard's part is its share of the slots.  Where a tenant comes near its part somewhere, the parts of that
limit are weighed (a *row*): what is not used in one place is given to where more is wanted, by weight.

**First less, then more.**  At any moment a shard enforces the parts in force or those right before; the next come only
when all have said that they enforce these.  A part grows only by what is free while all that shrink are still as they
were.  So parts enforced at any moment are together no more than the quota and `SLACK_POINTS`, and `NEWCOMER_POINTS`
for each shard that registered since all was settled.  A shard whose metadata lease has ended enforces nothing, since it
serves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mezzo_server.pod.parts import Parts, Row, Use, UsedRow, rows_max
from mezzo_server.pod.plan import Plan
from mezzo_server.quota.part import NEWCOMER_POINTS, POINTS, SLACK_POINTS, default_points

TOGETHER_MAX = POINTS + SLACK_POINTS
"""points of a limit that all parts are together"""
MARGIN_SHARE = 8
"""Where nothing is wanted an eighth more than what is used is left, if there is enough for all."""
LEAST_SHARE = 16
"""However little is used, a shard has a sixteenth of its share."""
NEAR = 0.75
"""of its part: a tenant that uses as much is told of, and its parts are weighed"""
WORTH_SHARE = 16
"""Parts that were weighed stay until somebody who wants more would get a sixteenth more."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a pod when its parts are found."""

    members: Sequence[bytes]
    """the shards that are registered, in the order of their ids"""
    weights: Mapping[bytes, int]
    """of the shards of the map: slots that they own, or had and are asked for still"""
    uses: Mapping[bytes, Use]
    """what each of them says, if it does"""
    mark: bytes
    """of the parts in force"""


def weights_of(plan: Plan) -> dict[bytes, int]:
    """See `Known.weights`. Takes some milliseconds with many slots."""
    pod_map = plan.pod_map
    counts = [0] * len(pod_map.shards)
    for owner in (*pod_map.table, *pod_map.previous.values()):
        if owner < len(counts):
            counts[owner] += 1
    return {place.id: count for place, count in zip(pod_map.shards, counts, strict=True)}


def behind(parts: Parts, known: Known) -> list[bytes]:
    """Members that may enforce parts before these still: nothing follows these as long as there are any."""
    # Who is in none of them has no part to go back to: it has what a newcomer has, whatever it has heard of.
    listed = set(parts.shards)
    marks = {shard: use.mark for shard, use in known.uses.items()}
    return [shard for shard in known.members if shard in listed and marks.get(shard) != known.mark]


def urgent(parts: Parts, known: Known) -> bool:
    """Whether the next parts should not wait: shards came or left, the map is another, or these are half way."""
    if tuple(known.members) != parts.shards or not parts.settled:
        return True
    wanted = _defaults(known)
    return any(
        abs(points - target) * WORTH_SHARE > points
        for points, target in zip(parts.default, wanted, strict=True)
    )


def next_parts(parts: Parts, known: Known) -> Parts | None:
    """The parts that should follow, when nobody is `behind`; None: these are right. Of the same always the same."""
    if not any(known.weights.get(shard) for shard in known.members):
        return None  # there is no map yet
    members = tuple(known.members)
    place = {shard: index for index, shard in enumerate(parts.shards)}
    had = [place.get(shard) for shard in members]

    def present(points: Sequence[int]) -> list[int]:
        return [NEWCOMER_POINTS if index is None else points[index] for index in had]

    changed = members != parts.shards
    now_default = present(parts.default)
    wanted_default = _defaults(known)
    default = step(now_default, wanted_default)
    settled = default == wanted_default and all(shard in known.weights for shard in members)
    rows: dict[Row, tuple[int, ...]] = {}
    used = _used(known)
    for row in _chosen(parts, used, now_default, known):
        now = present(parts.rows[row]) if row in parts.rows else now_default
        own = used.get(row, {})
        if row in parts.rows and _is_calm(own, wanted_default, members):
            target = wanted_default
        else:
            target = _weighed(own, wanted_default, known, new=row not in parts.rows)
            if row in parts.rows and not changed and parts.settled and not _worth(own, now, target, members):
                target = now
        following = step(now, target)
        # Nobody loses what he has for one of whom it is not known yet what he needs: who comes new may need little.
        settled = settled and following == target and all(shard in own for shard in members)
        if target is not wanted_default or following != default:
            rows[row] = tuple(following)
    found = Parts(parts.number + 1, members, tuple(default), rows, settled)
    same = (parts.shards, parts.default, parts.rows, parts.settled)
    return None if (found.shards, found.default, found.rows, found.settled) == same else found


def step(now: Sequence[int], target: Sequence[int]) -> list[int]:
    """From parts in force towards others: less at once, more only by what is free until all have heard of it."""
    free = TOGETHER_MAX - sum(now)
    missing = sum(max(0, to - have) for have, to in zip(now, target, strict=True))
    if missing <= free:
        return list(target)
    free = max(0, free)
    return [
        to if to <= have else have + (to - have) * free // missing
        for have, to in zip(now, target, strict=True)
    ]


def weigh(needs: Sequence[int], weights: Sequence[int], total: int) -> list[int]:
    """``total`` among those who need so much each: what is left over by weight; if it is not enough, by weight too,
    but to nobody more than he needs, and to nobody else what another could use.
    """
    if sum(needs) <= total:
        left, all_weights = total - sum(needs), sum(weights) or 1
        return [need + left * weight // all_weights for need, weight in zip(needs, weights, strict=True)]
    given = [0] * len(needs)
    order = sorted(
        (index for index, weight in enumerate(weights) if weight > 0),
        key=lambda index: (needs[index] / weights[index], index),
    )
    weight_left = sum(weights)
    for index in order:
        given[index] = min(needs[index], total * weights[index] // weight_left)
        total -= given[index]
        weight_left -= weights[index]
    return given


def _defaults(known: Known) -> list[int]:
    total = sum(known.weights.get(shard, 0) for shard in known.members)
    return [
        default_points(known.weights[shard], total) if shard in known.weights else NEWCOMER_POINTS
        for shard in known.members
    ]


def _used(known: Known) -> dict[Row, dict[bytes, UsedRow]]:
    """By row, then by shard."""
    used: dict[Row, dict[bytes, UsedRow]] = {}
    for shard in known.members:
        use = known.uses.get(shard)
        for row in () if use is None else use.rows:
            used.setdefault((row.tenant, row.limit), {})[shard] = row
    return used


def _chosen(
    parts: Parts, used: Mapping[Row, Mapping[bytes, UsedRow]], default: Sequence[int], known: Known
) -> list[Row]:
    """The rows to weigh: those that are, and as many of the others as there is room for, the neediest first."""
    room = rows_max(len(known.members)) - len(parts.rows)
    points = dict(zip(known.members, default, strict=True))
    others: list[tuple[int, Row]] = []
    for row, own in used.items():
        if row in parts.rows:
            continue
        if any(max(one.used, one.wanted) >= NEAR * points[shard] for shard, one in own.items()):
            need = sum(max(0, one.wanted - points[shard]) for shard, one in own.items())
            others.append((-need, row))
    others.sort()
    return sorted([*parts.rows, *(row for _, row in others[: max(0, room)])])


def _weighed(own: Mapping[bytes, UsedRow], default: Sequence[int], known: Known, *, new: bool) -> list[int]:
    """The parts of a row by what is used and wanted; of a ``new`` one who is not near his part tells nothing."""
    weights = [known.weights.get(shard, 0) for shard in known.members]
    total = sum(weights)
    needs = []
    for shard, weight, points in zip(known.members, weights, default, strict=True):
        share = POINTS * weight // total
        row = own.get(shard)
        if row is not None:
            need = max(row.wanted, row.used + row.used // MARGIN_SHARE)
        elif new and shard in known.uses:
            need = int(NEAR * points)
        else:
            need = share  # nobody knows
        needs.append(max(need, share // LEAST_SHARE) if weight else 0)
    return weigh(needs, weights, POINTS)


def _is_calm(own: Mapping[bytes, UsedRow], default: Sequence[int], members: Sequence[bytes]) -> bool:
    """Whether all have told, and nobody is near its part by default, by far."""
    return all(
        shard in own and 2 * max(own[shard].used, own[shard].wanted) < max(1, points)
        for shard, points in zip(members, default, strict=True)
    )


def _worth(
    own: Mapping[bytes, UsedRow], now: Sequence[int], target: Sequence[int], members: Sequence[bytes]
) -> bool:
    """Whether parts should be others: somebody wants more and would get it, or they are more than a quota."""
    if sum(now) > POINTS:
        return True
    return any(
        shard in own and own[shard].wanted > have and (to - have) * WORTH_SHARE > have
        for shard, have, to in zip(members, now, target, strict=True)
    )
