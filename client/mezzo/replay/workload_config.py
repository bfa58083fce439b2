"""Every parameter of a generated workload: its unit, its default, its meaning, its limits.

The docstring below a field is its documentation: docs/workload.md and ``mezzo workload --list`` are
made from it (`mezzo.replay.workload_settings`).  The defaults are the preset ``chat``;
`mezzo.replay.presets` has the others.
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mezzo.errors import InvalidArgument
from mezzo.replay.trace import BLOCK_TOKENS, BLOCKS_MAX, REQUESTS_MAX

SEED_MAX = 2**53
SECONDS_MAX = 31_622_400
"""366 days"""
TOKENS_MAX = 32 * 1024**2
SHARED_MAX = 100_000
"""system prompts, and documents, at most"""
ARRIVALS_MAX = 200_000_000
"""sessions that would have to be drawn in one run, at most"""

Share = Annotated[float, Meta(ge=0, le=1)]
Factor = Annotated[float, Meta(ge=0, le=10)]
Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
SomeSeconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]
Turns = Annotated[int, Meta(ge=1, le=100_000)]


class Amount(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A drawn amount, in tokens, seconds or as a share: lognormal, or a mixture of two lognormals."""

    median: Annotated[float, Meta(ge=0, le=1e9)]
    """half of the draws are below it; 0: always 0"""
    sigma: Annotated[float, Meta(ge=0, le=5)] = 0.0
    """spread: standard deviation of the logarithm; 0: always the median"""
    long_share: Share = 0.0
    """share of the draws that come from the second lognormal"""
    long_median: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """median of the second"""
    long_sigma: Annotated[float, Meta(ge=0, le=5)] = 0.0
    """spread of the second"""
    least: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """what is less becomes this"""
    most: Annotated[float, Meta(ge=0, le=1e9)] = 1e9
    """what is more becomes this"""


