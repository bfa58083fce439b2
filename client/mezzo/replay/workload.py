"""Makes a workload: conversations and agents, as a stream of requests in the order of their time.

Sessions are played by the clock, those whose next request is due first; a block gets its number
when it first appears.  So memory grows with the sessions that are open, not with the trace.  The
same `WorkloadConfig` gives the same requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count, islice

from mezzo.errors import TooLarge
from mezzo.replay.draws import ArrivalTimes, Draws, Zipf
from mezzo.replay.trace import REFERENCES_MAX, REQUESTS_MAX, Request, Trace
from mezzo.replay.workload_config import Agents, Conversations, WorkloadConfig, check


def workload(config: WorkloadConfig) -> Trace:
    """The whole trace at once.

    Raises `InvalidArgument` for parameters that make no sense, `TooLarge` where they make more than
    a trace may hold or more open sessions than `WorkloadConfig.sessions_max`.
    """
    return Trace(f"generated workload (seed {config.seed})", tuple(stream(config)))


def stream(config: WorkloadConfig) -> Iterator[Request]:
    """The same, one request after the other. Raises on the first request what `workload` raises."""
    check(config)
    requests = _limited(_Play(config).requests())
    return islice(requests, config.requests_max) if config.requests_max else requests


def _limited(requests: Iterator[Request]) -> Iterator[Request]:
    references = 0
    for number, request in enumerate(requests):
        references += len(request.hash_ids)
        if number >= REQUESTS_MAX or references > REFERENCES_MAX:
            raise TooLarge(
                f"the workload has over {REQUESTS_MAX} requests or {REFERENCES_MAX} block references after "
                f"{request.timestamp_ms / 1000:.0f} s: a shorter duration_s, fewer sessions_per_s, or requests_max"
            )
        yield request


class _Shared:
    """A beginning that sessions share: a system prompt, or one with a document behind it."""

    __slots__ = ("_before", "_numbers", "tokens")

    def __init__(self, tokens: int, before: _Shared | None = None) -> None:
        self.tokens: int = tokens + (before.tokens if before is not None else 0)
        self._before = before
        self._numbers: list[int] = []

    def numbers(self, block_tokens: int, fresh: Iterator[int]) -> list[int]:
        """Numbers of the blocks that it fills wholly, the same for everybody."""
        if not self._numbers:
            if self._before is not None:
                self._numbers += self._before.numbers(block_tokens, fresh)
            missing = self.tokens // block_tokens - len(self._numbers)
            self._numbers += islice(fresh, max(0, missing))
        return self._numbers


class _Session:
    """One conversation, agent or sub-agent. Played by `_Play` alone."""

    __slots__ = (
        "answer",
        "came_back",
        "numbers",
        "parent",
        "rest",
        "shared",
        "steps",
        "tokens",
        "turn",
        "waits",
    )

    def __init__(self, shared: _Shared, tokens: int) -> None:
        self.shared = shared
        self.tokens = tokens
        """of the next request's input"""
        self.numbers: list[int] = []
        """of the whole blocks that have appeared"""
        self.rest = (-1, -1)
        """length at which the last block was a short one, and its number"""
        self.answer = 0
        self.turn = 0
        self.steps = 0
        """an agent's, in all; 0: a conversation"""
        self.parent: _Session | None = None
        self.waits = 0
        """for so many sub-agents"""
        self.came_back = False


