"""Every metric of the supervisor."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Kind, Metric, Table, Words, one

METRICS: tuple[Metric, ...] = (
    Metric(
        "mezzo_supervisor_part_ready",
        Kind.GAUGE,
        "Whether a process of the node is ready.",
        Table("ready"),
        ("part",),
        "0 for longer than a start takes: the log has the last words of what ended.",
    ),
    Metric(
        "mezzo_supervisor_part_restarts_total",
        Kind.COUNTER,
        "Starts of a process after its first.",
        Table("restarts"),
        ("part",),
        "Any restart that nobody asked for is worth a look at the log; what was acknowledged is still there.",
    ),
    Metric(
        "mezzo_supervisor_part_failures",
        Kind.GAUGE,
        "Ends of a process since it last ran for long enough; each doubles the wait before the next start.",
        Table("failures"),
        ("part",),
    ),
    Metric(
        "mezzo_supervisor_uptime_seconds", Kind.GAUGE, "Time since the supervisor's start.", one("uptime_s")
    ),
    Metric(
        "mezzo_supervisor_info",
        Kind.INFO,
        "What runs.",
        Words(("version",)),
        ("version",),
    ),
)
