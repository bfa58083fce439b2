"""A seeded workload of ours, for where no real trace is at hand.

Multi-turn conversations, each opened by one of a few shared system prompts: a turn's input is the
system prompt, all that was said before, and the new message. It comes as a `Trace`, in the same
form as one that was read. The same `WorkloadOptions` give the same trace on every machine: only
``random.Random.random`` is used, the one method whose output Python promises to keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from random import Random

from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo.replay.trace import BLOCK_TOKENS, Request, Trace

CONVERSATIONS_MAX = 1_000_000
TURNS_MAX = 64


class WorkloadOptions(Struct, frozen=True, kw_only=True):
    """What is drawn, and from what. Lengths are in tokens, times in seconds."""

    seed: int = 1
    conversations: int = 700
    """begun, at exponential distances, within `duration_s`"""
    duration_s: float = 600.0
    system_prompts: int = 16
    """shared by the conversations: the k-th most popular is used in proportion to 1/k"""
    system_tokens_mean: float = 3000.0
    """length of a system prompt: exponential, at least one block"""
    turns_mean: float = 4.0
    """turns of a conversation: geometric, at most `TURNS_MAX`"""
    message_tokens_mean: float = 2500.0
    """length of what the user brings in a turn (documents included): exponential"""
    output_tokens_mean: float = 350.0
    """length of an answer: exponential"""
    pause_s_mean: float = 40.0
    """time between an answer and the next message: exponential"""


def workload(options: WorkloadOptions) -> Trace:
    """Make the trace. Raises `InvalidArgument` for options that make no sense."""
    _check(options)
    rng = Random(options.seed)
    numbers = count()
    prompts = [
        _SystemPrompt(max(BLOCK_TOKENS, _exponential(rng, options.system_tokens_mean)), numbers)
        for _ in range(options.system_prompts)
    ]
    shares = [1 / rank for rank in range(1, len(prompts) + 1)]
    turns: list[Request] = []
    for _ in range(options.conversations):
        start_ms = rng.random() * options.duration_s * 1000
        turns.extend(_conversation(rng, options, prompts[_choose(rng, shares)], start_ms, numbers))
    turns.sort(key=lambda request: request.timestamp_ms)
    return Trace(f"seeded workload (seed {options.seed})", tuple(_renumbered(turns)))


class _SystemPrompt:
    """A shared beginning: the blocks that it fills wholly have one number for everybody."""

    def __init__(self, tokens: int, numbers: Iterator[int]) -> None:
        self.tokens = tokens
        self.blocks = [next(numbers) for _ in range(tokens // BLOCK_TOKENS)]


def _conversation(
    rng: Random, options: WorkloadOptions, prompt: _SystemPrompt, start_ms: float, numbers: Iterator[int]
) -> Iterator[Request]:
    tokens = prompt.tokens
    blocks = list(prompt.blocks)
    at_ms = start_ms
    for _ in range(_geometric(rng, options.turns_mean)):
        tokens += 1 + _exponential(rng, options.message_tokens_mean)
        output = 1 + _exponential(rng, options.output_tokens_mean)
        while len(blocks) < tokens // BLOCK_TOKENS:
            blocks.append(next(numbers))
        # What is left over is a block of its own; the next turn, longer, has another in its place.
        rest = [next(numbers)] if tokens % BLOCK_TOKENS else []
        yield Request(float(round(at_ms)), tokens, output, (*blocks, *rest))
        tokens += output
        at_ms += 1000 * (1 + output / 50 + _exponential(rng, options.pause_s_mean))


def _renumbered(requests: list[Request]) -> Iterator[Request]:
    """The same requests with block numbers from 0 in order of their first appearance."""
    names: dict[int, int] = {}
    for request in requests:
        hash_ids = tuple(names.setdefault(number, len(names)) for number in request.hash_ids)
        yield Request(request.timestamp_ms, request.input_tokens, request.output_tokens, hash_ids)


def _exponential(rng: Random, mean: float) -> int:
    return int(-math.log(1 - rng.random()) * mean)


def _geometric(rng: Random, mean: float) -> int:
    if mean <= 1:
        return 1
    return min(TURNS_MAX, 1 + int(math.log(1 - rng.random()) / math.log(1 - 1 / mean)))


def _choose(rng: Random, shares: list[float]) -> int:
    left = rng.random() * sum(shares)
    for index, share in enumerate(shares):
        left -= share
        if left < 0:
            return index
    return len(shares) - 1


def _check(options: WorkloadOptions) -> None:
    if not 0 < options.conversations <= CONVERSATIONS_MAX:
        raise InvalidArgument(f"conversations: {options.conversations} is not from 1 to {CONVERSATIONS_MAX}")
    if not 0 < options.system_prompts <= CONVERSATIONS_MAX:
        raise InvalidArgument(
            f"system prompts: {options.system_prompts} is not from 1 to {CONVERSATIONS_MAX}"
        )
    for name in ("duration_s", "system_tokens_mean", "turns_mean", "message_tokens_mean"):
        value = getattr(options, name)
        if not 0 < value <= 1e7:
            raise InvalidArgument(f"{name}: {value} is not over 0 and up to 1e7")
    for name in ("output_tokens_mean", "pause_s_mean"):
        value = getattr(options, name)
        if not 0 <= value <= 1e7:
            raise InvalidArgument(f"{name}: {value} is not from 0 to 1e7")
