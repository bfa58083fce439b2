"""`mezzo serve`: a node, which is a shard and its front-end under one supervisor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
import typer

from mezzo.cli.output import json_result
from mezzo.errors import InvalidArgument
from mezzo_server.commands.options import LOG_FLAGS, Flag, Json, Settings, takes_settings
from mezzo_server.commands.shard import describe

if TYPE_CHECKING:
    from mezzo_server.config import NodeConfig
    from mezzo_server.supervisor.main import NodeReadiness


@takes_settings(
    Flag("supervisor.shards"),
    Flag("shard.devices", "--device", metavar="DEVICE"),
    Flag("shard.capacity_bytes", "--capacity"),
    Flag("shard.listen", metavar="ADDRESS"),
    Flag("shard.hot.bytes", "--hot"),
    Flag("shard.format"),
    Flag("shard.durability"),
    Flag("shard.insecure"),
    Flag("metadata.engine", "--metadata", metavar="URL"),
    Flag("frontend.enabled", "--frontend"),
    Flag("frontend.listen", "--grpc", metavar="HOST:PORT"),
    Flag("frontend.insecure", "--insecure-grpc"),
    *LOG_FLAGS,
    process="supervisor",
)
def serve(settings: Settings, *, json: Json = False) -> None:
    """Run a node: its shards and its gRPC front-end, kept running until SIGTERM or SIGINT."""
    from mezzo_server.supervisor.main import serve as run

    if not settings.node.shard.devices:
        raise InvalidArgument("no device: give --device FILE --capacity SIZE, or --device memory:SIZE")

    def announce(readiness: NodeReadiness) -> None:
        if json:
            json_result(msgspec.json.encode(readiness))
        else:
            sys.stdout.write("\n".join(_lines(readiness, settings.node)) + "\n")
            sys.stdout.flush()

    status = run(settings.node, announce)
    if status:
        raise typer.Exit(status)


def _lines(readiness: NodeReadiness, node: NodeConfig) -> list[str]:
    from mezzo_server.config.memory import node_memory, told
    from mezzo_server.config.several import shard_name
    from mezzo_server.shard.main import Readiness

    lines = [f"mezzo node ready in {readiness.start_s:.2f} s (process {readiness.pid})"]
    if len(readiness.shards) > 1:
        lines.append(f"  memory      {told(node_memory(node))}")
    # Where metrics are comes once, at the end, for all processes.
    for number, said in enumerate(readiness.shards):
        name = shard_name(number, len(readiness.shards))
        if not said:
            lines.append(f"mezzo {name} is not ready: the log says why, and it is started again and again")
            continue
        shard = msgspec.structs.replace(msgspec.convert(said, Readiness), metrics="")
        lines += describe(shard, name)
    if readiness.metadata is not None:
        from mezzo_server.commands.meta import describe as describe_metadata

        lines += describe_metadata({**readiness.metadata, "metrics": ""})
    if readiness.frontend is not None:
        lines.append(f"mezzo frontend ready (process {readiness.frontend.get('pid', '?')})")
        for name, label in (("listen", "gRPC"), ("admin", "admin")):
            if readiness.frontend.get(name):
                lines.append(f"  {label:<11} {readiness.frontend[name]}")
    for name, address in sorted(readiness.metrics.items()):
        lines.append(f"{name} metrics at http://{address}/metrics")
    return lines
