"""The arithmetic and the tables of benchmarks/; nothing is measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.harness import (
    Better,
    Sample,
    Skipped,
    alone,
    compared,
    medians,
    meets,
    quantile,
    ratios,
    spread,
    take_pairs,
)
from benchmarks.machine import Machine
from benchmarks.reference_fio import FioJob, parse_fio
from benchmarks.reference_network import parse_iperf
from benchmarks.settings import GIB, KIB, MIB, Settings, folder, quick, size_name

MACHINE = Machine(2, "a | processor", 8 * GIB, "Linux 6.1", "3.11.2", {"fio": "3.33"})


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-6)


def test_quantile_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="share"):
        quantile([1.0], 1.5)


def test_spread_is_in_order() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.min, found.q1, found.median, found.q3, found.max) == (1.0, 2.0, 3.0, 4.0, 5.0)


def test_ratios_are_of_neighbours_not_of_medians() -> None:
    # A machine that becomes ten times slower half way through: no pair sees it.
    pairs = [(1.0, 2.0), (1.0, 2.0), (10.0, 20.0), (10.0, 20.0)]
    assert ratios(pairs) == [2.0, 2.0, 2.0, 2.0]


def test_a_reference_that_measured_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        ratios([(0.0, 1.0)])


@pytest.mark.parametrize(
    ("value", "target", "better", "met"),
    [
        (0.95, 0.95, "higher", True),
        (0.94, 0.95, "higher", False),
        (3.0, 3.0, "lower", True),
        (3.1, 3.0, "lower", False),
        (7.0, None, "lower", None),
    ],
)
def test_meets(value: float, target: float | None, better: Better, met: bool | None) -> None:
    assert meets(value, target, better) is met


@dataclass
class Turns:
    """Who was asked, in order."""

    order: list[str] = field(default_factory=list)

    def take(self, name: str, value: float) -> Sample:
        self.order.append(name)
        return Sample(value, {"cpu": value * 10})


def test_pairs_are_taken_in_turn() -> None:
    turns = Turns()
    pairs = take_pairs(lambda: turns.take("A", 2.0), lambda: turns.take("B", 3.0), 3)
    assert turns.order == ["A", "B"] * 3
    row = compared(pairs, name="x", unit="GB/s", reference="r", ours="o", target=1.4)
    assert row.spread.median == 1.5
    assert row.met is True
    assert (row.reference_median, row.ours_median) == (2.0, 3.0)
    assert row.reference_detail == {"cpu": 20.0}
    assert row.pairs == [(2.0, 3.0)] * 3


def test_a_figure_alone_is_judged_by_itself() -> None:
    row = alone([Sample(4.0), Sample(6.0), Sample(5.0)], name="x", unit="s", ours="o", target=5.0)
    assert row.spread.median == 5.0
    assert row.met is True
    assert row.reference == ""


def test_medians_of_what_each_sample_saw() -> None:
    assert medians([{"a": 1.0}, {"a": 3.0, "b": 7.0}, {"a": 2.0}]) == {"a": 2.0, "b": 7.0}


def test_fio_figures() -> None:
    job = FioJob(pattern="write", block_bytes=MIB, depth=8, size_bytes=GIB, sample_s=1.0)
    side = {"io_bytes": 100 * MIB, "bw_bytes": 2_500_000_000}
    output = "fio: a warning\n" + json.dumps({"jobs": [{"error": 0, "read": {}, "write": side}]})
    sample = parse_fio(output, job, cpu_s=0.01)
    assert sample.value == 2.5
    assert sample.detail["cpu_us_per_chunk"] == pytest.approx(100.0)
    assert sample.detail["cpu_s_per_gb"] == pytest.approx(0.01 / (100 * MIB) * 1e9)
    nothing = json.dumps({"jobs": [{"error": 5, "write": {"io_bytes": 0}}]})
    with pytest.raises(Skipped, match="error 5"):
        parse_fio(nothing, job, cpu_s=0.0)


def test_iperf_figures() -> None:
    assert parse_iperf('{"end": {"sum_received": {"bits_per_second": 2.0e10}}}').value == 2.5


def result(**changes: object) -> report.Result:
    row = compared(
        [(Sample(2.0), Sample(3.0))], name="read", unit="GB/s", reference="fio", ours="o", target=2.0
    )
    fields: dict[str, object] = {
        "benchmark": "disk",
        "title": "Disk",
        "taken": "2026-01-01 00:00",
        "seconds": 1.0,
        "quick": False,
        "pairs": 1,
        "where": "ext4 on nvme0n1",
        "machine": MACHINE,
        "rows": [row],
        "unmeasured": [],
    }
    return report.Result(**(fields | changes))  # type: ignore[arg-type]


def test_results_survive_their_file(tmp_path: Path) -> None:
    saved = result(
        unmeasured=[report.Unmeasured(name="write", reason="fio is not installed: apt-get install fio")]
    )
    report.save(saved, tmp_path)
    assert report.load(["absent", "disk"], tmp_path) == [saved]
    text = report.table([saved])
    assert "| read | GB/s | fio: 2.00 | 3.00 | 1.50 | 1.50, 1.50 - 1.50, 1.50 | at least 2 | no |" in text
    assert "apt-get install fio" in text
    assert "ext4 on nvme0n1" in text


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    row = compared(
        [(Sample(2.0, {"cpu_us": 1.0}), Sample(3.0, {"gb": 4.0}))],
        name="a | b",
        unit="us",
        reference="r",
        ours="o",
    )
    blocks = report.table([result(rows=[row])]).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_quick_runs_say_so() -> None:
    assert "Quick run" in report.about(result(quick=True))
    assert "Quick run" not in report.about(result())


def test_the_marked_block_is_replaced_and_nothing_else() -> None:
    document = f"head\n\n{report.BEGIN}\nold\n{report.END}\n\ntail\n"
    once = report.put_into(document, "new\n")
    assert once == f"head\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\ntail\n"
    assert report.put_into(once, "new") == once
    with pytest.raises(ValueError, match="has no"):
        report.put_into("no marks", "new")


def test_the_document_has_the_marks() -> None:
    assert "\nx\n" in report.put_into(report.DOCUMENT.read_text(), "x")


@pytest.mark.parametrize(
    ("size", "name"), [(64 * KIB, "64 KiB"), (4 * MIB, "4 MiB"), (GIB, "1 GiB"), (1536, "1536 B")]
)
def test_size_names(size: int, name: str) -> None:
    assert size_name(size) == name


def test_quick_is_small_and_keeps_the_places(tmp_path: Path) -> None:
    settings = Settings(disk=tmp_path)
    small = quick(settings)
    assert small.disk == tmp_path
    assert small.pairs < settings.pairs
    assert small.device_bytes < settings.device_bytes


def test_folders_go_and_are_not_made_where_they_do_not_fit(tmp_path: Path) -> None:
    with folder(tmp_path, 0) as made:
        (made / "file").write_bytes(b"x")
    assert not made.exists()
    with pytest.raises(Skipped, match="free"), folder(tmp_path, 2**62):
        pass
    with pytest.raises(Skipped, match="no folder"), folder(tmp_path / "absent", 0):
        pass