class _Play:
    """All sessions of one workload; owns the clock, the draws and the numbers of the blocks."""

    def __init__(self, config: WorkloadConfig) -> None:
        self._config = config
        self._draws = Draws(config.seed)
        # Draws of their own, so that what sessions do does not change when sessions begin.
        self._arrivals = ArrivalTimes(
            config.arrivals, Draws(config.seed ^ 0x6D65_7A7A_6F), -config.warmup_s, config.duration_s
        )
        self._fresh = count()
        self._order = count()
        self._due: list[tuple[float, int, _Session]] = []
        self._open = 0
        draws, prompts, documents = self._draws, config.prompts, config.documents
        self._prompts = [_Shared(draws.count(prompts.tokens)) for _ in range(prompts.count)]
        self._popular_prompts = Zipf(prompts.count, prompts.zipf)
        self._documents: list[_Shared] = []
        if documents.share:
            self._documents = [
                _Shared(draws.count(documents.tokens), self._prompt()) for _ in range(documents.count)
            ]
            self._popular_documents = Zipf(documents.count, documents.zipf)

    def requests(self) -> Iterator[Request]:
        begins_s = self._arrivals.next_s()
        while True:
            at_s = min(begins_s, self._due[0][0] if self._due else math.inf)
            if at_s >= self._config.duration_s:
                return
            if begins_s <= at_s:
                self._schedule(at_s, self._begin())
                begins_s = self._arrivals.next_s()
                continue
            at_s, _, session = heappop(self._due)
            session.answer = self._answer(session)
            if at_s >= 0:
                yield self._request(at_s, session)
            session.turn += 1
            if session.steps:
                self._step(at_s, session, self._config.agents)
            else:
                self._turn(at_s, session, self._config.conversations)

    # -- sessions ------------------------------------------------------------------------------

    def _begin(self) -> _Session:
        draws, config = self._draws, self._config
        if draws.chance(config.agents.share):
            session = self._open_session(self._prompt(), draws.count(config.agents.task))
            session.steps = max(1, draws.count(config.agents.steps))
            return session
        shared = self._prompt()
        if draws.chance(config.documents.share):
            shared = self._documents[self._popular_documents.draw(draws)]
        return self._open_session(shared, draws.count(config.conversations.opening))

    def _open_session(self, shared: _Shared, tokens: int) -> _Session:
        self._open += 1
        if self._open > self._config.sessions_max:
            raise TooLarge(
                f"the workload has over {self._config.sessions_max} sessions open at a time: "
                "fewer sessions_per_s, shorter pauses, or a higher sessions_max"
            )
        return _Session(shared, max(1, min(shared.tokens + tokens, self._config.context_tokens_max)))

    def _turn(self, at_s: float, session: _Session, settings: Conversations) -> None:
        """A conversation's turn is done: is there another, when, and with what?"""
        draws = self._draws
        at_s += session.answer / settings.answer_tokens_per_s
        behind = (session.turn - 1) * settings.go_on_spread
        if session.turn >= settings.turns_max:
            self._end(at_s, session)
            return
        if draws.chance((settings.go_on + behind) / (1 + behind)):
            at_s += draws.amount(settings.think_s)
        elif not session.came_back and draws.chance(settings.come_back_share):
            session.came_back = True
            at_s += draws.amount(settings.come_back_s)
        else:
            self._end(at_s, session)
            return
        if draws.chance(settings.retry_share):
            pass  # the very same input
        elif draws.chance(settings.edit_share):
            self._edit(session, settings)
        else:
            session.tokens += session.answer + draws.count(settings.message)
        self._go_on(at_s, session)

    def _edit(self, session: _Session, settings: Conversations) -> None:
        size = self._config.block_tokens
        keep = int(session.tokens * self._draws.amount(settings.edit_keep)) // size
        keep = max(keep, session.shared.tokens // size + 1)
        del session.numbers[keep:]
        session.rest = (-1, -1)
        grown = int(session.tokens * self._draws.amount(settings.edit_growth))
        session.tokens = min(max(grown, keep * size + 1), self._config.context_tokens_max)

    def _step(self, at_s: float, session: _Session, settings: Agents) -> None:
        """An agent's step is done: a tool call, sub-agents, or the end?"""
        draws = self._draws
        at_s += session.answer / settings.answer_tokens_per_s
        if session.turn >= session.steps:
            self._end(at_s, session)
            return
        session.tokens += session.answer
        if session.parent is None and draws.chance(settings.fan_out_share):
            session.waits = max(1, draws.count(settings.fan_out))
            for _ in range(session.waits):
                branch = self._branch(session, settings)
                self._schedule(at_s, branch)
            return
        session.tokens += draws.count(settings.tool_result)
        self._go_on(at_s + draws.amount(settings.tool_s), session)

    def _branch(self, session: _Session, settings: Agents) -> _Session:
        """A sub-agent with the blocks of ``session``'s context that all of them can share."""
        branch = self._open_session(session.shared, 0)
        # What the last answer filled appears first in a branch, but is the same in all of them.
        branch.numbers = self._whole_blocks(session)
        branch.tokens = min(
            session.tokens + self._draws.count(settings.branch_task), self._config.context_tokens_max
        )
        branch.steps = max(1, self._draws.count(settings.branch_steps))
        branch.parent = session
        return branch

    def _end(self, at_s: float, session: _Session) -> None:
        self._open -= 1
        parent = session.parent
        if parent is None:
            return
        parent.tokens += session.answer
        parent.waits -= 1
        if not parent.waits:
            self._go_on(at_s, parent)

    def _go_on(self, at_s: float, session: _Session) -> None:
        if session.tokens > self._config.context_tokens_max:
            self._end(at_s, session)
        else:
            self._schedule(at_s, session)

    def _schedule(self, at_s: float, session: _Session) -> None:
        heappush(self._due, (at_s, next(self._order), session))

    # -- requests ------------------------------------------------------------------------------

    def _answer(self, session: _Session) -> int:
        settings = self._config.agents if session.steps else self._config.conversations
        return self._draws.count(settings.answer)

    def _request(self, at_s: float, session: _Session) -> Request:
        hash_ids = self._whole_blocks(session)
        if session.tokens % self._config.block_tokens:
            # A short block at the end is another one as soon as more follows it.
            if session.rest[0] != session.tokens:
                session.rest = (session.tokens, next(self._fresh))
            hash_ids.append(session.rest[1])
        tick_s = self._config.tick_s
        stamp_s = math.floor(at_s / tick_s) * tick_s if tick_s else at_s
        return Request(float(int(stamp_s * 1000)), session.tokens, session.answer, tuple(hash_ids))

    def _whole_blocks(self, session: _Session) -> list[int]:
        """Numbers of the blocks that the session's context fills; those without one get theirs."""
        size, numbers = self._config.block_tokens, session.numbers
        whole = session.tokens // size
        if not numbers:
            numbers += session.shared.numbers(size, self._fresh)[:whole]
        numbers += islice(self._fresh, max(0, whole - len(numbers)))
        return numbers[:whole]

    def _prompt(self) -> _Shared:
        return self._prompts[self._popular_prompts.draw(self._draws)]
