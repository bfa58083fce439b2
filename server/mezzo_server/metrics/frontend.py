"""Every metric of a front-end."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Histograms, Kind, Metric, Table, Words, one

METRICS: tuple[Metric, ...] = (
    Metric(
        "mezzo_frontend_calls_total",
        Kind.COUNTER,
        "gRPC calls that ended, by method and status.",
        Table("calls"),
        ("method", "status"),
        "RESOURCE_EXHAUSTED: a limit was met, here (`frontend.calls_max`, `frontend.staging_bytes`) or in"
        " the shard. UNAVAILABLE: the shard cannot be reached.",
    ),
    Metric(
        "mezzo_frontend_call_duration_seconds",
        Kind.HISTOGRAM,
        "Time of gRPC calls, by method.",
        Histograms("call"),
        ("method",),
    ),
    Metric(
        "mezzo_frontend_calls_in_flight",
        Kind.GAUGE,
        "gRPC calls that are under way.",
        one("calls_in_flight"),
        (),
        "At `frontend.calls_max` further calls are refused.",
    ),
    Metric(
        "mezzo_frontend_received_bytes_total",
        Kind.COUNTER,
        "Payload received in puts.",
        one("bytes_in"),
    ),
    Metric(
        "mezzo_frontend_sent_bytes_total",
        Kind.COUNTER,
        "Payload sent in gets.",
        one("bytes_out"),
    ),
    Metric(
        "mezzo_frontend_staging_bytes",
        Kind.GAUGE,
        "Memory that calls hold for payload.",
        one("staging_used_bytes"),
    ),
    Metric(
        "mezzo_frontend_namespaces",
        Kind.GAUGE,
        "Namespaces with a connection to the shard.",
        one("namespaces"),
    ),
    Metric("mezzo_frontend_uptime_seconds", Kind.GAUGE, "Time since the front-end's start.", one("uptime_s")),
    Metric(
        "mezzo_frontend_loop_stalled",
        Kind.GAUGE,
        "1 if the event loop did not answer this scrape in time: all else is what it last told.",
        one("loop_stalled"),
    ),
    Metric("mezzo_frontend_info", Kind.INFO, "What runs.", Words(("version",)), ("version",)),
)