class Arrivals(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When sessions begin: a Poisson process whose rate may drift, swing and burst."""

    sessions_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 1.0
    """mean rate without bursts"""
    trend: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """change of the rate from the beginning to the end, as a share of its mean"""
    swing: Share = 0.0
    """amplitude of a sine on the rate, as a share of it (day and night)"""
    swing_period_s: SomeSeconds = 86400.0
    """period of that sine"""
    swing_phase: Share = 0.0
    """where in its period the sine begins; 0.25: at the peak"""
    burst_every_s: Seconds = 0.0
    """mean time from the end of a burst to the next, exponential; 0: no bursts"""
    burst_s: SomeSeconds = 10.0
    """mean length of a burst, exponential"""
    burst_factor: Annotated[float, Meta(ge=1, le=1000)] = 5.0
    """the rate is multiplied by this during a burst"""


class Prompts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """System prompts: what sessions begin with, shared by all that use the same one."""

    count: Annotated[int, Meta(ge=1, le=SHARED_MAX)] = 16
    """how many there are"""
    zipf: Factor = 1.0
    """the k-th most popular is used in proportion to 1 / k**zipf"""
    tokens: Amount = Amount(median=1500, sigma=0.8, least=64, most=32768)
    """length of each, tokens"""


class Documents(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shared documents: many sessions ask about the same one, right after the same system prompt."""

    share: Share = 0.05
    """share of the conversations that are about a shared document"""
    count: Annotated[int, Meta(ge=1, le=SHARED_MAX)] = 200
    """how many there are"""
    zipf: Factor = 0.8
    """the k-th most popular is used in proportion to 1 / k**zipf"""
    tokens: Amount = Amount(median=12000, sigma=0.8, least=512, most=100_000)
    """length of each, tokens"""


class Conversations(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """People who talk with a model: every turn's input is all that was said before, and a message."""

    opening: Amount = Amount(median=300, sigma=1.2, long_share=0.25, long_median=4000, long_sigma=0.9)
    """first message, with what is attached to it, tokens"""
    message: Amount = Amount(median=60, sigma=1.1, long_share=0.1, long_median=2000, long_sigma=1.0)
    """every later message, tokens"""
    answer: Amount = Amount(median=300, sigma=0.8, least=1, most=4096)
    """answer, tokens"""
    go_on: Annotated[float, Meta(ge=0, lt=1)] = 0.7
    """chance that a first turn is followed by another"""
    go_on_spread: Annotated[float, Meta(ge=0, le=100)] = 0.3
    """how much sessions differ in it: with 0 turns are geometric; with more, who has gone on is
    likelier to go on. After turn k the chance is (go_on + (k-1) * spread) / (1 + (k-1) * spread)"""
    turns_max: Turns = 200
    """turns of a session, at most"""
    think_s: Amount = Amount(median=40, sigma=1.0, least=1, most=86400)
    """time from the end of an answer to the next message, seconds"""
    answer_tokens_per_s: Annotated[float, Meta(gt=0, le=1e6)] = 50.0
    """speed at which answers come"""
    retry_share: Share = 0.01
    """share of the turns that ask the very same again"""
    edit_share: Share = 0.03
    """share of the turns that change something said before: what follows it is written anew"""
    edit_keep: Amount = Amount(median=0.5, sigma=0.5, most=0.99)
    """share of the context before the change, at least one block of what is the session's own"""
    edit_growth: Amount = Amount(median=1.0, sigma=0.3, most=10)
    """context after the change, as a multiple of the one before"""
    come_back_share: Share = 0.05
    """share of the sessions that, at their end, are taken up again after a pause"""
    come_back_s: Amount = Amount(median=3600, sigma=1.0, least=1, most=604_800)
    """length of that pause, seconds"""


class Agents(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Programs that call a model in a loop: a task, then tool calls whose results join the context."""

    share: Share = 0.0
    """share of the sessions that are agents"""
    task: Amount = Amount(median=1500, sigma=0.9)
    """the task, with what is attached to it, tokens"""
    steps: Amount = Amount(median=12, sigma=0.8, least=1, most=200)
    """calls of the model for one task"""
    answer: Amount = Amount(median=120, sigma=0.8, least=1, most=4096)
    """what the model says in a step (a tool call, mostly), tokens"""
    tool_result: Amount = Amount(median=500, sigma=1.2, most=50_000)
    """what a tool call adds to the context, tokens"""
    tool_s: Amount = Amount(median=1.5, sigma=1.2, least=0.05, most=600)
    """time that a tool takes, seconds"""
    answer_tokens_per_s: Annotated[float, Meta(gt=0, le=1e6)] = 80.0
    """speed at which answers come"""
    fan_out_share: Share = 0.05
    """share of an agent's steps that start sub-agents, all with the context as it is as their prefix"""
    fan_out: Amount = Amount(median=4, sigma=0.4, least=2, most=64)
    """how many at a time; the agent waits for all, and their last answers join its context"""
    branch_task: Amount = Amount(median=150, sigma=0.6)
    """what each is told, tokens"""
    branch_steps: Amount = Amount(median=3, sigma=0.6, least=1, most=50)
    """calls of the model for each"""


class WorkloadConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Parameters of a workload."""

    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] = 1
    """the same seed, the same parameters and the same version make the same trace"""
    duration_s: SomeSeconds = 3600.0
    """length of the trace; what would come later is cut off"""
    warmup_s: Seconds = 1800.0
    """time before the trace in which sessions begin already, so that it does not begin with first turns"""
    requests_max: Annotated[int, Meta(ge=0, le=REQUESTS_MAX)] = 0
    """requests, at most; 0: as many as come, up to the format's limit"""
    block_tokens: Annotated[int, Meta(ge=1, le=65536)] = BLOCK_TOKENS
    """tokens in a block"""
    context_tokens_max: Annotated[int, Meta(ge=1, le=TOKENS_MAX)] = 131_072
    """longest input; a session whose next one would be longer ends, a longer first one is cut to this"""
    tick_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """times are rounded down to multiples of this; 0: milliseconds"""
    sessions_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 100_000
    """sessions open at a time, paused ones too; more is an error, since memory grows with them"""
    arrivals: Arrivals = Arrivals()
    prompts: Prompts = Prompts()
    documents: Documents = Documents()
    conversations: Conversations = Conversations()
    agents: Agents = Agents()


def check(config: WorkloadConfig) -> None:
    """Raise `InvalidArgument` for parameters that do not fit together, or break their limits."""
    try:
        # Values that were made in Python, and not decoded, have not met their limits yet.
        msgspec.convert(msgspec.to_builtins(config), WorkloadConfig)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise InvalidArgument(f"workload: {place.strip('`').lstrip('.')}: {problem}") from error
    if config.context_tokens_max > BLOCKS_MAX * config.block_tokens:
        raise InvalidArgument(
            f"workload: context_tokens_max: {config.context_tokens_max} tokens are over {BLOCKS_MAX} blocks of "
            f"{config.block_tokens}: at most {BLOCKS_MAX * config.block_tokens}, or larger blocks"
        )
    arrivals = config.arrivals
    peak = arrivals.sessions_per_s * (arrivals.burst_factor if arrivals.burst_every_s else 1.0)
    if peak * (config.duration_s + config.warmup_s) > ARRIVALS_MAX:
        raise InvalidArgument(
            f"workload: arrivals.sessions_per_s: {peak:g} a second at the peak for "
            f"{config.duration_s + config.warmup_s:g} s make over {ARRIVALS_MAX} sessions: fewer, or shorter"
        )
    for name, amount in amounts(config):
        _check_amount(name, amount)


def amounts(config: WorkloadConfig) -> list[tuple[str, Amount]]:
    """Every drawn amount, with its dotted name."""
    return [
        (f"{table}.{name}", value)
        for table in config.__struct_fields__
        if isinstance(part := getattr(config, table), Struct)
        for name in part.__struct_fields__
        if isinstance(value := getattr(part, name), Amount)
    ]


def _check_amount(name: str, amount: Amount) -> None:
    if amount.least > amount.most:
        raise InvalidArgument(f"workload: {name}: least {amount.least:g} is more than most {amount.most:g}")
    if amount.long_share and not amount.long_median:
        raise InvalidArgument(
            f"workload: {name}: long_share is {amount.long_share:g}, so long_median must be over 0"
        )
    if not all(math.isfinite(getattr(amount, field)) for field in amount.__struct_fields__):
        raise InvalidArgument(f"workload: {name}: a number is not finite")
