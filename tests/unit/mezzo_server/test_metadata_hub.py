"""One watch of an engine for all who watch the same: who joins when, and what each is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from mezzo.errors import Unavailable
from mezzo_server.metadata import memory
from mezzo_server.metadata.engine import Change, Compacted, Write
from mezzo_server.metadata.memory import MemoryEngine
from mezzo_server.metadata.service import hub
from mezzo_server.metadata.service.hub import Hubs

TURNS = 20
"""of the loop, in which whatever is under way comes to where it waits"""


class Counted(MemoryEngine):
    """Knows how many watches of it there are, and can end them."""

    def __init__(self, changes_max: int = 10_000) -> None:
        super().__init__(lambda: 0.0, changes_max)
        self.watches = 0
        self.failing: Exception | None = None
        """what all watches raise at their next change"""

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
        self.watches += 1
        try:
            async for changes in super().watch(prefix, after):
                if self.failing is not None:
                    raise self.failing
                yield changes
        finally:
            self.watches -= 1
            for _ in range(3):
                await asyncio.sleep(0)  # to end one takes a while


class Watcher:
    """One who watches, and what he was told."""

    def __init__(self, hubs: Hubs, after: int, prefix: str = "") -> None:
        self.keys: list[str] = []
        self.error: BaseException | None = None
        self.task = asyncio.ensure_future(self._run(hubs.watch(prefix, after)))

    async def _run(self, watch: Any) -> None:
        try:
            async for changes in watch:
                self.keys += [change.key for change in changes]
        except (Compacted, Unavailable) as error:
            self.error = error
        finally:
            await watch.aclose()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def write(engine: MemoryEngine, *keys: str) -> int:
    revision = 0
    for key in keys:
        revision = (await engine.transact([], [Write(key, b"")])).revision
    await settle()
    return revision


def played(work: Callable[[Counted, Hubs], Coroutine[Any, Any, None]], **named: int) -> None:
    async def main() -> None:
        engine = Counted(**named)
        await work(engine, Hubs(engine))
        await settle()
        assert engine.watches == 0, "nobody watches, and it is watched"

    asyncio.run(main())


def test_many_who_watch_the_same_are_one_watch() -> None:
    async def work(engine: Counted, hubs: Hubs) -> None:
        began = await write(engine, "a")
        watchers = [Watcher(hubs, began) for _ in range(5)]
        others = [Watcher(hubs, began, "b") for _ in range(2)]
        await settle()
        assert engine.watches == 2
        await write(engine, "b", "c")
        assert [each.keys for each in watchers] == [["b", "c"]] * 5
        assert [each.keys for each in others] == [["b"]] * 2
        for each in watchers:
            await each.end()
        assert engine.watches == 1
        for each in others:
            await each.end()

    played(work)


def test_who_is_behind_has_a_watch_of_his_own_until_he_is_as_far() -> None:
    async def work(engine: Counted, hubs: Hubs) -> None:
        began = await write(engine, "a")
        first = Watcher(hubs, began)
        await settle()
        await write(engine, "b", "c")
        late = Watcher(hubs, began)
        await settle()
        assert late.keys == ["b", "c"]
        assert engine.watches == 1, "he is as far, and told with the other"
        await write(engine, "d")
        assert first.keys == late.keys == ["b", "c", "d"]
        await first.end()
        await write(engine, "e")
        assert late.keys[-1] == "e"
        await late.end()

    played(work)


def test_who_asks_for_what_never_was_or_is_not_kept_is_told_so_and_nobody_else() -> None:
    async def work(engine: Counted, hubs: Hubs) -> None:
        await write(engine, "a", "b", "c", "d")
        watcher = Watcher(hubs, 4)
        await settle()
        await write(engine, "e")
        wrong = [Watcher(hubs, after) for after in (1, 9)]
        await settle()
        assert [type(each.error) for each in wrong] == [Compacted] * 2
        await write(engine, "f")
        assert watcher.keys == ["e", "f"]
        await watcher.end()

    played(work, changes_max=3)


def test_a_watch_that_makes_an_error_of_its_end_ends_nobody_elses() -> None:
    class Unwilling(Counted):
        async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
            try:
                async for changes in super().watch(prefix, after):
                    yield changes
            except asyncio.CancelledError:
                raise Unavailable("the stream was cancelled") from None

    async def main() -> None:
        engine = Unwilling()
        at = await write(engine, "a")
        holder = hub.Hub(engine, "")
        first = asyncio.ensure_future(anext(watch := holder.watch(at)))
        await settle()
        first.cancel()
        await asyncio.wait((first,))
        # Before what followed for the first has come to its end.
        second = asyncio.ensure_future(anext(again := holder.watch(at)))
        await settle()
        await write(engine, "b")
        assert [change.key for change in await asyncio.wait_for(second, 5)] == ["b"]
        await watch.aclose()
        await again.aclose()
        await settle()
        assert engine.watches == 0

    asyncio.run(main())


def test_a_watch_that_does_not_hear_that_it_ends_tells_nobody_else() -> None:
    """It may be further than the one that follows it: what is between would never be told."""

    class Deaf(Counted):
        def __init__(self) -> None:
            super().__init__()
            self.told: asyncio.Queue[Sequence[Change]] = asyncio.Queue()
            self.began = 0

        async def watch(self, prefix: str, after: int) -> AsyncIterator[Sequence[Change]]:
            self.began += 1
            if self.began > 1:
                async for changes in super().watch(prefix, after):
                    yield changes
            try:
                yield await self.told.get()
            except asyncio.CancelledError:
                pass
            yield await self.told.get()

    async def main() -> None:
        engine = Deaf()
        at = await write(engine, "a")
        holder = hub.Hub(engine, "")
        first = asyncio.ensure_future(anext(watch := holder.watch(at)))
        await settle()
        first.cancel()
        await asyncio.wait((first,))
        second = asyncio.ensure_future(anext(again := holder.watch(at)))
        await settle()
        engine.told.put_nowait([Change("c", b"", at + 2)])
        await settle()
        await write(engine, "b")
        assert [change.key for change in await asyncio.wait_for(second, 5)] == ["b"]
        await watch.aclose()
        await again.aclose()

    asyncio.run(main())


def test_who_does_not_take_what_comes_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "AHEAD_MAX", 2)

    async def work(engine: Counted, hubs: Hubs) -> None:
        began = await write(engine, "a")
        watcher, slow = Watcher(hubs, began), hubs.watch("", began)
        first = asyncio.ensure_future(anext(slow))
        await settle()
        for key in "bcdef":
            await write(engine, key)
        assert [change.key for change in await first] == ["b"]
        assert [[change.key for change in await anext(slow)] for _ in range(2)] == [["c"], ["d"]]
        with pytest.raises(Unavailable, match="not taken in time"):
            await anext(slow)
        assert watcher.keys == ["b", "c", "d", "e", "f"]
        await watcher.end()

    played(work)


@pytest.mark.parametrize("error", [Compacted("c"), Unavailable("u"), ZeroDivisionError()])
def test_all_hear_that_the_watch_has_ended_and_may_begin_anew(error: Exception) -> None:
    async def work(engine: Counted, hubs: Hubs) -> None:
        began = await write(engine, "a")
        watchers = [Watcher(hubs, began) for _ in range(3)]
        await settle()
        engine.failing = error
        await write(engine, "b")
        expected = type(error) if isinstance(error, Unavailable) else Unavailable
        assert [type(each.error) for each in watchers] == [expected] * 3
        engine.failing = None
        again = Watcher(hubs, began)
        await settle()
        assert again.keys == ["b"]
        await engine.close()
        await settle()
        assert isinstance(again.error, Unavailable)

    played(work)


ACTIONS = strategies.one_of(
    strategies.just("write"),
    strategies.just("settle"),
    strategies.tuples(strategies.just("watch"), strategies.integers(0, 5)),
    strategies.tuples(strategies.just("end"), strategies.integers(0, 5)),
    strategies.tuples(strategies.just("turn"), strategies.integers(1, 3)),
)


@given(strategies.lists(ACTIONS, max_size=40))
@settings(max_examples=100)
def test_nobody_misses_anything_nor_hears_it_twice(actions: list[Any]) -> None:
    async def work(engine: Counted, hubs: Hubs) -> None:
        watchers: list[tuple[Watcher, int]] = []
        written = 0
        for action in actions:
            if action == "write":
                written += 1
                await engine.transact([], [Write(f"{written}", b"")])
            elif action == "settle":
                await settle()
            elif action[0] == "watch":
                after = max(0, written - action[1])
                watchers.append((Watcher(hubs, after), after))
            elif action[0] == "turn":
                for _ in range(action[1]):
                    await asyncio.sleep(0)
            elif action[1] < len(watchers):
                await watchers.pop(action[1])[0].end()
        await settle()
        for watcher, after in watchers:
            assert watcher.keys == [f"{number}" for number in range(after + 1, written + 1)]
            await watcher.end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "BATCH_MAX", 1)
        played(work)
