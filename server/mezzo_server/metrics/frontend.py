"""Every metric of a front-end."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Histograms, Kind, Metric, Table, Words, one
from mezzo_server.metrics.following import catalog_metrics
from mezzo_server.metrics.tls import certificate_metrics

METRICS: tuple[Metric, ...] = (
    Metric(
        "mezzo_frontend_calls_total",
        Kind.COUNTER,
        "gRPC calls that ended, well or not, by method.",
        Table("calls"),
        ("method",),
    ),
    Metric(
        "mezzo_frontend_errors_total",
        Kind.COUNTER,
        "Calls that ended with an error, by its code; CANCELLED: by the caller.",
        Table("errors"),
        ("code",),
        "BUSY: a limit was met, here (`frontend.calls_max`, `frontend.staging_bytes`) or in the shard."
        " UNAVAILABLE: the shard cannot be reached.",
    ),
    Metric(
        "mezzo_frontend_authentications_total",
        Kind.COUNTER,
        "Callers, by kind of credential (token, jwt, certificate, anonymous) and outcome: ok, or why not.",
        Table("authentications"),
        ("kind", "outcome"),
        "docs/access.md says what each reason means. Many of `unknown` or `malformed`: somebody guesses.",
    ),
    Metric(
        "mezzo_frontend_audit_records_total",
        Kind.COUNTER,
        "Records of the audit log that this front-end wrote, by outcome: done, refused, failed.",
        Table("audit"),
        ("outcome",),
        "docs/tenants.md says what is in it. Many of `refused`: somebody tries what he may not.",
    ),
    Metric(
        "mezzo_frontend_audit_lost_total",
        Kind.COUNTER,
        "Records of the audit log that could not be written, after what they tell of had been done.",
        one("audit_lost"),
        (),
        "The disk of the audit log is full or gone; the log of the front-end says what was lost.",
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
        "mezzo_frontend_calls_in_flight_most",
        Kind.GAUGE,
        "The most calls that ever were under way at a time.",
        one("calls_in_flight_max"),
    ),
    Metric(
        "mezzo_frontend_calls_refused_total",
        Kind.COUNTER,
        "Calls refused because `frontend.calls_max` were under way.",
        one("refused"),
        (),
        "Raise the limit, or let more callers go to the shard directly.",
    ),
    Metric(
        "mezzo_frontend_staging_refused_total",
        Kind.COUNTER,
        "Calls that found no staging memory in time.",
        one("staging_refused"),
        (),
        "Raise `frontend.staging_bytes`.",
    ),
    Metric("mezzo_frontend_leases", Kind.GAUGE, "Leases held on behalf of callers.", one("leases")),
    Metric("mezzo_frontend_sessions_total", Kind.COUNTER, "Sessions opened.", one("sessions")),
    Metric(
        "mezzo_frontend_serving",
        Kind.GAUGE,
        "Whether the shard answered when it was last asked.",
        one("serving"),
        (),
        "0: the shard is down or hangs; calls fail as UNAVAILABLE meanwhile.",
    ),
    Metric(
        "mezzo_frontend_namespaces",
        Kind.GAUGE,
        "Namespaces with a connection to the shard.",
        one("namespaces"),
    ),
    *certificate_metrics("frontend"),
    *catalog_metrics("frontend"),
    Metric("mezzo_frontend_uptime_seconds", Kind.GAUGE, "Time since the front-end's start.", one("uptime_s")),
    Metric(
        "mezzo_frontend_loop_stalled",
        Kind.GAUGE,
        "1 if the event loop did not answer this scrape in time: all else is what it last told.",
        one("loop_stalled"),
    ),
    Metric("mezzo_frontend_info", Kind.INFO, "What runs.", Words(("version",)), ("version",)),
)
