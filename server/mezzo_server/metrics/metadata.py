"""Every metric of a metadata service."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Histograms, Metric, Table, one
from mezzo_server.metrics.declaring import METADATA
from mezzo_server.metrics.pod import planning_metrics
from mezzo_server.metrics.tls import certificate_metrics

METRICS: tuple[Metric, ...] = (
    METADATA.counter("calls", "Calls that ended, well or not, by method.", Table("calls"), ("method",)),
    METADATA.counter(
        "errors",
        "Calls that ended with an error, by its code; CANCELLED: by the caller.",
        Table("errors"),
        ("code",),
        advice="UNAVAILABLE: the engine cannot be reached. UNAUTHENTICATED: somebody without the pod's secret, or with one"
        " that was changed.",
    ),
    METADATA.histogram("call_duration_seconds", "Time of calls, by method.", Histograms("call"), ("method",)),
    METADATA.gauge(
        "calls_in_flight",
        "Calls that are under way, watches among them.",
        one("calls_in_flight"),
        advice="At `metadata_service.calls_max` further ones are refused: run another replica.",
    ),
    METADATA.gauge(
        "calls_in_flight_most",
        "The most calls that ever were under way at a time.",
        one("calls_in_flight_max"),
    ),
    METADATA.counter(
        "calls_refused",
        "Calls refused because `metadata_service.calls_max` were under way.",
        one("refused"),
        advice="Run another replica, or raise the limit.",
    ),
    METADATA.gauge(
        "watches", "Watches that are under way: two for each shard and front-end.", one("watches")
    ),
    METADATA.gauge(
        "serving",
        "Whether the engine answered when it was last asked.",
        one("serving"),
        advice="0: calls fail at once, and callers go to another replica.",
    ),
    *certificate_metrics(METADATA),
    *planning_metrics(METADATA),
    METADATA.gauge("uptime_seconds", "Time since the start.", one("uptime_s")),
    METADATA.gauge(
        "loop_stalled",
        "1 if the event loop did not answer this scrape in time: all else is what it last told.",
        one("loop_stalled"),
    ),
    METADATA.info("What runs.", ("version",)),
)
