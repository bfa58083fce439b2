"""Metrics of TLS: certificates of both processes, handshakes and connections of a shard."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Kind, Metric, by, one
from mezzo_server.shard.tls_reasons import REASONS


def certificate_metrics(process: str) -> tuple[Metric, ...]:
    """Those of the certificate in force, for ``mezzo_<process>``."""
    return (
        Metric(
            f"mezzo_{process}_certificate_expires_seconds",
            Kind.GAUGE,
            "Unix time when the certificate in force expires; 0 without TLS.",
            one("tls_certificate_expires_s"),
            (),
            "Renew it before: the files are read again by themselves.",
        ),
        Metric(
            f"mezzo_{process}_certificate_reloads_total",
            Kind.COUNTER,
            "Times that a new certificate was taken in.",
            one("tls_certificate_reloads"),
        ),
        Metric(
            f"mezzo_{process}_certificate_reload_failures_total",
            Kind.COUNTER,
            "Looks at certificate files that could not be used; the old ones stay in force.",
            one("tls_certificate_reload_failures"),
            (),
            "The log says why; `mezzo doctor --config` looks at the files as well.",
        ),
    )


SHARD_METRICS = (
    Metric("mezzo_shard_tls_connections", Kind.GAUGE, "Clients connected over TLS.", one("tls_connections")),
    Metric(
        "mezzo_shard_tls_handshakes_total",
        Kind.COUNTER,
        "TLS handshakes that ended well.",
        one("tls_handshakes"),
    ),
    Metric(
        "mezzo_shard_tls_handshakes_in_progress",
        Kind.GAUGE,
        "TLS handshakes that are under way.",
        one("tls_handshakes_in_progress"),
        (),
        "At `tls.handshakes_max` further connections wait to be accepted.",
    ),
    Metric(
        "mezzo_shard_tls_handshake_failures_total",
        Kind.COUNTER,
        "TLS handshakes that failed, by reason: plain (the peer does not speak TLS), timeout, lost (it went away),"
        " certificate (its own or ours is not taken), version (older than 1.3), other.",
        by({reason: f"tls_handshake_failures_{reason}" for reason in REASONS}),
        ("reason",),
        "The log says who and why. `certificate`: clients do not trust ours, or show none where one is required.",
    ),
    Metric(
        "mezzo_shard_tls_faults_total",
        Kind.COUNTER,
        "Faults of ours in the threads that encrypt, which were caught.",
        one("tls_faults"),
        (),
        "Report them, with the log.",
    ),
    *certificate_metrics("shard"),
)
