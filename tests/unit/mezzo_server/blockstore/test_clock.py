"""The store's time: what happens to the wall clock while it runs is nothing to it; it never goes back."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.blockstore.clock import AHEAD_MS, Anchor, Clock, MachineClock
from mezzo_server.machine import clock as machine

MINUTES_10 = 600_000
JUMPS = st.one_of(st.sampled_from((-MINUTES_10, MINUTES_10)), st.integers(-(10**9), 10**9))
PAUSES = st.integers(0, 2 * MINUTES_10)


class Machine:
    """Its clocks, as somebody with a watch sees them."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self.true_ms = wall_ms
        self.wall_off_ms = 0
        self.booted_ms = wall_ms
        self.boots = 1

    def clock(self) -> MachineClock:
        return MachineClock(
            lambda: self.true_ms - self.booted_ms,
            lambda: self.true_ms + self.wall_off_ms,
            self.boots.to_bytes(16, "little"),
        )

    def reboot(self, takes_ms: int = 0) -> None:
        self.true_ms += takes_ms
        self.booted_ms = self.true_ms
        self.boots += 1


def test_a_jump_of_the_wall_clock_changes_nothing_while_running() -> None:
    host = Machine()
    clock = Clock(host.clock())
    for jump in (MINUTES_10, -MINUTES_10, -MINUTES_10):
        before = clock.now_ms()
        host.wall_off_ms += jump
        assert clock.now_ms() == before
        host.true_ms += 1000
        assert clock.now_ms() == before + 1000


@pytest.mark.parametrize("jump", [MINUTES_10, -MINUTES_10])
def test_a_jump_changes_nothing_across_a_restart_on_the_same_boot(jump: int) -> None:
    host = Machine()
    clock = Clock(host.clock())
    anchor = clock.anchor()
    host.wall_off_ms += jump
    host.true_ms += 12_345
    assert Clock(host.clock(), [anchor]).now_ms() == anchor.time_ms + 12_345


def test_after_a_reboot_the_wall_clock_counts() -> None:
    host = Machine()
    anchor = Clock(host.clock()).anchor()
    host.reboot(takes_ms=MINUTES_10)
    assert Clock(host.clock(), [anchor]).now_ms() == host.true_ms


def test_after_a_reboot_it_is_never_before_the_last_anchor() -> None:
    host = Machine()
    anchor = Clock(host.clock()).anchor()
    host.true_ms += AHEAD_MS  # as long as an anchor may be old while deadlines matter
    last = Clock(host.clock(), [anchor]).now_ms()
    host.reboot()
    host.wall_off_ms = -(10**9)
    assert Clock(host.clock(), [anchor]).now_ms() == last


def test_the_latest_anchor_of_several_devices_counts() -> None:
    host = Machine()
    clock = Clock(host.clock())
    first = clock.anchor()
    host.true_ms += 5000
    second = clock.anchor()
    host.true_ms += 5000
    assert Clock(host.clock(), [second, first]).now_ms() == clock.now_ms()
    other = Anchor(second.time_ms + 7, second.boot_ms, b"another boot of it"[:16])
    host.wall_off_ms = -(10**9)
    assert Clock(host.clock(), [first, other]).now_ms() == other.time_ms + AHEAD_MS


def test_a_count_that_goes_back_is_taken_for_another_boot() -> None:
    """In a container whose boot time is set anew (time namespaces)."""
    host = Machine()
    host.true_ms += 10_000
    anchor = Clock(host.clock()).anchor()
    host.booted_ms += 9_000
    assert Clock(host.clock(), [anchor]).now_ms() >= anchor.time_ms


def test_when_an_anchor_is_due() -> None:
    host = Machine()
    clock = Clock(host.clock())
    assert clock.due
    assert clock.anchor_age_ms == -1
    clock.anchored(clock.anchor())
    assert not clock.due
    host.true_ms += AHEAD_MS // 2
    assert clock.due
    assert clock.anchor_age_ms == AHEAD_MS // 2


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("pass"), st.integers(0, AHEAD_MS)),
            st.tuples(st.just("pause"), PAUSES),
            st.tuples(st.just("jump"), JUMPS),
            st.tuples(st.just("restart"), PAUSES),
            st.tuples(st.just("reboot"), PAUSES),
        ),
        max_size=30,
    )
)
def test_any_sequence_of_jumps_pauses_and_restarts(steps: list[tuple[str, int]]) -> None:
    """Never back; exact while the machine is up; after a reboot early by the wall clock's error at most."""
    host = Machine()
    clock = Clock(host.clock())
    anchor = clock.anchor()
    clock.anchored(anchor)
    last = clock.now_ms()
    error = 0
    """our time less true time"""
    for what, size in steps:
        match what:
            case "pass" | "pause":
                host.true_ms += size
                if what == "pause":
                    # the process was stopped: whoever runs it writes an anchor as soon as it goes on
                    anchor = clock.anchor()
                    clock.anchored(anchor)
            case "jump":
                host.wall_off_ms = max(host.wall_off_ms + size, -host.true_ms + 1)
            case "restart":
                host.true_ms += size
                clock = Clock(host.clock(), [anchor])
            case "reboot":
                host.reboot(size)
                clock = Clock(host.clock(), [anchor])
                error = clock.now_ms() - host.true_ms
                assert error <= max(host.wall_off_ms, anchor.time_ms + AHEAD_MS - host.true_ms)
                assert error >= host.wall_off_ms
        assert clock.now_ms() == host.true_ms + error
        assert clock.now_ms() >= last
        last = clock.now_ms()
        if clock.due:
            anchor = clock.anchor()
            clock.anchored(anchor)


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = machine.machine_clock()
    assert len(clock.boot_id) == 16
    assert 0 < clock.boot_ms() <= clock.boot_ms()
    assert clock.wall_ms() > 1_700_000_000_000
    path = tmp_path / "boot_id"
    monkeypatch.setattr(machine, "BOOT_ID", path)
    assert machine.machine_clock().boot_id != machine.machine_clock().boot_id
    name = uuid.uuid4()
    path.write_text(f"{name}\n")
    assert machine.machine_clock().boot_id == name.bytes
