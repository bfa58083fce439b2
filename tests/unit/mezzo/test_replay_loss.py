"""What the loss of a node did to a replay, as figures and bars."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mezzo.replay.figures import Served, windows
from mezzo.replay.loss import Moment, bar, bars, phase_table, phases
from mezzo.replay.loss_plot import write_loss_plot

KILLED = Moment(4.0, "node-1 killed", "gone")
BACK = Moment(7.0, "node-1 started", "back")
# One request every half second, 10 blocks each; none is a hit between the two moments.
SERVED = [Served(at / 2, 10, 8, 0 if 4 <= at / 2 < 7 else 6, 0, 0) for at in range(20)]


def test_each_request_counts_in_the_phase_in_which_it_ended() -> None:
    whole, gone, back = phases(SERVED, 10.0, [KILLED, BACK], "whole")
    assert [one.name for one in (whole, gone, back)] == ["whole", "gone", "back"]
    assert [one.requests for one in (whole, gone, back)] == [8, 6, 6]
    assert [(one.start_s, one.end_s) for one in (whole, gone, back)] == [(0.0, 4.0), (4.0, 7.0), (7.0, 10.0)]
    assert (whole.hits, whole.possible, whole.references, whole.share) == (48, 64, 80, 0.75)
    assert (gone.hits, gone.share) == (0, 0.0)


def test_what_happened_after_the_last_request_has_an_empty_phase() -> None:
    found = phases(SERVED, 10.0, [KILLED, BACK, Moment(12.0, "late", "late")], "whole")
    assert [one.requests for one in found] == [8, 6, 6, 0]
    assert found[-1].share == 0.0
    console = Console(width=100, record=True)
    console.print(phase_table(found))
    assert "12.0" not in console.export_text()


def test_bars_tell_the_moments_in_the_window_in_which_they_were() -> None:
    lines = bars(SERVED, 10.0, [KILLED, BACK, Moment(12.0, "late", "late")]).plain.splitlines()
    assert len(lines) == 20
    noted = {line.split(" s")[0].strip(): line.partition("<- ")[2] for line in lines if "<-" in line}
    assert noted == {"4.0 to  4.5": "node-1 killed", "7.0 to  7.5": "node-1 started", "9.5 to 10.0": "late"}
    assert " 75%" in lines[0]
    assert " 0%" in lines[9]


def test_a_bar_is_as_long_as_its_share_and_no_longer() -> None:
    assert [bar(share, 4) for share in (0, 0.25, 0.5 + 1 / 32, 1, 1.7, -1)] == [
        "    ", "█   ", "██▏ ", "████", "████", "    "
    ]  # fmt: skip


def test_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "pod.png"
    write_loss_plot("two nodes", windows(SERVED, 10.0), [KILLED, BACK], path)
    assert path.read_bytes().startswith(b"\x89PNG")
