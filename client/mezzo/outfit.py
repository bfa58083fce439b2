"""What a client has once, for all of its connections: its own, and those to the shards of its pod. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mezzo.address import Address
from mezzo.calls import Context
from mezzo.connecting import Surroundings
from mezzo.credentials import Bearer, Ticket, TicketSource
from mezzo.frontend.via import Via
from mezzo.identity import Identity
from mezzo.pod import MapSource
from mezzo.staging import Staging
from mezzo.statistics import Counters
from mezzo.tls import TLS


class Places:
    """The addresses that a client was given. Owner of which one is asked next, where they are several front-ends'."""

    __slots__ = ("_next", "addresses")

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = tuple(addresses)
        self._next = 0

    def __len__(self) -> int:
        return len(self.addresses)

    @property
    def present(self) -> Address:
        """Which one is asked."""
        return self.addresses[self._next]

    def go_on(self) -> None:
        """It did not answer, or does not know: the next one is."""
        self._next = (self._next + 1) % len(self.addresses)


@dataclass(frozen=True, slots=True)
class Outfit:
    """Shared by a client and its ways to the shards, none of which it refers to. From any thread."""

    places: Places
    map_source: MapSource | None
    """who has the map of the pod already; None: a front-end is asked"""
    namespace_name: str
    identity: Identity | None
    name: str
    via: Via
    tls: TLS
    timeout_s: float
    connect_timeout_s: float
    cancel_grace_s: float
    disabled: bool
    stripes: int
    shm: bool
    waiting_max: int
    given_ticket: Ticket | TicketSource | None
    bearer: Bearer
    surroundings: Surroundings
    counters: Counters
    staging: Staging
    context: Context
    pid: int
    """of the process that it was made in"""
