"""The catalogue: complete, well formed, and the same as what is documented and what is counted."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from mezzo.protocol import connection
from mezzo.protocol.messages import Kind as Frame
from mezzo_server.blockstore import counters
from mezzo_server.metrics import shard
from mezzo_server.metrics.calls import frontend_sample, metadata_sample
from mezzo_server.metrics.catalog import (
    EachDevice,
    Histograms,
    Kind,
    Metric,
    Numbers,
    Sample,
    Table,
    Value,
    Words,
    catalogue,
    one,
)
from mezzo_server.metrics.document import document, unit_of
from mezzo_server.metrics.endpoint import Collector
from mezzo_server.metrics.families import families
from mezzo_server.metrics.measures import REQUEST_KINDS, Histogram
from mezzo_server.metrics.parts import supervisor_sample
from mezzo_server.supervisor.plan import PartReport
from tests.unit.mezzo_server.shard_harness import Shard

ROOT = Path(__file__).resolve().parents[3]
ALL = [metric for metrics in catalogue().values() for metric in metrics]
FROM_RUNTIME = {
    "loop_hold_max_us",
    "loop_holds_over_1ms",
    "loop_held_us",
    "loop_callbacks",
    "collections",
    "collection_max_us",
    "faults",
    "output_bytes",
    "turns_waiting",
    "memory_bytes",
}
"""Numbers that need a loop, as those of TLS do; the integration test has one."""


def names_of(metric: Metric) -> Iterator[str]:
    if isinstance(metric.source, Numbers):
        for value in metric.source.values:
            yield from value.plus
            yield from value.minus


@pytest.fixture(scope="module")
def numbers() -> Iterator[dict[str, int | float]]:
    harness = Shard()
    yield harness.service.numbers()
    harness.close()


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_are_as_prometheus_wants_them(metric: Metric) -> None:
    assert re.fullmatch(r"mezzo_(shard|frontend|supervisor|metadata)(_[a-z0-9]+)+", metric.name)
    assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
    assert (metric.kind is Kind.INFO) == metric.name.endswith("_info")
    assert not re.search(r"_(ms|us|ns|kib|mib|s|count|sum|bucket)(_|$)", metric.name)
    if unit_of(metric) and not isinstance(metric.source, Table):
        base = metric.name.removesuffix("_total")
        assert base.endswith((unit_of(metric), "_bytes_limit", "_bytes_waiting")), "the unit comes last"
    assert metric.help.endswith("."), "a sentence"
    for label in metric.labels:
        assert re.fullmatch(r"[a-z]+", label)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_every_metric_has_a_source_that_fits_its_kind_and_labels(metric: Metric) -> None:
    source = metric.source
    assert isinstance(source, Histograms) == (metric.kind is Kind.HISTOGRAM)
    assert isinstance(source, Words) == (metric.kind is Kind.INFO)
    if isinstance(source, Numbers):
        assert source.values
        labels = [value.labels for value in source.values]
        assert len(set(labels)) == len(labels)
        assert {len(value) for value in labels} == {len(metric.labels)}
    if isinstance(source, EachDevice):
        assert metric.labels == ("device",)
    if isinstance(source, Words):
        assert source.names == metric.labels


def test_no_name_is_used_twice() -> None:
    assert len({metric.name for metric in ALL}) == len(ALL)


def test_every_number_of_a_shard_is_exported_or_deliberately_not(numbers: dict[str, int | float]) -> None:
    used = {name for metric in shard.METRICS for name in names_of(metric)}
    each = {metric.source.name for metric in shard.METRICS if isinstance(metric.source, EachDevice)}
    told = {name for name in numbers if not name.startswith("device_")}
    told |= FROM_RUNTIME | {name for name in used if name.startswith("tls_")}
    told_each = {name.removeprefix("device_0_") for name in numbers if name.startswith("device_0_")}
    assert told - used - set(shard.NOT_EXPORTED) == set(), "neither exported nor listed as not"
    assert used - told - shard.FROM_THE_ENDPOINT == set(), "metrics without a source"
    assert set(shard.NOT_EXPORTED) - told == set(), "listed, and not there"
    assert told_each == each


def test_all_numbers_are_there_from_the_start(numbers: dict[str, int | float]) -> None:
    for name in counters.NAMES:
        assert numbers[name] == 0, name


def test_what_is_counted_is_declared() -> None:
    """A mistyped name would be a counter that nobody sees."""
    declared = set(counters.NAMES)
    own = {
        node.value
        for node in ast.walk(ast.parse((ROOT / "server/mezzo_server/shard/service.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    count = 0
    for folder in ("blockstore", "hot", "shard"):
        for path in (ROOT / "server/mezzo_server" / folder).rglob("*.py"):
            for name in counted(ast.parse(path.read_text())):
                count += 1
                fits = name in declared if folder != "shard" else name in declared | own
                assert fits, f"{path.name} counts {name!r}, which is not declared"
    assert count > 30


def counted(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
            target = node.target
            owner = target.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name == "counters" and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value)


def test_every_request_is_measured() -> None:
    assert set(REQUEST_KINDS) == connection.REQUEST_KINDS | {Frame.HELLO, Frame.CANCEL}


def test_the_document_is_up_to_date() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert written == document(), "python -m mezzo_server.metrics.document > docs/metrics.md"


def test_what_is_rendered_says_what_was_sampled() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.1, 0.5, 0.7, 2.0):
        histogram.observe(value)
    metrics = (
        Metric("x_total", Kind.COUNTER, "Sum.", Numbers((Value(("a",), ("p", "q"), ("r",), 0.5),)), ("k",)),
        Metric("y_bytes", Kind.GAUGE, "Absent numbers are 0.", one("nowhere")),
        Metric("z_seconds", Kind.HISTOGRAM, "Times.", Histograms("h"), ("k",)),
        Metric("d", Kind.GAUGE, "Of devices.", EachDevice("n"), ("device",)),
        Metric("w_info", Kind.INFO, "Words.", Words(("v",)), ("v",)),
    )
    sample = Sample(
        numbers={"p": 3, "q": 5, "r": 2, "device_0_n": 7, "device_1_n": 8},
        histograms={"h": {"get": histogram}},
        words={"v": 'one "quoted"\nword'},
        devices=("/a", "/b"),
    )
    told = {
        (one.name, *sorted(one.labels.items())): one.value
        for family in families(metrics, sample)
        for one in family.samples
    }
    assert told["x_total", ("k", "a")] == 3.0
    assert told["y_bytes",] == 0
    assert told["z_seconds_bucket", ("k", "get"), ("le", "0.5")] == 2
    assert told["z_seconds_bucket", ("k", "get"), ("le", "1.0")] == 3
    assert told["z_seconds_bucket", ("k", "get"), ("le", "+Inf")] == 4
    assert told["z_seconds_count", ("k", "get")] == 4
    assert told["z_seconds_sum", ("k", "get")] == pytest.approx(3.3)
    assert told["d", ("device", "/b")] == 8
    assert told["w_info", ("v", 'one "quoted"\nword')] == 1


def samples() -> dict[str, Sample]:
    from mezzo_server.frontend.numbers import CallNumbers, FrontendNumbers
    from mezzo_server.metadata.service.gate import NEEDS

    harness = Shard()
    measures = harness.service.measures
    loop = {"loop_hold": {"": Histogram((0.1,))}}
    of_shard = Sample(
        harness.service.numbers(), {**measures.histograms(), **loop}, words={}, devices=("memory",)
    )
    harness.close()
    calls = FrontendNumbers()
    calls.begin()
    calls.end("Get", 0.01, "BUSY")
    part = PartReport("shard", "ready", 2, 1, 10.0)
    return {
        "shard": of_shard,
        "frontend": frontend_sample(calls, 1.0),
        "supervisor": supervisor_sample([part], 2.0),
        "metadata": metadata_sample(CallNumbers(NEEDS), 1.0, 2),
    }


@pytest.mark.parametrize("process", ["shard", "frontend", "supervisor", "metadata"])
def test_both_formats_parse_and_hold_every_metric(process: str) -> None:
    sample = samples()[process]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(process, lambda: sample))
    classic = {one.name for one in text_string_to_metric_families(generate_latest(registry).decode())}
    modern = {one.name for one in parse_openmetrics(generate_openmetrics(registry).decode())}
    for metric in catalogue()[process]:
        base = metric.name.removesuffix("_total")
        assert base in classic
        assert base.removesuffix("_info") in modern


def test_the_supervisor_tells_of_its_parts() -> None:
    sample = supervisor_sample([PartReport("shard", "waiting", 3, 2, 0.0)], 5.0)
    told = {
        one.name: (one.labels, one.value)
        for family in families(catalogue()["supervisor"], sample)
        for one in family.samples
    }
    assert told["mezzo_supervisor_part_ready"] == ({"part": "shard"}, 0.0)
    assert told["mezzo_supervisor_part_restarts_total"] == ({"part": "shard"}, 3)
    assert told["mezzo_supervisor_uptime_seconds"][1] == 5.0
