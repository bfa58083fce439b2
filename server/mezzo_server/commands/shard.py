"""`mezzo shard`: one shard in this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from mezzo.cli.output import json_result
from mezzo_server.commands.options import LOG_FLAGS, Flag, Json, Settings, takes_settings
from mezzo_server.commands.progress import recovery_progress
from mezzo_server.config.reach import authenticates

if TYPE_CHECKING:
    from mezzo_server.shard.main import Readiness


@takes_settings(
    Flag("shard.devices", "--device", metavar="DEVICE"),
    Flag("shard.capacity_bytes", "--capacity"),
    Flag("shard.listen", metavar="ADDRESS"),
    Flag("shard.hot.bytes", "--hot"),
    Flag("shard.hot.fill", "--hot-fill"),
    Flag("shard.format"),
    Flag("shard.durability"),
    Flag("shard.policy"),
    Flag("shard.io"),
    Flag("shard.depth"),
    Flag("shard.workers"),
    Flag("shard.segment_bytes", "--segment"),
    Flag("shard.scrub_bytes_per_s", "--scrub"),
    Flag("shard.loop"),
    Flag("shard.insecure"),
    Flag("metadata.engine", "--metadata", metavar="URL"),
    Flag("metrics.shard", "--metrics", metavar="HOST:PORT"),
    *LOG_FLAGS,
    process="shard",
)
def shard(settings: Settings, *, json: Json = False) -> None:
    """Run a shard: store KV chunks on devices and serve them until SIGTERM or SIGINT."""
    from mezzo_server.shard.main import serve as run

    def announce(readiness: Readiness) -> None:
        if json:
            json_result(msgspec.json.encode(readiness))
        else:
            _show(readiness)

    with recovery_progress() as progress:
        run(
            settings.node.shard,
            announce,
            progress,
            settings.node.metrics,
            None,
            tls=settings.node.tls,
            authenticated=authenticates(settings.node),
            node=settings.node,
        )


def _show(readiness: Readiness) -> None:
    sys.stdout.write("\n".join(describe(readiness)) + "\n")
    sys.stdout.flush()


def describe(readiness: Readiness, name: str = "shard") -> list[str]:
    """The lines that say that a shard is ready."""
    lines = [f"mezzo {name} ready in {readiness.start_s:.2f} s (process {readiness.pid})"]
    lines += [f"  listens on  {address}" for address in readiness.listen]
    for device in readiness.devices:
        how = f"{device.kind}, O_DIRECT" if device.direct else device.kind
        lines.append(f"  device      {device.name}  {device.bytes / 2**30:.2f} GiB  ({how})")
    live = f"{readiness.bytes_live / 2**30:.2f} GiB in {readiness.recovery_s:.2f} s"
    if readiness.metrics:
        lines.append(f"  metrics     http://{readiness.metrics}/metrics")
    lines += [
        f"  io          {readiness.io}",
        f"  recovered   {readiness.chunks} chunks, {live}",
        f"  settings    durability {readiness.durability}, policy {readiness.policy}, loop {readiness.loop}",
    ]
    return lines
