"""Every metric of a front-end."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Histograms, Metric, Table, one
from mezzo_server.metrics.declaring import FRONTEND
from mezzo_server.metrics.following import catalog_metrics
from mezzo_server.metrics.pod import planning_metrics
from mezzo_server.metrics.tls import certificate_metrics

METRICS: tuple[Metric, ...] = (
    FRONTEND.counter(
        "calls",
        "gRPC calls that ended, well or not, by method.",
        Table("calls"),
        ("method",),
    ),
    FRONTEND.counter(
        "errors",
        "Calls that ended with an error, by its code; CANCELLED: by the caller.",
        Table("errors"),
        ("code",),
        advice="BUSY: a limit was met, here (`frontend.calls_max`, `frontend.staging_bytes`) or in the shard."
        " UNAVAILABLE: the shard cannot be reached.",
    ),
    FRONTEND.counter(
        "authentications",
        "Callers, by kind of credential (token, jwt, certificate, anonymous) and outcome: ok, or why not.",
        Table("authentications"),
        ("kind", "outcome"),
        advice="docs/access.md says what each reason means. Many of `unknown` or `malformed`: somebody guesses.",
    ),
    FRONTEND.counter(
        "audit_records",
        "Records of the audit log that this front-end wrote, by outcome: done, refused, failed.",
        Table("audit"),
        ("outcome",),
        advice="docs/tenants.md says what is in it. Many of `refused`: somebody tries what he may not.",
    ),
    FRONTEND.counter(
        "audit_lost",
        "Records of the audit log that could not be written, after what they tell of had been done.",
        one("audit_lost"),
        advice="The disk of the audit log is full or gone; the log of the front-end says what was lost.",
    ),
    FRONTEND.histogram(
        "call_duration_seconds",
        "Time of gRPC calls, by method.",
        Histograms("call"),
        ("method",),
    ),
    FRONTEND.gauge(
        "calls_in_flight",
        "gRPC calls that are under way.",
        one("calls_in_flight"),
        advice="At `frontend.calls_max` further calls are refused.",
    ),
    FRONTEND.counter(
        "received_bytes",
        "Payload received in puts.",
        one("bytes_in"),
    ),
    FRONTEND.counter(
        "sent_bytes",
        "Payload sent in gets.",
        one("bytes_out"),
    ),
    FRONTEND.gauge(
        "calls_in_flight_most",
        "The most calls that ever were under way at a time.",
        one("calls_in_flight_max"),
    ),
    FRONTEND.counter(
        "calls_refused",
        "Calls refused because `frontend.calls_max` were under way.",
        one("refused"),
        advice="Raise the limit, or let more callers go to the shard directly.",
    ),
    FRONTEND.counter(
        "staging_refused",
        "Calls that found no staging memory in time.",
        one("staging_refused"),
        advice="Raise `frontend.staging_bytes`.",
    ),
    FRONTEND.gauge("leases", "Leases held on behalf of callers.", one("leases")),
    FRONTEND.counter("sessions", "Sessions opened.", one("sessions")),
    FRONTEND.counter(
        "maps",
        "Maps of several shards told with sessions: whole, as what has changed (difference), or not again (as_had).",
        Table("maps"),
        ("told",),
        advice="Most are as_had, when tickets are renewed. Many whole ones: clients that connect anew all the time, or of an"
        " older release.",
    ),
    FRONTEND.gauge(
        "serving",
        "Whether the shard answered when it was last asked.",
        one("serving"),
        advice="0: the shard is down or hangs; calls fail as UNAVAILABLE meanwhile.",
    ),
    FRONTEND.gauge(
        "namespaces",
        "Namespaces with a connection to the shard.",
        one("namespaces"),
    ),
    *certificate_metrics(FRONTEND),
    *catalog_metrics(FRONTEND),
    *planning_metrics(FRONTEND),
    FRONTEND.gauge("uptime_seconds", "Time since the front-end's start.", one("uptime_s")),
    FRONTEND.gauge(
        "loop_stalled",
        "1 if the event loop did not answer this scrape in time: all else is what it last told.",
        one("loop_stalled"),
    ),
    FRONTEND.info("What runs.", ("version",)),
)
