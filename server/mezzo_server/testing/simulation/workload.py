"""What the clients of a simulated pod do: puts, gets, lookups and deletes of a few keys, from a seed, without rest."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from mezzo.errors import CallerError, MezzoError
from mezzo.results import PutState
from mezzo_server.testing.simulation.catalog import Space
from mezzo_server.testing.simulation.client import Client
from mezzo_server.testing.simulation.clockwork import Process
from mezzo_server.testing.simulation.history import LENGTHS, History, Version
from mezzo_server.testing.simulation.trace import Trace
from mezzo_server.testing.simulation.violation import Violation

KEYS_PER_CALL_MAX = 5
SLACK_S = 0.3
"""How much later than its time a call may end: grace for what is cancelled comes on top."""
THINK_S = 0.4
TARGET_BYTES = 64 << 10


class Worker:
    """One client, call after call. Owner of what it has under way."""

    def __init__(
        self,
        process: Process,
        client: Client,
        history: History,
        space: Space,
        keys: Sequence[bytes],
        randomness: random.Random,
        trace: Trace,
    ) -> None:
        self.process = process
        self.client = client
        self.stopped = False
        self.idle = True
        self.calls = 0
        self.errors = 0
        """calls that failed, but for those that came before the pod had begun: `early`"""
        self.early = 0
        self.space = space
        self._history = history
        self._keys = keys
        self._random = randomness
        self._trace = trace
        self._number = 0
        self._paused_at = -1
        """the number of the call in which it was paused"""

    def start(self) -> None:
        """Begin to call."""
        self.process.run(self._work())

    def paused(self) -> None:
        """It stands still for a while: the call under way may take longer."""
        self._paused_at = self._number

    async def _work(self) -> None:
        draw = self._random
        operations: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._put, self._get, self._lookup, self._delete
        ]  # fmt: skip
        await self.process.sleep(draw.random())
        while not self.stopped:
            operation = draw.choices(operations, (35, 40, 8, 10))[0]
            await operation()
            await self.process.sleep(draw.expovariate(1 / THINK_S))

    async def put_all(self, keys: Sequence[bytes], timeout_s: float) -> int:
        """Put these; how many have an answer."""
        return await self._put_keys(keys, timeout_s)

    async def get_all(self, keys: Sequence[bytes], timeout_s: float) -> tuple[list[bool], int]:
        """Get these; which were there, and how many nobody answered for."""
        return await self._get_keys(keys, timeout_s)

    def _chosen(self) -> list[bytes]:
        count = self._random.randint(1, KEYS_PER_CALL_MAX)
        return self._random.sample(self._keys, min(count, len(self._keys)))

    def _time_s(self) -> float:
        return self._random.choice((0.3, 1.0, 3.0))

    async def _put(self) -> None:
        await self._put_keys(self._chosen(), self._time_s())

    async def _get(self) -> None:
        await self._get_keys(self._chosen(), self._time_s())

    async def _put_keys(self, keys: Sequence[bytes], timeout_s: float) -> int:
        history, now = self._history, self._true_now()
        versions: list[Version] = [
            history.put(self.space, key, now, self._random.choice(LENGTHS)) for key in keys
        ]
        call = self.client.have_put(keys, [version.data for version in versions], timeout_s)
        result = await self._called("put", keys, call, timeout_s)
        if result is None:
            return 0
        for version, state in zip(versions, result.states, strict=True):
            if state is PutState.STORED:
                history.stored(version, self._true_now())
        self._say(f"put {_names(keys)}: {' '.join(state.name.lower() for state in result.states)}")
        return sum(state is not PutState.FAILED for state in result.states)

    async def _get_keys(self, keys: Sequence[bytes], timeout_s: float) -> tuple[list[bool], int]:
        began = self._true_now()
        targets = [bytearray(TARGET_BYTES) for _ in keys]
        result = await self._called("get", keys, self.client.have_got(keys, targets, timeout_s), timeout_s)
        self._history.gets += len(keys)
        if self.client.statistics().checksum_mismatches:
            raise Violation(
                f"{self.process.name}: a shard said that a chunk is there, and its bytes do not match"
            )
        if result is None:
            return [False] * len(keys), len(keys)
        told = []
        for key, target, there, length in zip(keys, targets, result.found, result.lengths, strict=True):
            if not there:
                told.append("-")
                continue
            version = self._history.got(self.space, key, bytes(target[:length]), began, self._true_now())
            told.append(f"v{version.number}")
        self._say(f"got {_names(keys)}: {' '.join(told)}{' unanswered ' * bool(result.unanswered)}")
        return list(result.found), result.unanswered

    async def _lookup(self) -> None:
        keys, timeout_s = self._chosen(), self._time_s()
        result = await self._called("lookup", keys, self.client.looked_up(keys, timeout_s), timeout_s)
        if result is not None:
            self._say(f"lookup {_names(keys)}: {result.prefix}")

    async def _delete(self) -> None:
        keys, timeout_s, began = self._chosen()[:2], self._time_s(), self._true_now()
        result = await self._called("delete", keys, self.client.have_deleted(keys, timeout_s), timeout_s)
        if result is not None:
            for key in keys:
                self._history.deleted(self.space, key, began, self._true_now())
            self._say(f"deleted {_names(keys)}: {' '.join(str(flag) for flag in result.deleted)}")

    async def _called(
        self, what: str, keys: Sequence[bytes], call: Coroutine[Any, Any, Any], timeout_s: float
    ) -> Any:
        """Await a call under a watchdog; None: it failed."""
        self._number += 1
        self.calls += 1
        number = self._number
        self.idle = False
        early = not self._history.begun
        limit_s = timeout_s + self.client.cancel_grace_s + SLACK_S
        self.process.clockwork.after(limit_s, self._look_at, number, what, limit_s)
        try:
            return await call
        except CallerError as error:
            raise Violation(
                f"{self.process.name}: {what} is refused as the caller's fault: {error!r}"
            ) from error
        except MezzoError as error:
            self.early += early
            self.errors += not early
            self._say(f"{what} {_names(keys)}: {type(error).__name__}: {str(error)[:90]}")
            return None
        finally:
            self.idle = True

    def _look_at(self, number: int, what: str, limit_s: float) -> None:
        if self._number == number and not self.idle and self.process.alive and self._paused_at != number:
            raise Violation(f"{self.process.name}: a {what} has not ended after {limit_s:.2f} s")

    def _true_now(self) -> float:
        return self.process.clockwork.now

    def _say(self, what: str) -> None:
        self._trace.add(self._true_now(), self.process.name, what)


def _names(keys: Sequence[bytes]) -> str:
    return " ".join(key.decode() for key in keys)
