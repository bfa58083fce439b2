"""What a put may ask for, within what its namespace and tenant allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzo_server.tenancy.lifetime import ttl_ms
from mezzo_server.tenancy.model import Lifetime


def lifetime(default: int = 0, most: int = 0) -> Lifetime:
    return Lifetime(ttl_s_default=default, ttl_s_max=most)


@pytest.mark.parametrize(
    ("wish_ms", "tenant", "namespace", "expected"),
    [
        (0, lifetime(), lifetime(), 0),
        (5, lifetime(), lifetime(), 5),
        (0, lifetime(default=10), lifetime(), 10_000),
        (0, lifetime(default=10), lifetime(default=20), 20_000),
        (7, lifetime(default=10), lifetime(default=20), 7),
        (0, lifetime(most=30), lifetime(), 30_000),
        (0, lifetime(), lifetime(most=30), 30_000),
        (99_000, lifetime(most=30), lifetime(most=40), 30_000),
        (99_000, lifetime(most=40), lifetime(most=30), 30_000),
        (1, lifetime(most=30), lifetime(most=40), 1),
        (0, lifetime(default=99), lifetime(most=30), 30_000),
        (0, lifetime(default=2**63 - 1), lifetime(), 10**12),
        (0, lifetime(), lifetime(most=2**63 - 1), 10**12),
    ],
)
def test_examples(wish_ms: int, tenant: Lifetime, namespace: Lifetime, expected: int) -> None:
    assert ttl_ms(wish_ms, tenant, namespace) == expected


LIVES = st.builds(lifetime, st.integers(0, 10**6), st.integers(0, 10**6))


@given(st.integers(0, 10**12), LIVES, LIVES)
def test_ceilings_hold_and_a_wish_within_them_is_kept(
    wish_ms: int, tenant: Lifetime, namespace: Lifetime
) -> None:
    chosen = ttl_ms(wish_ms, tenant, namespace)
    for one in (tenant, namespace):
        if one.ttl_s_max:
            assert 0 < chosen <= one.ttl_s_max * 1000
    if wish_ms and all(not one.ttl_s_max or wish_ms <= one.ttl_s_max * 1000 for one in (tenant, namespace)):
        assert chosen == wish_ms
