"""What a supervisor makes of what its processes say. No process is started."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mezzo_server.supervisor.child import Child


class Stand:
    """In the place of a process that has said something and ended."""

    pid = 1
    stdin = None
    stderr = None

    def __init__(self, said: bytes) -> None:
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(said)
        self.stdout.feed_eof()

    async def wait(self) -> int:
        await asyncio.sleep(0)
        return 0


def watched(said: bytes, fault: Exception | None = None) -> list[tuple[str, dict[str, Any]]]:
    told: list[tuple[str, dict[str, Any]]] = []

    def ready(one: dict[str, Any]) -> None:
        told.append(("ready", one))
        if fault is not None:
            raise fault

    async def play() -> None:
        process: Any = Stand(said)
        try:
            assert (
                await Child("shard", process).watch(b"{}", ready, lambda one: told.append(("changed", one)))
                == 0
            )
        finally:
            assert process.stdout.at_eof(), "what it says must not stay in its pipe"

    asyncio.run(play())
    return told


def test_the_first_object_is_that_it_is_ready_and_the_others_are_changes() -> None:
    assert watched(b'{"a": 1}\n{"b": 2}\n') == [("ready", {"a": 1}), ("changed", {"b": 2})]


def test_nothing_is_believed_after_what_is_not_understood() -> None:
    assert watched(b'{"a": 1}\n[]\n{"b": 2}\n') == [("ready", {"a": 1})]
    assert watched(b'no json\n{"a": 1}\n') == []


def test_a_fault_of_ours_is_not_taken_for_something_that_it_said() -> None:
    with pytest.raises(ValueError, match="a fault"):
        watched(b'{"a": 1}\n{"b": 2}\n', ValueError("a fault"))
