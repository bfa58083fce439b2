"""What `mezzo pod` and `mezzo locate` print as JSON, and as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.markup import escape
from rich.table import Table

from mezzo.placement.pod_map import ShardPlace
from mezzo.sizes import about_size
from mezzo_server.pod.operating import PodSeen, ShardSeen
from mezzo_server.pod.rebalancing import Rebalance
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
    done: float
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
    shard_second: str
    """who has its second copy, if it has one; empty: nobody"""
    copies: int
    """that are kept of the namespace's chunks"""


class ChangeReport(msgspec.Struct, frozen=True):
    """What a rebalancing does to one shard."""

    id: str
    node: str
    slots: int
    slots_after: int
    gains: int
    loses: int
    off: float
    off_after: float


class RebalanceReport(msgspec.Struct, frozen=True):
    """A rebalancing, thought out or made."""

    epoch: int
    slots: int
    moves: int
    bytes_max: int
    joined: list[str]
    made: bool
    shards: list[ChangeReport]


def rebalance_report(told: Rebalance) -> RebalanceReport:
    """For JSON."""
    return RebalanceReport(
        told.epoch,
        told.slots,
        told.moves,
        told.bytes_max,
        [shard.hex() for shard in told.joined],
        told.made,
        [
            ChangeReport(
                shard.id.hex(),
                shard.node,
                shard.slots,
                shard.slots_after,
                shard.gains,
                shard.loses,
                round(shard.off, 4),
                round(shard.off_after, 4),
            )
            for shard in told.shards
        ],
    )


def rebalance_table(report: RebalanceReport) -> Table:
    """For people."""
    table = Table("shard", "node", box=None, pad_edge=False)
    for name in ("share", "after", "off by", "after", "gains", "loses"):
        table.add_column(name, justify="right")
    for shard in report.shards:
        to_be_empty = not shard.slots_after
        table.add_row(
            shard.id[:8],
            escape(shard.node),
            f"{shard.slots / report.slots:.2%}",
            f"{shard.slots_after / report.slots:.2%}",
            "-" if to_be_empty else f"{shard.off:+.1%}",
            "-" if to_be_empty else f"{shard.off_after:+.1%}",
            str(shard.gains) if shard.gains else "-",
            str(shard.loses) if shard.loses else "-",
        )
    return table


def rebalance_words(report: RebalanceReport) -> str:
    """What it comes to, for people."""
    if not report.moves:
        return "nothing is to be moved: shares are as even as they may be"
    moved = (
        f"{report.moves} of {report.slots} slots ({report.moves / report.slots:.2%}), with "
        f"{about_size(report.bytes_max)} of chunks at most"
    )
    if report.made:
        return f"epoch {report.epoch} moves {moved}; former owners are asked meanwhile"
    return f"it would move {moved}; nothing was changed"


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
        round(shard.done, 4),
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
        "done",
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
            f"{shard.done:.0%}" if shard.state in ("joining", "draining") else "-",
            shown_left(shard.left_s),
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
    if report.shard_second:
        kept = "second copy" if report.copies > 1 else "second copy, if it is popular"
        table.add_row(kept, report.shard_second[:8])
    return table


def shown_left(left_s: float) -> str:
    """How long a change still takes, for people."""
    if not left_s:
        return "-"
    minutes, seconds = divmod(round(left_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
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
