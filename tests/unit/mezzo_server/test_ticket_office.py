"""The tickets that a front-end gives out, and how their keys are published. No sockets, no real clock."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from mezzo.errors import Unavailable
from mezzo_server.access.keyring import KeyRing
from mezzo_server.access.principal import Principal, Scopes
from mezzo_server.access.tickets import verify
from mezzo_server.frontend.ticket_office import KEEP_S, TicketOffice
from mezzo_server.tenancy.model import TicketKey

A = b"a" * 16
NOW = 1_700_000_000.0


class Published:
    """Where keys are published, as far as the office sees."""

    def __init__(self) -> None:
        self.keys: dict[int, TicketKey] = {}
        self.ends: dict[int, float] = {}
        """of leases, since they were last kept"""
        self.lease_s = math.inf
        self.now = 0.0
        self.published = 0
        self.away = False
        self.kept = 0

    async def publish_ticket_key(self, key: TicketKey, ttl_s: float) -> int:
        if self.away:
            raise Unavailable("the engine is away")
        self.published += 1
        self.keys[self.published] = key
        self.ends[self.published] = self.now + self.lease_s
        return self.published

    async def keep_ticket_key(self, lease: int) -> bool:
        if self.away:
            raise Unavailable("the engine is away")
        self.kept += 1
        self.ends[lease] = self.now + self.lease_s
        return lease in self.keys

    def expire(self, now: float) -> None:
        self.now = now
        self.keys = {lease: key for lease, key in self.keys.items() if self.ends[lease] > now}


class Office:
    def __init__(self) -> None:
        self.clock = 100.0
        self.published = Published()
        ring = KeyRing(pod="pod", key_s=4000, ticket_s=300, random_bytes=random.Random(7).randbytes)
        self.office = TicketOffice(
            ring, self.published, ticket_s=300, now=lambda: self.clock, now_s=lambda: NOW + self.clock
        )

    def step(self, seconds: float = 0.0) -> None:
        self.clock += seconds
        asyncio.run(self.office.step())


CALLER = Principal(A, "a", Scopes.READ, "f" * 16)


def test_a_ticket_is_good_as_long_as_it_says() -> None:
    rig = Office()
    with pytest.raises(Unavailable):
        rig.office.sign(CALLER)
    rig.step()
    signed = rig.office.sign(CALLER)
    assert signed.expires == 400.0
    # At every moment of a second: a ticket of less than one would have no time at all at some.
    for _ in range(8):
        rig.clock += 0.125
        assert rig.office.sign(CALLER).expires == rig.clock + 300.0
    assert "Ticket of" in repr(signed)
    [key] = rig.published.keys.values()
    said = verify(signed.ticket, lambda key_id: key.public, pod="pod", now_s=NOW + 100)
    assert (said.tenant, said.scopes) == (A, 1)


def test_an_outage_of_the_metadata_costs_no_ticket() -> None:
    rig = Office()
    rig.published.away = True
    rig.step()
    assert rig.office.failures == 1
    rig.published.away = False
    rig.step(5)
    assert rig.office.sign(CALLER)
    rig.step(KEEP_S)
    assert rig.published.kept == 1
    rig.published.away = True
    for _ in range(100):
        rig.step(5)
    assert rig.office.sign(CALLER)
    # It comes back without our lease: what we still sign with is published anew.
    [lost] = rig.published.keys.values()
    rig.published.keys.clear()
    rig.published.away = False
    rig.step(5)
    assert [key.public for key in rig.published.keys.values()] == [lost.public]


def test_a_key_is_published_no_longer_than_its_tickets_are_good() -> None:
    """Else every shard would collect the keys of all days."""
    rig = Office()
    rig.published.lease_s = 3 * KEEP_S
    for _ in range(1000):
        rig.step(KEEP_S)
        rig.published.expire(rig.clock)
        assert rig.office.sign(CALLER)
    assert 1 <= len(rig.published.keys) <= 4
