"""Every metric of the supervisor."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Metric, Table, one
from mezzo_server.metrics.declaring import SUPERVISOR

METRICS: tuple[Metric, ...] = (
    SUPERVISOR.gauge(
        "part_ready",
        "Whether a process of the node is ready.",
        Table("ready"),
        ("part",),
        advice="0 for longer than a start takes: the log has the last words of what ended.",
    ),
    SUPERVISOR.counter(
        "part_restarts",
        "Starts of a process after its first.",
        Table("restarts"),
        ("part",),
        advice="Any restart that nobody asked for is worth a look at the log; what was acknowledged is still there.",
    ),
    SUPERVISOR.gauge(
        "part_failures",
        "Ends of a process since it last ran for long enough; each doubles the wait before the next start.",
        Table("failures"),
        ("part",),
    ),
    SUPERVISOR.gauge("uptime_seconds", "Time since the supervisor's start.", one("uptime_s")),
    SUPERVISOR.info("What runs.", ("version",)),
)
