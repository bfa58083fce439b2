"""Metrics of who follows the metadata: a shard, and a front-end."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Kind, Metric, one


def catalog_metrics(part: str) -> tuple[Metric, ...]:
    """Of the catalog that a ``part`` holds."""
    return (
        Metric(
            f"mezzo_{part}_catalog_revision",
            Kind.GAUGE,
            "Revision of the metadata that the catalog in force is of; 0: none are kept.",
            one("catalog_revision"),
        ),
        Metric(
            f"mezzo_{part}_catalog_age_seconds",
            Kind.GAUGE,
            "Time since the metadata engine last answered; -1: it never did.",
            one("catalog_age_s"),
            (),
            "Over some seconds: the engine is away. Known tenants go on; what is changed or deleted meanwhile"
            " is not heeded before it is back.",
        ),
        Metric(
            f"mezzo_{part}_catalog_failures_total",
            Kind.COUNTER,
            "Attempts to reach the metadata engine that failed.",
            one("catalog_failures"),
            (),
            "The log says why the first of them failed.",
        ),
        Metric(
            f"mezzo_{part}_catalog_loads_total",
            Kind.COUNTER,
            "Times that all metadata were read.",
            one("catalog_loads"),
        ),
        Metric(
            f"mezzo_{part}_catalog_changes_total",
            Kind.COUNTER,
            "Changes of metadata that were followed one by one.",
            one("catalog_changes"),
        ),
        Metric(f"mezzo_{part}_tenants_known", Kind.GAUGE, "Tenants in the catalog.", one("catalog_tenants")),
        Metric(
            f"mezzo_{part}_namespaces_known",
            Kind.GAUGE,
            "Namespaces in the catalog.",
            one("catalog_namespaces"),
        ),
    )
