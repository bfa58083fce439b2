"""What a front-end and a metadata service know of their calls, as samples."""

from __future__ import annotations

from collections.abc import Mapping

from mezzo_server.access.authentication import Authentication
from mezzo_server.admin.audit import Audit
from mezzo_server.frontend.numbers import SECONDS, CallNumbers, FrontendNumbers
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.measures import Histogram
from mezzo_server.metrics.version import version
from mezzo_server.pod.planning import NOTHING_PLANNED
from mezzo_server.tenancy.following import NOTHING_FOLLOWED
from mezzo_server.tls.certificates import Certificates, certificate_numbers

PLAIN = (
    "bytes_in",
    "bytes_out",
    "calls_in_flight",
    "calls_in_flight_max",
    "refused",
    "staging_refused",
    "namespaces",
    "leases",
    "sessions",
    "serving",
)


def frontend_sample(
    numbers: FrontendNumbers,
    uptime_s: float,
    certificates: Certificates | None = None,
    authentication: Authentication | None = None,
    catalog: Mapping[str, int | float] | None = None,
    audit: Audit | None = None,
    pod: Mapping[str, int | float] | None = None,
) -> Sample:
    """Of a front-end's numbers; called in its loop. ``catalog``: those of the watcher of the metadata; ``pod``: of the one
    of the pod.
    """
    return Sample(
        numbers={
            **{name: int(getattr(numbers, name)) for name in PLAIN},
            **certificate_numbers(certificates),
            **(NOTHING_FOLLOWED if catalog is None else catalog),
            **(NOTHING_PLANNED if pod is None else pod),
            "audit_lost": 0 if audit is None else audit.lost,
            "uptime_s": uptime_s,
        },
        histograms={"call": _durations(numbers)},
        tables={
            **_tables(numbers),
            "maps": {(told,): count for told, count in numbers.maps.items()},
            "audit": {} if audit is None else {(name,): count for name, count in audit.counts.items()},
            "authentications": {} if authentication is None else {**authentication.counts},
        },
        words={"version": version()},
    )


OF_CALLS = ("calls_in_flight", "calls_in_flight_max", "refused", "serving")


def metadata_sample(
    numbers: CallNumbers,
    uptime_s: float,
    watches: int,
    certificates: Certificates | None = None,
    pod: Mapping[str, int | float] | None = None,
) -> Sample:
    """Of a metadata service's numbers; called in its loop. ``pod``: those of who plans there."""
    return Sample(
        numbers={
            **{name: int(getattr(numbers, name)) for name in OF_CALLS},
            **certificate_numbers(certificates),
            **(NOTHING_PLANNED if pod is None else pod),
            "watches": watches,
            "uptime_s": uptime_s,
        },
        histograms={"call": _durations(numbers)},
        tables=_tables(numbers),
        words={"version": version()},
    )


def _durations(numbers: CallNumbers) -> dict[str, Histogram]:
    durations: dict[str, Histogram] = {}
    for method, told in numbers.seconds.items():
        histogram = durations[method] = Histogram(SECONDS)
        histogram.counts = list(told.buckets)
        histogram.total = told.seconds
    return durations


def _tables(numbers: CallNumbers) -> dict[str, dict[tuple[str, ...], float]]:
    return {
        "calls": {(method,): count for method, count in numbers.calls.items()},
        "errors": {(code,): count for code, count in numbers.errors.items()},
    }
