"""docs/metrics.md, made from the catalogue: ``python -m mezzo_server.metrics.document > docs/metrics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mezzo_server.metrics.catalog import EachDevice, Kind, Metric, Numbers, catalogue
from mezzo_server.metrics.shard import NOT_EXPORTED

OPENING = """\
# Metrics

<!-- Made by `python -m mezzo_server.metrics.document`; a test compares them. -->

Each process of a node serves its metrics over HTTP at `/metrics`, in Prometheus' text format or in
OpenMetrics, whichever is asked for, and says at `/healthz` whether its event loop answers (200 `ok`, or
503); the supervisor, whether all of its processes are ready. The addresses are settings of the table `[metrics]`; the readiness block names those that were
taken.

| process | setting | default |
|---|---|---|
| shard | `metrics.shard` | `127.0.0.1:7721` |
| front-end | `metrics.frontend` | `127.0.0.1:7722` |
| supervisor | `metrics.supervisor` | `127.0.0.1:7720` |
| metadata service | `metrics.metadata` | `127.0.0.1:7723` |

Empty: none. Port 0: any free one. Addresses that other hosts can reach need `metrics.insecure`: the
pages are neither encrypted nor authenticated, and tell names of devices. An address in use keeps the
process from starting.

A scrape never holds a shard up: the numbers are gathered in one turn of its event loop (well under a
millisecond) and rendered in a thread. While the loop hangs, a scrape is answered within two seconds
with what it last told, and with `mezzo_shard_loop_stalled` 1. Eight scrapes at a time are served; a
further one gets 503. One that dawdles for ten seconds is cut off.

```yaml
scrape_configs:
  - job_name: mezzo
    static_configs:
      - targets: ["127.0.0.1:7720", "127.0.0.1:7721", "127.0.0.1:7722"]
```

The last column names the numbers of a process that a metric is made of; for a shard these are what
`shard_stat` of the SDK and `mezzo stat` give (times there are microseconds, `_us`).

`mezzo top` shows the most important of these live, without Prometheus: hit rates by tier, throughput,
rates and mean latencies by kind of request (own and device), devices, hot tier, leases, queues, and
what is wrong. `mezzo top --once` prints one frame, `mezzo top --json` one object for each interval.

Each endpoint also has the usual `process_*` metrics (memory, processor time, descriptors) of its
process.

## What to alert on

| expression | means |
|---|---|
| `mezzo_shard_loop_stalled == 1` or `up == 0` | the shard serves nobody |
| `increase(mezzo_shard_checksum_failures_total{stage="confirmed"}[1h]) > 0` | a device corrupts data; callers saw misses |
| `mezzo_shard_devices_fenced > 0` | a device failed and is not used any more |
| `rate(mezzo_shard_errors_total{code="busy"}[5m]) > 0` | limits are met: see queues and staging below |
| `rate(mezzo_shard_loop_held_seconds_total[5m]) > 0.8` | the shard's core is nearly used up |
| `mezzo_metadata_serving == 0` for more than some seconds | a metadata service does not reach its engine |
| `increase(mezzo_supervisor_part_restarts_total[1h]) > 0` | a process ended and was started again |

Useful ratios: the hit rate is `1 - rate(mezzo_shard_get_chunks_total{outcome="miss"}[5m]) /
sum(rate(mezzo_shard_get_chunks_total[5m]))`; our own time of a get is
`rate(mezzo_shard_request_own_seconds_total{kind="get"}[5m]) /
rate(mezzo_shard_request_duration_seconds_count{kind="get"}[5m])`; write amplification is
`rate(mezzo_shard_written_bytes_total[1h]) / rate(mezzo_shard_put_bytes_total[1h])`.

Device time of a request is the time from its first transfer handed to a device to the end of its last;
own time is all the rest. A put over tcp waits for its client's payload, and a get over tcp for a client
that reads: that is in the own time too.
"""
TITLES = {
    "shard": "Shard",
    "frontend": "Front-end",
    "supervisor": "Supervisor",
    "metadata": "Metadata service",
}
CLOSING = """\
## Numbers of a shard that are no metric

`shard_stat` gives these too:

"""


def document() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield OPENING.rstrip()
    for process, metrics in catalogue().items():
        yield f"\n## {TITLES[process]}\n"
        yield "| metric | kind, unit, labels | meaning; what to do | made of |"
        yield "|---|---|---|---|"
        for metric in metrics:
            facts, made_of = ", ".join(_facts(metric)), ", ".join(_made_of(metric))
            yield f"| `{metric.name}` | {facts} | {_meaning(metric)} | {made_of} |"
    yield f"\n{CLOSING.rstrip()}\n"
    yield "| number | why not |"
    yield "|---|---|"
    for name, why in NOT_EXPORTED.items():
        yield f"| `{name}` | {why} |"


def unit_of(metric: Metric) -> str:
    """By its name: seconds, bytes, or empty for plain counts."""
    words = metric.name.removesuffix("_total").split("_")
    return next((unit for unit in ("seconds", "bytes") if unit in words), "")


def _facts(metric: Metric) -> Iterator[str]:
    yield metric.kind.value
    if unit := unit_of(metric):
        yield unit
    if metric.labels and metric.kind is not Kind.INFO:
        yield "by " + ", ".join(f"`{label}`" for label in metric.labels)


def _made_of(metric: Metric) -> Iterator[str]:
    """Names of numbers, with ``<label>`` where they differ by the label's value alone."""
    source = metric.source
    if isinstance(source, EachDevice):
        yield f"`device_<n>_{source.name}`"
    if not isinstance(source, Numbers):
        return
    told: dict[str, None] = {}
    for value in source.values:
        for name in (*value.plus, *value.minus):
            pattern = name
            for label, given in zip(metric.labels, value.labels, strict=True):
                if len(source.values) > 3 and name.endswith(f"_{given}"):
                    pattern = f"{name.removesuffix(given)}<{label}>"
            told[pattern] = None
    for name in told:
        yield f"`{name}`"


def _meaning(metric: Metric) -> str:
    return f"{metric.help} *{metric.advice}*" if metric.advice else metric.help


if __name__ == "__main__":
    sys.stdout.write(document())
