"""What `mezzo pod` and `mezzo locate` print as JSON, and as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.markup import escape
from rich.table import Table

from mezzo.placement.pod_map import ShardPlace
from mezzo.sizes import about_size
from mezzo_server.pod.operating import PodSeen, ShardSeen
from mezzo_server.pod.records import Settings


class ShardReport(msgspec.Struct, frozen=True):
    """One shard of a pod."""

    id: str
    node: str
    rack: str
    state: str
    addresses: list[str]
    capacity_bytes: int
    slots: int
    slots_before: int
    epoch: int
    left_s: float


class PodReport(msgspec.Struct, frozen=True):
    """A pod."""

    pod: str
    epoch: int
    slots: int
    moved: int
    behind: int
    shards: list[ShardReport]


class PaceReport(msgspec.Struct, frozen=True):
    """How fast a pod changes."""

    ramp_s: float
    asked_s: float
    remembered_s: float


class LocateReport(msgspec.Struct, frozen=True):
    """Where a key belongs."""

    key: str
    slot: int
    epoch: int
    shard: str
    """id; empty: nobody has the slot"""
    node: str
    addresses: list[str]
    shard_before: str
    """who had the slot, and is asked still; empty: nobody"""


def pod_report(seen: PodSeen) -> PodReport:
    """A pod, for JSON."""
    shards = [_shard_report(shard) for shard in seen.shards]
    return PodReport(seen.id.hex(), seen.epoch, seen.slots, seen.moved, seen.behind, shards)


def _shard_report(shard: ShardSeen) -> ShardReport:
    return ShardReport(
        shard.id.hex(),
        shard.node,
        shard.rack,
        shard.state,
        list(shard.addresses),
        shard.capacity_bytes,
        shard.slots,
        shard.slots_before,
        shard.epoch,
        round(shard.left_s, 1),
    )


def status_table(report: PodReport) -> Table:
    """A pod, for people."""
    table = Table(
        "shard",
        "node",
        "state",
        "share",
        "asked for",
        "capacity",
        "follows",
        "left",
        box=None,
        pad_edge=False,
    )
    for shard in report.shards:
        table.add_row(
            shard.id[:8],
            escape(shard.node),
            shard.state,
            f"{shard.slots / report.slots:.1%}",
            f"{shard.slots_before / report.slots:.1%}" if shard.slots_before else "-",
            about_size(shard.capacity_bytes) if shard.capacity_bytes else "-",
            str(shard.epoch) if shard.epoch else "-",
            shown_left(shard),
        )
    table.title = f"pod {report.pod[:8]}, epoch {report.epoch}"
    table.title_justify = "left"
    return table


def map_table(report: PodReport, places: Sequence[ShardPlace]) -> Table:
    """A map, for people."""
    table = Table("shard", "node", "addresses", "weight", "slots", "before", box=None, pad_edge=False)
    slots = {shard.id: shard for shard in report.shards}
    for place in places:
        shard = slots[place.id.hex()]
        table.add_row(
            shard.id[:8],
            escape(place.node),
            escape(" ".join(place.addresses)),
            str(place.weight),
            str(shard.slots),
            str(shard.slots_before),
        )
    table.title = f"epoch {report.epoch}, {report.slots} slots, {report.moved} of them moved lately"
    table.title_justify = "left"
    return table


def locate_table(report: LocateReport) -> Table:
    """Where a key belongs, for people."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("slot", f"{report.slot} (epoch {report.epoch})")
    table.add_row("shard", f"{report.shard[:8]} on {escape(report.node)}" if report.shard else "nobody")
    table.add_row("addresses", escape(" ".join(report.addresses)))
    if report.shard_before:
        table.add_row("before", report.shard_before[:8])
    return table


def shown_left(shard: ShardReport) -> str:
    """How long a change still takes, for people."""
    if not shard.left_s:
        return "-"
    minutes, seconds = divmod(round(shard.left_s), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def pace_report(settings: Settings) -> PaceReport:
    """Of a pod's settings."""
    return PaceReport(settings.ramp_s, settings.asked_s, settings.remembered_s)


def pace_line(report: PaceReport) -> str:
    """A pod's pace, for people."""
    return (
        f"a new shard takes its share over {report.ramp_s:g} s; former owners are asked for {report.asked_s:g} s; "
        f"shards that left are remembered for {report.remembered_s:g} s"
    )
