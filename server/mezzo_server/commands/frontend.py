"""`mezzo frontend`: one front-end in this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from mezzo.cli.output import json_result
from mezzo_server.commands.options import LOG_FLAGS, Flag, Json, Settings, takes_settings
from mezzo_server.frontend.before_grpc import before_grpc

if TYPE_CHECKING:
    from mezzo_server.frontend.main import Readiness


@takes_settings(
    Flag("frontend.listen", metavar="HOST:PORT"),
    Flag("frontend.admin_listen", "--admin", metavar="HOST:PORT"),
    Flag("frontend.shard", metavar="ADDRESS"),
    Flag("frontend.advertise", metavar="ADDRESS"),
    Flag("frontend.calls_max"),
    Flag("frontend.staging_bytes", "--staging"),
    Flag("frontend.insecure"),
    Flag("metadata.engine", "--metadata", metavar="URL"),
    Flag("metrics.frontend", "--metrics", metavar="HOST:PORT"),
    *LOG_FLAGS,
    process="frontend",
)
def frontend(settings: Settings, *, json: Json = False) -> None:
    """Run a gRPC front-end of a shard until SIGTERM or SIGINT."""
    before_grpc()
    from mezzo_server.frontend.main import serve as run

    def announce(readiness: Readiness) -> None:
        if json:
            json_result(msgspec.json.encode(readiness))
        else:
            sys.stdout.write("\n".join(describe(readiness)) + "\n")
            sys.stdout.flush()

    run(settings.node, announce)


def describe(readiness: Readiness) -> list[str]:
    """The lines that say that a front-end is ready."""
    reached = "" if readiness.serving else "  (cannot be reached yet)"
    metrics = [f"  metrics     http://{readiness.metrics}/metrics"] if readiness.metrics else []
    return [
        f"mezzo frontend ready (process {readiness.pid})",
        f"  gRPC        {readiness.listen}",
        f"  admin       {readiness.admin}",
        f"  shard       {readiness.shard}{reached}",
        *metrics,
    ]
