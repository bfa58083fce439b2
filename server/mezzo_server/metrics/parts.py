"""What the supervisor knows of its parts, as a sample."""

from __future__ import annotations

from collections.abc import Iterable

from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.version import version
from mezzo_server.supervisor.plan import PartReport


def supervisor_sample(parts: Iterable[PartReport], uptime_s: float) -> Sample:
    """Of reports of the parts."""
    told = list(parts)
    return Sample(
        numbers={"uptime_s": uptime_s},
        tables={
            "ready": {(part.name,): float(part.state == "ready") for part in told},
            "restarts": {(part.name,): part.restarts for part in told},
            "failures": {(part.name,): part.failures for part in told},
        },
        words={"version": version()},
    )
