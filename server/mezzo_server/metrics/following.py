"""Metrics of who follows the metadata: a shard, and a front-end."""

from __future__ import annotations

from mezzo_server.metrics.catalog import Metric, one
from mezzo_server.metrics.declaring import Declaring


def catalog_metrics(declare: Declaring) -> tuple[Metric, ...]:
    """Of the catalog that a process holds."""
    return (
        declare.gauge(
            "catalog_revision",
            "Revision of the metadata that the catalog in force is of; 0: none are kept.",
            one("catalog_revision"),
        ),
        declare.gauge(
            "catalog_age_seconds",
            "Time since the metadata engine last answered; -1: it never did.",
            one("catalog_age_s"),
            advice="Over some seconds: the engine is away. Known tenants go on; what is changed or deleted meanwhile"
            " is not heeded before it is back.",
        ),
        declare.counter(
            "catalog_failures",
            "Attempts to reach the metadata engine that failed.",
            one("catalog_failures"),
            advice="The log says why the first of them failed.",
        ),
        declare.counter(
            "catalog_loads",
            "Times that all metadata were read.",
            one("catalog_loads"),
        ),
        declare.counter(
            "catalog_changes",
            "Changes of metadata that were followed one by one.",
            one("catalog_changes"),
        ),
        declare.gauge("tenants_known", "Tenants in the catalog.", one("catalog_tenants")),
        declare.gauge(
            "namespaces_known",
            "Namespaces in the catalog.",
            one("catalog_namespaces"),
        ),
    )
