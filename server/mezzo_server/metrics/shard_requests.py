"""Metrics of a shard's connections and requests."""

from __future__ import annotations

from mezzo.errors import ErrorCode
from mezzo_server.metrics.catalog import Histograms, Metric, Numbers, Value, by, one
from mezzo_server.metrics.declaring import SHARD
from mezzo_server.metrics.measures import REQUEST_KINDS, TRANSFER_KINDS, TRANSPORTS

US = 1e-6
REQUESTS = tuple(kind.name.lower() for kind in REQUEST_KINDS)
TRANSFERS = tuple(kind.name.lower() for kind in TRANSFER_KINDS)
ERRORS = tuple(code.name.lower() for code in ErrorCode)


def _outcomes() -> Numbers:
    values: list[Value] = []
    for kind in REQUESTS:
        failed, cancelled = f"requests_failed_{kind}", f"requests_cancelled_{kind}"
        values += [
            Value((kind, "ok"), (f"requests_{kind}",), (failed, cancelled)),
            Value((kind, "error"), (failed,)),
            Value((kind, "cancelled"), (cancelled,)),
        ]
    return Numbers(tuple(values))


def _own_time() -> Numbers:
    values = []
    for kind in REQUESTS:
        minus = (f"request_device_us_{kind}",) if kind in TRANSFERS else ()
        values.append(Value((kind,), (f"request_us_{kind}",), minus, US))
    return Numbers(tuple(values))


REQUEST_METRICS: tuple[Metric, ...] = (
    SHARD.gauge(
        "connections",
        "Clients that are connected.",
        one("connections"),
        advice="At `limits.connections_max` further clients are refused.",
    ),
    SHARD.counter(
        "connections_refused",
        "Connections that were refused or cut off: over the limit, or not the protocol.",
        one("refused_connections"),
        advice="The log says who and why; raise `limits.connections_max` or find the client that leaks.",
    ),
    SHARD.counter(
        "requests",
        "Requests that ended, by kind and outcome: ok, error, cancelled (given up by the client).",
        _outcomes(),
        ("kind", "outcome"),
        advice="Errors by code tell what is wrong with those that failed.",
    ),
    SHARD.counter(
        "errors",
        "Errors answered, by code of the protocol.",
        by({code: f"errors_{code}" for code in ERRORS}),
        ("code",),
        advice="`busy`: a limit was met, see queues and staging. `internal`: a fault of ours, the log has"
        " it. `deadline`: clients ask for more than the devices give in their time.",
    ),
    SHARD.gauge("requests_in_flight", "Requests that are under way.", one("requests_in_flight")),
    SHARD.histogram(
        "request_duration_seconds",
        "Time from a request's frame to its answer, by kind; whatever its outcome.",
        Histograms("request"),
        ("kind",),
        advice="Compare with `mezzo_shard_request_device_seconds`: what is not the devices' time is ours,"
        " or (puts over tcp, slow readers) the client's.",
    ),
    SHARD.histogram(
        "request_device_seconds",
        "Device time of those requests that needed a device: from the first transfer submitted to the end"
        " of the last.",
        Histograms("request_device"),
        ("kind",),
        advice="Rising: the devices are busy or slow; look at transfers in flight and waiting.",
    ),
    SHARD.histogram(
        "load_ratio",
        "Time that gets took over what was estimated when they began, by tier: all hot, some from a device, or over"
        " a stream.",
        Histograms("load_ratio"),
        ("tier",),
        advice="Half of them should be between 0.8 and 1.25 under a steady load; far above: a device has become slow,"
        " or loads come in bursts, and `deadline_s` and `should_load` decide badly meanwhile.",
    ),
    SHARD.counter(
        "request_own_seconds",
        "Time of requests that was not device time: decisions, checksums, copies, waiting for memory, and"
        " for the client's own payload.",
        _own_time(),
        ("kind",),
    ),
    SHARD.counter(
        "payload_received_bytes",
        "Payload of chunks that were stored, by transport.",
        by({transport: f"bytes_in_{transport}" for transport in TRANSPORTS}),
        ("transport",),
    ),
    SHARD.counter(
        "payload_sent_bytes",
        "Payload of chunks that were delivered, by transport.",
        by({transport: f"bytes_out_{transport}" for transport in TRANSPORTS}),
        ("transport",),
    ),
)
