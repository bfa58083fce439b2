"""The loop's side of a shard, on a loop that is a list of timers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from mezzo_server.shard.runtime import Runtime


class Loop:
    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        self.timers.append(lambda: call(*arguments))

    def call_soon(self, call: Callable[..., None], *arguments: object) -> None:
        pass

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


class Store:
    busy = False

    def __init__(self) -> None:
        self.ticks = 0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == 1:
            raise RuntimeError("a fault of ours")


class Service:
    def __init__(self) -> None:
        self.ticks = 0

    def now(self) -> float:
        return 0.0

    def tick(self) -> None:
        self.ticks += 1


def test_a_fault_in_a_timer_does_not_stop_the_timers() -> None:
    loop, store, service = Loop(), Store(), Service()
    runtime = Runtime(cast("Any", loop), cast("Any", store))
    runtime.service = cast("Any", service)
    runtime._running = True
    runtime._schedule_tick()
    loop.fire()
    assert (runtime.faults, store.ticks, service.ticks) == (1, 1, 0)
    loop.fire()
    assert (runtime.faults, store.ticks, service.ticks) == (1, 2, 1)
    assert len(loop.timers) == 1


def test_what_a_client_gave_is_closed_in_a_thread_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing a file of a filesystem in user space waits for its owner, who may never answer."""
    runtime = Runtime(cast("Any", Loop()), cast("Any", Store()))
    apart: list[Callable[[], None]] = []
    monkeypatch.setattr(runtime, "apart", lambda work, done: apart.append(work))
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    runtime.discard(fd)
    os.fstat(fd)
    (work,) = apart
    work()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_offloaded_when_the_loop_has_stopped_is_done_at_once() -> None:
    runtime = Runtime(cast("Any", Loop()), cast("Any", Store()))
    done: list[str] = []
    runtime.offload(lambda: done.append("work"), lambda: done.append("done"))
    assert done == ["work", "done"]
