"""Metrics of TLS: certificates of both processes, handshakes and connections of a shard."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Metric, by, one
from mezzo_server.metrics.declaring import SHARD, Declaring
from mezzo_server.shard.tls_reasons import REASONS


def certificate_metrics(declare: Declaring) -> tuple[Metric, ...]:
    """Those of the certificate in force, of a process that has one."""
    return (
        declare.gauge(
            "certificate_expires_seconds",
            "Unix time when the certificate in force expires; 0 without TLS.",
            one("tls_certificate_expires_s"),
            advice="Renew it before: the files are read again by themselves.",
        ),
        declare.counter(
            "certificate_reloads",
            "Times that a new certificate was taken in.",
            one("tls_certificate_reloads"),
        ),
        declare.counter(
            "certificate_reload_failures",
            "Looks at certificate files that could not be used; the old ones stay in force.",
            one("tls_certificate_reload_failures"),
            advice="The log says why; `mezzo doctor --config` looks at the files as well.",
        ),
    )


SHARD_METRICS = (
    SHARD.gauge("tls_connections", "Clients connected over TLS.", one("tls_connections")),
    SHARD.counter(
        "tls_handshakes",
        "TLS handshakes that ended well.",
        one("tls_handshakes"),
    ),
    SHARD.gauge(
        "tls_handshakes_in_progress",
        "TLS handshakes that are under way.",
        one("tls_handshakes_in_progress"),
        advice="At `tls.handshakes_max` further connections wait to be accepted.",
    ),
    SHARD.counter(
        "tls_handshake_failures",
        "TLS handshakes that failed, by reason: plain (the peer does not speak TLS), timeout, lost (it went away),"
        " certificate (its own or ours is not taken), version (older than 1.3), other.",
        by({reason: f"tls_handshake_failures_{reason}" for reason in REASONS}),
        ("reason",),
        advice="The log says who and why. `certificate`: clients do not trust ours, or show none where one is required.",
    ),
    SHARD.counter(
        "tls_faults",
        "Faults of ours in the threads that encrypt, which were caught.",
        one("tls_faults"),
        advice="Report them, with the log.",
    ),
    *certificate_metrics(SHARD),
)
