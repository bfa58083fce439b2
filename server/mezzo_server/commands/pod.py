"""`mezzo pod` and `mezzo locate`: the shards of a pod, who has what, and who is to be emptied."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer

from mezzo.cli.keys import format_key, parse_key
from mezzo.cli.output import json_result, remark, result
from mezzo.durations import parse_duration
from mezzo.errors import InvalidArgument, Unavailable
from mezzo.placement.pod_map import ShardPlace, encode_map
from mezzo_server.admin.opening import audit_of
from mezzo_server.commands import operator as op
from mezzo_server.commands.pod_parts import PartsReport, parts_report, parts_table
from mezzo_server.commands.pod_reports import (
    LocateReport,
    PaceReport,
    PodReport,
    locate_table,
    map_table,
    pace_line,
    pace_report,
    pod_report,
    rebalance_report,
    rebalance_table,
    rebalance_words,
    status_table,
)
from mezzo_server.commands.pod_waiting import Change, Stand, emptied, followed, shares, shown
from mezzo_server.config import NodeConfig, load_with_origins
from mezzo_server.logs import configure_logs

if TYPE_CHECKING:
    from mezzo_server.metadata.engine import Engine
    from mezzo_server.pod.operating import PodOperator
    from mezzo_server.pod.rebalancing import Rebalance

T = TypeVar("T")

WAIT_S = 2.0
"""between two looks while a command waits"""

Config = Annotated[
    Path | None,
    typer.Option(
        envvar=op.CONFIG_VARIABLE, help="A node's settings: the pod is the one of their metadata engine."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ShardName = Annotated[
    str,
    typer.Argument(
        metavar="SHARD",
        help="The beginning of its id, four digits at least, or its node if that has no other.",
        show_default=False,
    ),
]


def register_pod(app: typer.Typer) -> None:
    """Add `mezzo pod` with the commands below it, and `mezzo locate`."""
    group = typer.Typer(
        help="Look at a pod; empty a shard, take it back, make shares even.", no_args_is_help=True
    )
    group.command("status")(status)
    group.command("map")(show_map)
    group.command("drain")(drain)
    group.command("join")(join)
    group.command("rebalance")(rebalance)
    group.command("parts")(parts)
    group.command("pace")(pace)
    app.add_typer(group, name="pod")
    app.command("locate")(locate)


def status(*, config: Config = None, json: Json = False) -> None:
    """Show the shards of a pod, what each of them has, and how far changes have come."""
    report = pod_report(_act(config, lambda node, pod: pod.look()))
    if json:
        json_result(msgspec.json.encode(report))
        return
    result(status_table(report))
    _remark_behind(report)


def show_map(
    *,
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the map as clients get it (docs/placement.md).")
    ] = None,
    json: Json = False,
) -> None:
    """Show the map in force: epoch, shards with their addresses and weights, and how many slots each has."""

    async def work(node: NodeConfig, pod: PodOperator) -> tuple[PodReport, bytes, tuple[ShardPlace, ...]]:
        view = await pod.view()
        plan = view.present
        if plan is None:
            raise InvalidArgument("the pod has no map")
        from mezzo_server.pod.operating import seen

        return (
            pod_report(seen(view, time.time())),
            encode_map(plan.pod_map),
            plan.pod_map.shards,
        )

    report, encoded, places = _act(config, work)
    if out is not None:
        out.write_bytes(encoded)
        remark(f"wrote {len(encoded)} bytes to {out}")
    if json:
        json_result(msgspec.json.encode(report))
    else:
        result(map_table(report, places))


def parts(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Its name.", show_default=False)],
    *,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show which part of a tenant's quota each shard enforces, and what those near their part use of it."""

    async def work(node: NodeConfig, pod: PodOperator, engine: Engine) -> PartsReport:
        from mezzo_server.quota.defaults import default_quota
        from mezzo_server.tenancy.registry import Registry

        of = await Registry(engine, time.time, os.urandom).tenant(tenant)
        return parts_report(await pod.view(), of, default_quota(node.shard.quota))

    report = _with_engine(config, work)
    if json:
        json_result(msgspec.json.encode(report))
        return
    result(parts_table(report))
    if not report.limits:
        remark("the tenant has no quota, and there is none by default")
    if report.behind:
        remark(f"{report.behind} shards do not enforce this division yet; there is no other before")


