"""What stands for the connections to the shards of a pod, where a client of one shard has its connection. No I/O:
`performing` and `async_performing` have the links themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from mezzo.calls import CONNECT, Call
from mezzo.connecting import Surroundings
from mezzo.errors import DeadlineExceeded, MezzoError, Unavailable
from mezzo.pod import KnownPod
from mezzo.protocol.messages import Welcome
from mezzo.session import Session
from mezzo.spread import Spread
from mezzo.statistics import Counters

RESERVE = 8
"""The part of a call's time that is left for giving up what is late, so that the answer comes within it."""
MET_MAX = 8
"""Shards asked at a time for what any of them knows."""


def reserve_s(left_s: float, grace_s: float) -> float:
    """How long before the end of a call shards that have not answered are given up, so that it ends in time."""
    return max(0.0, min(grace_s, left_s / RESERVE))


class Way(Protocol):
    """A way to one shard, as its session sees it."""

    @property
    def session(self) -> Session | None:
        """Of the connection that there is."""

    def end(self, error: MezzoError) -> None:
        """End the connection; none is made any more."""

    def leave(self) -> None:
        """As `end`, since the map has the shard no more."""

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""


W = TypeVar("W", bound=Way)


class PodSession(Session):
    """What calls and reprs ask of a connection's session, over all connections. It does not fail: shards do."""

    def __init__(
        self, ways: Callable[[], Iterator[Way]], address: str, counters: Counters, now: Callable[[], float]
    ) -> None:
        super().__init__(
            address=address,
            client_name="pod",
            namespace="pod",
            counters=counters,
            now=now,
            use_shm=False,
            waiting_max=1,
        )
        self._ways = ways

    @property
    def welcome(self) -> Welcome | None:
        """Of one of the shards that have answered."""
        return next((session.welcome for session in self._sessions() if session.welcome is not None), None)

    @property
    def limits(self) -> Welcome:
        """See `Session.limits`."""
        welcome = self.welcome
        if welcome is None:
            raise Unavailable("no shard of the pod is connected")
        return welcome

    @property
    def requests_in_flight(self) -> int:
        """See `Session.requests_in_flight`."""
        return sum([session.requests_in_flight for session in self._sessions()])

    @property
    def requests_waiting(self) -> int:
        """See `Session.requests_waiting`."""
        return sum([session.requests_waiting for session in self._sessions()])

    @property
    def regions(self) -> int:
        """Registrations: a region that several shards know counts with each."""
        return sum([session.regions for session in self._sessions()])

    def lose(self, error: MezzoError) -> None:
        """See `Session.lose`."""
        if self.failure is None:
            self.failure = error

    def _sessions(self) -> list[Session]:
        return [way.session for way in self._ways() if way.session is not None]


class Ways(Generic[W]):
    """The ways of one client to the shards of its pod, each made when it is first needed. Owner of them."""

    direct = False
    """whether it leads to a shard itself"""

    def __init__(
        self,
        pod: KnownPod,
        make: Callable[[bytes], W],
        surroundings: Surroundings,
        counters: Counters,
        address: str,
    ) -> None:
        self.pod = pod
        self.spread: Spread | None = Spread(self, pod)
        """the calls over the shards"""
        self.session: Session = PodSession(self._each, address, counters, surroundings.now)
        self._make = make
        self._surroundings = surroundings
        self._ways: dict[bytes, W] = {}
        self._lock = threading.Lock()
        self._ending: MezzoError | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pod!r}>"

    def _way(self, shard: bytes) -> W:
        way = self._ways.get(shard)
        if way is None:
            with self._lock:
                if self._ending is not None:
                    raise self._ending
                way = self._ways.get(shard)
                if way is None:
                    way = self._ways[shard] = self._make(shard)
        return way

    def _each(self) -> Iterator[W]:
        return iter(tuple(self._ways.values()))

    def _strangers(self) -> list[bytes]:
        """The shards of the map in an order of chance, so that not all clients begin with the same one."""
        shards = [shard.id for shard in self.pod.pod_map.shards]
        random = self._surroundings.random
        shards.sort(key=lambda _: random())
        return shards

    def end_leavers(self) -> None:
        """End the connections to shards that the map has no more."""
        there = {shard.id for shard in self.pod.pod_map.shards}
        with self._lock:
            gone = [shard for shard in self._ways if shard and shard not in there]
            leavers = [self._ways.pop(shard) for shard in gone]
        for way in leavers:
            way.leave()

    def end(self, error: MezzoError) -> None:
        """End all connections."""
        for way in self._close(error):
            way.end(error)

    def close_descriptors(self) -> None:
        """In a forked child: give up the copies of the descriptors; the parent's stay."""
        for way in self._each():
            way.close_descriptors()

    def in_time(self, deadline: float, grace_s: float) -> tuple[float, float]:
        """When shards that have not answered are given up, so that a call ends in time, and how long that may take."""
        reserved_s = reserve_s(deadline - self._surroundings.now(), grace_s)
        return deadline - reserved_s, reserved_s

    def _close(self, error: MezzoError) -> list[W]:
        """No way is made any more; those that there are, to be ended."""
        self.session.lose(error)
        with self._lock:
            self._ending = self._ending or error
            ways, self._ways = list(self._ways.values()), {}
        return ways


def hello() -> Call[None]:
    """A call that wants nothing but a connection."""
    yield CONNECT


def not_met(errors: Sequence[MezzoError]) -> MezzoError:
    """Why no shard was reached: what the first said, which for a caller's own fault is what all say.

    One that took too long is not there, as for a client of one shard: the next attempt may find it.
    """
    if not errors:
        return Unavailable("the pod has no shards")
    if isinstance(errors[0], DeadlineExceeded):
        return Unavailable("no shard of the pod answered the hello in time")
    return errors[0]
