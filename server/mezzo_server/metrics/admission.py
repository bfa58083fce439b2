"""Metrics of a shard's door: who was let in, and who was not."""

from __future__ import annotations

from mezzo_server.access.principal import Reason
from mezzo_server.metrics.catalog import Metric, by, one
from mezzo_server.metrics.declaring import SHARD

ADMISSION_METRICS: tuple[Metric, ...] = (
    SHARD.counter(
        "tickets_accepted",
        "Sessions that were let in, and tickets that were renewed.",
        one("tickets_accepted"),
    ),
    SHARD.counter(
        "tickets_refused",
        "Tickets, and sessions without one, that were refused, by reason.",
        by({reason.value: f"tickets_refused_{reason.value}" for reason in Reason}),
        ("reason",),
        advice="docs/access.md says what each reason means. `unknown_key` and `unknown`, now and then: a front-end"
        " or a token that was new. Many: the shard does not hear of changes of the metadata.",
    ),
    SHARD.counter(
        "sessions_ended_unwelcome",
        "Sessions that ended because their credential was revoked, their tenant deleted, or their ticket"
        " never renewed.",
        one("sessions_ended_unwelcome"),
    ),
)