def drain(
    shard: ShardName,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when nobody asks the shard for anything any more.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Empty a shard: from the next map on it owns nothing, and is asked for a while for what it has."""
    shard_id = _act(config, lambda node, pod: _audited(node, "pod.drain", shard, lambda: pod.drain(shard)))
    report, over = _waited(config, emptied(shard_id.hex()), wait=wait)
    _told(report, json=json, done=f"shard {shard_id.hex()[:8]} is to be emptied")
    if over and wait and not json:
        sys.stdout.write("nobody asks it for anything any more: it may be stopped\n")


def join(
    shard: ShardName,
    *,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Return when the shard has all of its share, and all follow that map."),
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a shard back that was to be emptied. (A new one joins by itself when it starts; --wait waits for that, too.)"""
    shard_id = _act(config, lambda node, pod: _audited(node, "pod.join", shard, lambda: pod.join(shard)))
    report, over = _waited(config, shares(shard_id.hex()), wait=wait)
    _told(report, json=json, done=f"shard {shard_id.hex()[:8]} is to have its share")
    if over and wait and not json:
        sys.stdout.write("it has its share\n")


def rebalance(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would move, and change nothing.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all shards follow the new map.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make shares as even as may be, and let shards that are joining have all of theirs at once.

    Who comes, goes, or has another capacity is heeded by itself, in steps; this is for who does not want to wait for them.
    """

    async def work(node: NodeConfig, pod: PodOperator) -> Rebalance:
        from mezzo_server.admin.local import audited

        if dry_run:
            return await pod.rebalance(dry_run=True)
        return await audited(
            audit_of(node),
            op.local_actor(),
            "pod.rebalance",
            pod.rebalance,
            lambda told: {"epoch": told.epoch, "moves": told.moves},
        )

    told = rebalance_report(_act(config, work))
    if told.made and wait:
        _waited(config, followed(told.epoch), wait=True)
    if json:
        json_result(msgspec.json.encode(told))
        return
    result(rebalance_table(told))
    result(rebalance_words(told))


def pace(
    *,
    ramp: Annotated[
        str | None, typer.Option(metavar="TIME", help="A new shard takes its share in steps over so long.")
    ] = None,
    asked: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="For so long after a slot moved its former owner is asked."),
    ] = None,
    remembered: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="For so long a shard that left gets its slots back at once."),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show how fast a pod changes, and change that: it counts from the next map on."""
    given = {"ramp_s": ramp, "asked_s": asked, "remembered_s": remembered}
    change = {name: _duration(name, text) for name, text in given.items() if text is not None}

    async def work(node: NodeConfig, pod: PodOperator) -> PaceReport:
        if not change:
            return pace_report(await pod.pace({}))
        from mezzo_server.admin.local import audited

        actor = op.local_actor()
        return pace_report(
            await audited(audit_of(node), actor, "pod.pace", lambda: pod.pace(change), lambda _: {}, **change)
        )

    report = _act(config, work)
    if json:
        json_result(msgspec.json.encode(report))
    else:
        result(pace_line(report))


def _duration(name: str, text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"--{name.removesuffix('_s')}: {error}") from None


def locate(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Text, or hex:...", show_default=False)],
    *,
    tenant: Annotated[str, typer.Option(help="Name of the tenant.")] = "default",
    namespace: Annotated[str, typer.Option(help="Name of its namespace.")] = "default",
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell which shard has a chunk, if it is there: by its key alone, without asking any."""
    name = parse_key(key)

    async def work(node: NodeConfig, pod: PodOperator, engine: Engine) -> LocateReport:
        from mezzo_server.tenancy.model import copies_of
        from mezzo_server.tenancy.registry import Registry

        registry = Registry(engine, time.time, os.urandom)
        of = await registry.tenant(tenant)
        within = await registry.namespace(of.id, namespace)
        plan = (await pod.view()).present
        if plan is None:
            raise InvalidArgument("the pod has no map")
        pod_map = plan.pod_map
        slot = pod_map.slot(of.id, within.id, name)
        owner, before, second = pod_map.owner(slot), pod_map.owner_before(slot), pod_map.second(slot)
        return LocateReport(
            format_key(name),
            slot,
            pod_map.epoch,
            "" if owner is None else owner.id.hex(),
            "" if owner is None else owner.node,
            [] if owner is None else list(owner.addresses),
            "" if before is None else before.id.hex(),
            "" if second is None else second.id.hex(),
            copies_of(of, within),
        )

    report = _with_engine(config, work)
    if json:
        json_result(msgspec.json.encode(report))
    else:
        result(locate_table(report))


def _waited(config: Path | None, change: Change, *, wait: bool) -> tuple[PodReport, bool]:
    """How the pod is, and whether a change has come to its end; ``wait``: when it has.

    Raises:
        Unavailable: the metadata cannot be reached; who waits already goes on.
    """
    done: float | None = None
    with shown() as show:
        while True:
            try:
                report = pod_report(_act(config, lambda node, pod: pod.look()))
            except Unavailable as error:
                if done is None:
                    raise
                stand = Stand(False, done, str(error))
            else:
                stand = change(report)
                if stand.over or not wait:
                    return report, stand.over
                done = stand.done
            show(stand)
            time.sleep(WAIT_S)


def _told(report: PodReport, *, json: bool, done: str) -> None:
    if json:
        json_result(msgspec.json.encode(report))
    else:
        sys.stdout.write(done + "\n")


def _remark_behind(report: PodReport) -> None:
    if report.behind:
        remark(f"{report.behind} shards do not follow this map yet; there is no other before")
    if not report.epoch:
        remark("no map was made yet: a front-end makes it when shards have registered")


async def _audited(node: NodeConfig, action: str, shard: str, work: Callable[[], Awaitable[bytes]]) -> bytes:
    from mezzo_server.admin.local import audited

    return await audited(
        audit_of(node), op.local_actor(), action, work, lambda shard_id: {"shard_id": shard_id}, shard=shard
    )


def _act(config: Path | None, work: Callable[[NodeConfig, PodOperator], Awaitable[T]]) -> T:
    return _with_engine(config, lambda node, pod, engine: work(node, pod))


def _with_engine(config: Path | None, work: Callable[[NodeConfig, PodOperator, Engine], Awaitable[T]]) -> T:
    if config is None:
        raise InvalidArgument(
            f"say which pod: --config mezzo.toml, or {op.CONFIG_VARIABLE} (the settings of one of its nodes)"
        )
    node = load_with_origins(config, os.environ).config
    configure_logs(node.log, op.PROCESS)

    async def run() -> T:
        from mezzo_server.pod.operating import PodOperator

        engine = op.engine_of(node)
        try:
            return await work(node, PodOperator(engine, time.time), engine)
        finally:
            await engine.close()

    return asyncio.run(run())
