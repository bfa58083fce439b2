"""Generated workloads: the same everywhere, a trace in every case, and what each parameter does."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice, pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mezzo.errors import InvalidArgument, TooLarge
from mezzo.replay import workload as module
from mezzo.replay.presets import PRESET_NOTES, PRESETS
from mezzo.replay.trace import Request, format_request, parse
from mezzo.replay.workload import stream, workload
from mezzo.replay.workload_config import (
    Agents,
    Amount,
    Arrivals,
    Conversations,
    Documents,
    Prompts,
    WorkloadConfig,
)

ONE = Amount(median=100)
NEVER = Amount(median=1e9)
SMALL = replace(PRESETS["agents"], duration_s=120, warmup_s=60)


def requests(config: WorkloadConfig) -> tuple[Request, ...]:
    return workload(config).requests


def digest(config: WorkloadConfig) -> str:
    return hashlib.sha256(b"\n".join(map(format_request, requests(config)))).hexdigest()


def single_turns(**changes: object) -> WorkloadConfig:
    """Conversations of one turn each, and nothing else."""
    plain = WorkloadConfig(
        duration_s=1000,
        warmup_s=0,
        documents=Documents(share=0),
        conversations=Conversations(opening=ONE, go_on=0, come_back_share=0, retry_share=0, edit_share=0),
    )
    return replace(plain, **changes)


def test_it_is_the_same_everywhere() -> None:
    assert {
        name: digest(replace(config, duration_s=60, warmup_s=60)) for name, config in PRESETS.items()
    } == DIGESTS


DIGESTS = {
    "conversation": "aaeedc447c33a102bea4f0b108c6226790b77336587d60b5ce9397ee96e1a350",
    "chat": "b62c2a538db7be0e0aae52717364bf79dcb0a44763db6f1387e3c3f1698b7b9c",
    "documents": "0a1b5be094119c4638d84b0e78e2ae3b63af7949b3d2018a5622cdccb22816f4",
    "agents": "27fcc76b940f07e4f3473a208aec84d655f4aa0e30bbd5ad755f35b0c486de9c",
}


def test_another_seed_is_another_workload() -> None:
    assert requests(SMALL) == requests(SMALL)
    assert requests(SMALL) != requests(replace(SMALL, seed=2))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_work_for_a_cache(name: str) -> None:
    assert PRESET_NOTES[name]
    summary = workload(replace(PRESETS[name], duration_s=600)).summary()
    assert summary.requests > 200
    assert 0.2 < summary.hit_rate_max < 0.99


shares = st.floats(0, 1)
amounts = st.builds(
    Amount,
    median=st.floats(0, 3000),
    sigma=st.floats(0, 2),
    long_share=shares,
    long_median=st.floats(1, 9000),
    long_sigma=st.floats(0, 2),
    most=st.just(20_000),
)
few = st.builds(Amount, median=st.floats(0, 6), sigma=st.floats(0, 1), most=st.just(9))
configs = st.builds(
    WorkloadConfig,
    seed=st.integers(0, 2**53),
    duration_s=st.floats(1, 100),
    warmup_s=st.floats(0, 100),
    requests_max=st.integers(1, 150),
    block_tokens=st.integers(1, 1024),
    context_tokens_max=st.integers(1, 60_000),
    tick_s=st.sampled_from((0.0, 3.0)),
    arrivals=st.builds(
        Arrivals,
        sessions_per_s=st.floats(0.1, 2),
        trend=st.floats(-2, 2),
        swing=shares,
        swing_period_s=st.floats(1, 1000),
        burst_every_s=st.sampled_from((0.0, 5.0)),
    ),
    prompts=st.builds(Prompts, count=st.integers(1, 4), tokens=amounts),
    documents=st.builds(Documents, share=shares, count=st.integers(1, 4), tokens=amounts),
    conversations=st.builds(
        Conversations,
        opening=amounts,
        message=amounts,
        answer=amounts,
        go_on=st.floats(0, 0.9),
        go_on_spread=st.floats(0, 2),
        think_s=few,
        retry_share=shares,
        edit_share=shares,
        edit_keep=st.builds(Amount, median=shares, most=st.just(1)),
        come_back_share=shares,
        come_back_s=few,
    ),
    agents=st.builds(
        Agents, share=shares, task=amounts, steps=few, tool_result=amounts, tool_s=few,
        fan_out_share=shares, fan_out=few, branch_steps=few,
    ),
)  # fmt: skip


@settings(max_examples=60)
@given(configs)
def test_every_workload_is_a_trace(config: WorkloadConfig) -> None:
    made = list(islice(stream(config), 150))
    assert tuple(parse(map(format_request, made), "made")) == tuple(made)
    before: dict[int, int | None] = {}
    for request in made:
        assert 0 < request.input_tokens <= config.context_tokens_max
        assert len(request.hash_ids) == -(-request.input_tokens // config.block_tokens)
        assert request.timestamp_ms <= config.duration_s * 1000
        # A number names a block with all that is before it: so the one right before it is always the same.
        last: int | None = None
        for hash_id in request.hash_ids:
            assert before.setdefault(hash_id, last) == last
            last = hash_id


def test_rate_trend_swing_and_ticks() -> None:
    flat = requests(single_turns(arrivals=Arrivals(sessions_per_s=5)))
    assert len(flat) == pytest.approx(5000, rel=0.05)
    rising = requests(single_turns(arrivals=Arrivals(sessions_per_s=5, trend=1)))
    late = sum(request.timestamp_ms > 500_000 for request in rising)
    assert late / (len(rising) - late) == pytest.approx(1.25 / 0.75, rel=0.1)
    swinging = requests(single_turns(arrivals=Arrivals(sessions_per_s=5, swing=1, swing_period_s=1000)))
    assert sum(request.timestamp_ms < 500_000 for request in swinging) / len(swinging) > 0.75
    ticks = requests(single_turns(tick_s=3))
    assert all(request.timestamp_ms % 3000 == 0 for request in ticks)


def test_bursts() -> None:
    bursts = Arrivals(sessions_per_s=2, burst_every_s=50, burst_s=10, burst_factor=10)
    counts = Counter(int(request.timestamp_ms // 5000) for request in requests(single_turns(arrivals=bursts)))
    quiet = Counter(int(request.timestamp_ms // 5000) for request in requests(single_turns()))
    assert max(counts.values()) > 5 * 10 > max(quiet.values())


def test_turns_are_geometric_and_with_spread_long_sessions_go_on() -> None:
    def turns(spread: float) -> list[int]:
        config = single_turns(
            duration_s=3000,
            prompts=Prompts(count=1, tokens=Amount(median=0)),
            conversations=Conversations(
                opening=Amount(median=600), message=Amount(median=600), answer=ONE, go_on=0.5,
                go_on_spread=spread, think_s=Amount(median=1), retry_share=0, edit_share=0, come_back_share=0,
            ),
        )  # fmt: skip
        return sorted(Counter(request.hash_ids[0] for request in requests(config)).values())

    plain, spread = turns(0), turns(0.5)
    assert sum(plain) / len(plain) == pytest.approx(2, rel=0.1)
    assert sum(one > 1 for one in spread) / len(spread) == pytest.approx(0.5, rel=0.1)
    assert spread[-1] > 2 * plain[-1]


def test_sessions_share_prompts_by_zipf_and_ask_about_the_same_documents() -> None:
    prompts = Prompts(count=10, zipf=1, tokens=Amount(median=1024))
    popular = Counter(r.hash_ids[:2] for r in requests(single_turns(prompts=prompts))).most_common()
    assert len(popular) == 10
    assert popular[0][1] / popular[1][1] == pytest.approx(2, rel=0.35)
    documents = Documents(share=1, count=3, zipf=0, tokens=Amount(median=5120))
    config = single_turns(prompts=replace(prompts, count=1), documents=documents)
    assert len({request.hash_ids[:12] for request in requests(config)}) == 3
    assert len({request.hash_ids[:13] for request in requests(config)}) > 500


def test_retries_ask_the_same_and_edits_leave_what_is_before() -> None:
    always = Conversations(
        opening=Amount(median=5000), answer=ONE, go_on=0.99, think_s=Amount(median=10),
        retry_share=1, edit_share=0, come_back_share=0,
    )  # fmt: skip
    one = replace(single_turns(), duration_s=2000, requests_max=40)
    same = requests(replace(one, conversations=always, arrivals=Arrivals(sessions_per_s=0.001)))
    assert len(same) == 40
    assert max(Counter(request.hash_ids for request in same).values()) > 5
    edits = replace(always, retry_share=0, edit_share=1, edit_keep=Amount(median=0.5))
    edited = requests(replace(one, conversations=edits, arrivals=Arrivals(sessions_per_s=0.001)))
    kept = [
        sum(a == b for a, b in zip(first.hash_ids, second.hash_ids, strict=False)) / len(first.hash_ids)
        for first, second in pairwise(edited)
    ]
    assert Counter(0.3 < share < 0.6 for share in kept).most_common(1)[0][0]


def test_who_comes_back_does_so_once_after_the_pause() -> None:
    talk = Conversations(
        opening=Amount(median=600), message=ONE, answer=ONE, go_on=0, go_on_spread=0, come_back_share=1,
        come_back_s=Amount(median=500), retry_share=0, edit_share=0,
    )  # fmt: skip
    empty = Prompts(count=1, tokens=Amount(median=0))
    made = requests(single_turns(prompts=empty, conversations=talk, duration_s=5000))
    times: dict[int, list[float]] = {}
    for request in made:
        times.setdefault(request.hash_ids[0], []).append(request.timestamp_ms)
    begun_early = [stamps for stamps in times.values() if stamps[0] < 4_000_000]
    assert {len(stamps) for stamps in begun_early} == {2}
    assert all(502_000 - 1 <= stamps[1] - stamps[0] <= 502_000 + 1 for stamps in begun_early)


def test_agents_grow_their_context_and_sub_agents_share_it() -> None:
    loop = Agents(
        share=1, task=Amount(median=1024), steps=Amount(median=6), answer=ONE, tool_result=Amount(median=412),
        tool_s=Amount(median=1), fan_out_share=0,
    )  # fmt: skip
    config = single_turns(
        arrivals=Arrivals(sessions_per_s=0.01), prompts=Prompts(count=1, tokens=Amount(median=0)), agents=loop
    )
    lengths: dict[int, list[int]] = {}
    for request in requests(config):
        lengths.setdefault(request.hash_ids[0], []).append(request.input_tokens)
    assert next(iter(lengths.values())) == [1024 + 512 * step for step in range(6)]

    fans = replace(
        loop, fan_out_share=1, fan_out=Amount(median=3), branch_task=ONE, branch_steps=Amount(median=2)
    )
    shared: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for request in requests(replace(config, agents=fans))[:7]:
        shared.setdefault(request.hash_ids[:2], set()).add(request.hash_ids)
    assert [len(asked) for asked in shared.values()] == [7], "the agent, three sub-agents with two steps each"


def test_warm_up_begins_with_sessions_under_way() -> None:
    talk = Conversations(
        opening=ONE,
        message=Amount(median=512),
        answer=ONE,
        go_on=0.9,
        think_s=Amount(median=100),
        come_back_share=0,
    )
    cold = requests(single_turns(conversations=talk, duration_s=60))
    warm = requests(single_turns(conversations=talk, duration_s=60, warmup_s=2000))
    assert max(r.input_tokens for r in warm) > 2 * max(r.input_tokens for r in cold)
    assert len(warm) > 2 * len(cold)


def test_limits_are_errors_that_say_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooLarge, match="over 5 sessions open at a time: fewer sessions_per_s"):
        requests(replace(PRESETS["chat"], sessions_max=5))
    monkeypatch.setattr(module, "REQUESTS_MAX", 10)
    with pytest.raises(TooLarge, match=r"over 10 requests.*requests_max"):
        requests(SMALL)
    assert len(requests(replace(SMALL, requests_max=10))) == 10


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (WorkloadConfig(duration_s=0), r"duration_s: Expected `float` > 0"),
        (WorkloadConfig(conversations=Conversations(go_on=1)), r"conversations\.go_on: Expected `float` < 1"),
        (WorkloadConfig(agents=Agents(steps=Amount(median=-1))), r"agents\.steps\.median: Expected `float` >= 0"),
        (
            WorkloadConfig(conversations=Conversations(opening=Amount(median=1, long_share=0.5))),
            r"conversations\.opening: long_share is 0\.5, so long_median must be over 0",
        ),
        (
            WorkloadConfig(prompts=Prompts(tokens=Amount(median=1, least=5, most=4))),
            r"prompts\.tokens: least 5 is more than most 4",
        ),
        (
            WorkloadConfig(block_tokens=1, context_tokens_max=65_537),
            r"context_tokens_max: 65537 tokens are over 65536 blocks of 1",
        ),
        (
            WorkloadConfig(arrivals=Arrivals(sessions_per_s=100_000)),
            r"arrivals\.sessions_per_s: 100000 a second at the peak for 5400 s make over 200000000 sessions",
        ),
        (WorkloadConfig(duration_s=float("nan")), r"duration_s"),
    ],
)  # fmt: skip
def test_senseless_parameters_are_named(config: WorkloadConfig, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        workload(config)


def test_presets_are_within_their_own_limits() -> None:
    for config in PRESETS.values():
        assert msgspec.convert(msgspec.to_builtins(config), WorkloadConfig) == config
