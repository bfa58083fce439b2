"""Load or compute: the decision, and that it is never an error of the store's."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo import AsyncClient, Client
from mezzo.errors import Busy, DeadlineExceeded, InvalidArgument, Unavailable
from mezzo.loading import decide_load
from mezzo.protocol.messages import LookedUp
from mezzo.results import LookupResult, looked_up
from mezzo.testing import FakeClient, FakeStore

TOKENS = 256
CHUNK = 1 << 20


def found(
    prefix: int = 10,
    hot_prefix: int = 0,
    *,
    hot_chunk_s: float = 0.001,
    device_chunk_s: float = 0.010,
    wait_s: float = 0.0,
    high: float = 1.0,
) -> LookupResult:
    hot_s = hot_prefix * hot_chunk_s
    device_s = (prefix - hot_prefix) * device_chunk_s + wait_s
    load_s = hot_s + device_s
    return LookupResult(
        prefix, prefix * CHUNK, load_s, high * load_s, hot_prefix, hot_prefix * CHUNK, hot_s, device_s, wait_s
    )


def rate(chunk_s: float) -> float:
    """Tokens a second of an engine that needs so long for a chunk."""
    return TOKENS / chunk_s


def test_all_where_loading_is_quicker() -> None:
    decision = decide_load(found(), rate(0.020), TOKENS)
    assert (decision.chunks, decision.prefix, decision.load) == (10, 10, True)
    assert decision.load_s == pytest.approx(0.1)
    assert decision.recompute_s == pytest.approx(0.2)
    assert decision.saved_s == pytest.approx(0.1)
    assert decision.reason.startswith("all")


def test_none_where_computing_is_quicker() -> None:
    decision = decide_load(found(), rate(0.005), TOKENS)
    assert (decision.chunks, decision.load, decision.saved_s) == (0, False, 0.0)
    assert "100.00 ms, computing 50.00 ms" in decision.reason


def test_only_the_leading_hot_chunks_where_the_rest_is_not_worth_it() -> None:
    decision = decide_load(found(10, 4), rate(0.005), TOKENS)
    assert decision.chunks == 4
    assert decision.load_s == pytest.approx(0.004)
    assert "the hot ones" in decision.reason


def test_a_long_queue_is_paid_once() -> None:
    queue = found(10, 0, device_chunk_s=0.001, wait_s=0.5)
    assert decide_load(queue, rate(0.02), TOKENS).chunks == 0
    assert decide_load(queue, rate(0.06), TOKENS).chunks == 10


def test_as_much_as_the_deadline_allows() -> None:
    some = decide_load(found(10, 2, wait_s=0.005), rate(0.1), TOKENS, deadline_s=0.04)
    assert some.chunks == 5
    assert some.load_s == pytest.approx(0.037)
    assert decide_load(found(), rate(0.1), TOKENS, deadline_s=0.001).chunks == 0
    assert "beyond the deadline" in decide_load(found(), rate(0.1), TOKENS, deadline_s=0.001).reason
    assert decide_load(found(), rate(0.1), TOKENS, deadline_s=10.0).chunks == 10


def test_the_pieces_of_one_prefix_wait_once() -> None:
    """They follow one another without a pause."""
    piece = LookedUp(4, 400, 5000, 4, 400, 1000, 0, 6000, 3000)
    told = looked_up([piece, piece, LookedUp(1, 100, 2000, 0, 0, 0, 2000, 0, 1000)])
    assert (told.prefix, told.bytes, told.hot_prefix, told.hot_bytes) == (9, 900, 8, 800)
    assert (told.load_s, told.load_high_s, told.load_wait_s) == (0.008, 0.01, 0.003)
    assert looked_up([piece]).load_s == 0.005
    assert looked_up([]).prefix == 0


def test_an_estimate_that_has_been_wrong_decides_for_computing() -> None:
    assert decide_load(found(), rate(0.012), TOKENS).chunks == 10
    assert decide_load(found(high=1.5), rate(0.012), TOKENS).chunks == 0


def test_what_a_load_costs_the_caller_counts() -> None:
    assert decide_load(found(), rate(0.012), TOKENS, overhead_s=0.01).chunks == 10
    assert decide_load(found(), rate(0.012), TOKENS, overhead_s=0.03).chunks == 0


def test_a_server_that_tells_nothing_but_the_sum() -> None:
    plain = LookupResult(10, 10 * CHUNK, 0.1)
    assert decide_load(plain, rate(0.02), TOKENS).load_s == pytest.approx(0.1)
    assert decide_load(plain, rate(0.005), TOKENS).chunks == 0


@given(
    prefix=st.integers(1, 50),
    hot=st.integers(0, 50),
    hot_chunk_s=st.floats(1e-5, 1e-2),
    device_chunk_s=st.floats(1e-5, 1e-2),
    wait_s=st.floats(0, 0.1),
    chunk_s=st.floats(1e-5, 1e-2),
)
def test_no_other_number_of_chunks_is_better(
    prefix: int, hot: int, hot_chunk_s: float, device_chunk_s: float, wait_s: float, chunk_s: float
) -> None:
    hot = min(hot, prefix)
    told = found(prefix, hot, hot_chunk_s=hot_chunk_s, device_chunk_s=device_chunk_s, wait_s=wait_s)

    def total(k: int) -> float:
        waits = wait_s if k > hot or (k and hot == prefix) else 0.0
        return waits + min(k, hot) * hot_chunk_s + max(0, k - hot) * device_chunk_s + (prefix - k) * chunk_s

    decision = decide_load(told, rate(chunk_s), TOKENS)
    assert total(decision.chunks) <= min(map(total, range(prefix + 1))) + 1e-9 * prefix + 1e-6


@pytest.mark.parametrize(
    ("tokens_per_s", "tokens", "more"),
    [
        (0.0, 1, {}),
        (-1.0, 1, {}),
        (1.0, 0, {}),
        (1.0, 1, {"overhead_s": -1.0}),
        (1.0, 1, {"deadline_s": 0.0}),
    ],
)
def test_numbers_that_cannot_be(tokens_per_s: float, tokens: int, more: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        decide_load(found(), tokens_per_s, tokens, **more)


def test_a_store_that_is_not_there_means_computing() -> None:
    with Client("unix:///nowhere/at/all.sock") as client:
        decision = client.should_load([b"a"], 1000.0, TOKENS)
    assert (decision.chunks, decision.load) == (0, False)
    assert "cannot be asked" in decision.reason

    async def ask() -> None:
        async with AsyncClient("unix:///nowhere/at/all.sock") as client:
            assert not (await client.should_load([b"a"], 1000.0, TOKENS)).load

    asyncio.run(ask())


@pytest.mark.parametrize("error", [Busy("full"), Unavailable("down"), DeadlineExceeded("late")])
def test_what_the_store_says_is_no_error_of_the_engine(error: Exception) -> None:
    store = FakeStore()
    store.unavailable = error
    with FakeClient(store) as client:
        assert not client.should_load([b"a"], 1000.0, TOKENS).load
        with pytest.raises(InvalidArgument):
            client.should_load([], 1000.0, TOKENS)


def test_the_fake_refuses_a_deadline_that_its_estimate_is_beyond() -> None:
    store = FakeStore()
    store.load_s = lambda nbytes: nbytes * 0.001
    with FakeClient(store) as client:
        client.put([b"a"], [b"x" * 100])
        with pytest.raises(DeadlineExceeded, match=r"100 bytes would take about 100\.0 ms"):
            client.get([b"a"], [bytearray(100)], deadline_s=0.099)
        assert client.get([b"a"], [bytearray(100)], deadline_s=0.101).count == 1


def test_the_namespaces_identity_knows_the_tokens() -> None:
    with FakeClient(FakeStore()) as client:
        named = client.namespace(model="m", kv_dtype="bf16", layout="NHD", chunk_tokens=16, chunk_bytes=100)
        named.put([b"a"], [b"x" * 100])
        assert named.should_load([b"a"], 4.0).recompute_s == 4.0
        with pytest.raises(InvalidArgument, match="chunk_tokens"):
            client.should_load([b"a"], 4.0)
