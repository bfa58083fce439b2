"""The arithmetic of `mezzo top`: two samples of a shard's numbers make one set of figures. Pure.

A shard that started anew counts from 0 again: then there is no interval, and rates come with the next
sample.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

Numbers = Mapping[str, float]

KIND_PREFIX = "requests_failed_"
"""Each kind of request has a number that begins so."""
QUIET_KINDS = ("hello", "shard_stat", "ping", "cancel")
"""Shown only after the others."""
DEVICES_MAX = 32


class Hits(Struct, frozen=True):
    """What came of chunks that were asked for with get."""

    hot: float
    device: float
    miss: float

    @property
    def asked(self) -> float:
        """All of them."""
        return self.hot + self.device + self.miss

    @property
    def rate(self) -> float | None:
        """Share that was found; None: nothing was asked for."""
        return (self.hot + self.device) / self.asked if self.asked else None


class Flow(Struct, frozen=True):
    """Payload, bytes per second, by transport."""

    shm: float
    tcp: float

    @property
    def total(self) -> float:
        """Over all transports."""
        return self.shm + self.tcp


class Requests(Struct, frozen=True):
    """Requests of one kind that ended in the interval."""

    kind: str
    per_s: float
    failed_per_s: float
    mean_ms: float | None
    """from frame to answer; None: there were none"""
    own_ms: float | None
    """of it, what was not device time"""
    device_ms: float | None
    total: int
    """since the shard's start"""


class Disk(Struct, frozen=True):
    """One device."""

    number: int
    state: str
    bytes_live: int
    bytes_total: int
    segments_free: int
    segments_total: int
    segments_retired: int
    transfers_in_flight: int
    transfers_waiting: int
    io_errors: int

    @property
    def fill(self) -> float:
        """Share of its space that holds chunks."""
        return self.bytes_live / self.bytes_total if self.bytes_total else 0.0


class Figures(Struct, frozen=True):
    """One frame of `mezzo top`, and what `--json` prints. Rates are None without an interval."""

    uptime_s: float
    interval_s: float | None
    """between the two samples; None: the first one, or the shard started anew since"""
    restarted: bool
    hits: Hits | None
    """chunks in the interval"""
    hits_total: Hits
    sent: Flow | None
    received: Flow | None
    requests_per_s: float | None
    errors_per_s: float | None
    busy_per_s: float | None
    evicted_bytes_per_s: float | None
    rewritten_bytes_per_s: float | None
    loop_share: float | None
    """of the interval that the event loop was held"""
    requests: list[Requests]
    devices: list[Disk]
    numbers: dict[str, float]
    """the shard's own, for all else"""

    def number(self, name: str) -> float:
        """One of the shard's numbers; 0 if an older shard does not tell it."""
        return self.numbers.get(name, 0)

    @property
    def is_a_tenants(self) -> bool:
        """Whether these are one tenant's numbers, and not the whole shard's."""
        return bool(self.numbers) and "uptime_s" not in self.numbers


def figures(before: Numbers | None, now: Numbers, elapsed_s: float) -> Figures:
    """What ``now`` says, and what happened since ``before``, ``elapsed_s`` ago."""
    restarted = before is not None and now.get("uptime_s", 0) < before.get("uptime_s", 0)
    base = None if restarted or elapsed_s <= 0 else before

    def since(name: str) -> float:
        return 0.0 if base is None else max(0.0, now.get(name, 0) - base.get(name, 0))

    def rate(name: str) -> float | None:
        return None if base is None else since(name) / elapsed_s

    def flow(way: str) -> Flow | None:
        if base is None:
            return None
        return Flow(since(f"bytes_{way}_shm") / elapsed_s, since(f"bytes_{way}_tcp") / elapsed_s)

    held_us = rate("loop_held_us")
    names = ("chunks_got_hot", "chunks_got_device", "chunks_missed")
    return Figures(
        uptime_s=now.get("uptime_s", 0),
        interval_s=None if base is None else elapsed_s,
        restarted=restarted,
        hits=None if base is None else Hits(*(since(name) for name in names)),
        hits_total=Hits(*(now.get(name, 0) for name in names)),
        sent=flow("out"),
        received=flow("in"),
        requests_per_s=rate("requests"),
        errors_per_s=rate("errors"),
        busy_per_s=rate("busy"),
        evicted_bytes_per_s=rate("bytes_evicted"),
        rewritten_bytes_per_s=rate("rewritten_bytes"),
        loop_share=None if held_us is None else held_us / 1e6,
        requests=_requests(base, now, elapsed_s),
        devices=_devices(now),
        numbers=dict(now),
    )


def _requests(base: Numbers | None, now: Numbers, elapsed_s: float) -> list[Requests]:
    found = []
    for name in now:
        if not name.startswith(KIND_PREFIX):
            continue
        kind = name.removeprefix(KIND_PREFIX)
        total = int(now.get(f"requests_{kind}", 0))
        old: Numbers = {} if base is None else base
        count = 0.0 if base is None else total - old.get(f"requests_{kind}", 0)
        spent_us = now.get(f"request_us_{kind}", 0) - old.get(f"request_us_{kind}", 0)
        device_us = now.get(f"request_device_us_{kind}", 0) - old.get(f"request_device_us_{kind}", 0)
        failed = now.get(name, 0) - old.get(name, 0)
        one = Requests(
            kind=kind,
            per_s=count / elapsed_s if count else 0.0,
            failed_per_s=failed / elapsed_s if base is not None else 0.0,
            mean_ms=spent_us / count / 1e3 if count > 0 else None,
            own_ms=max(0.0, spent_us - device_us) / count / 1e3 if count > 0 else None,
            device_ms=device_us / count / 1e3 if count > 0 else None,
            total=total,
        )
        found.append(one)
    return sorted(found, key=lambda one: (one.kind in QUIET_KINDS, -one.per_s, -one.total, one.kind))


def _devices(now: Numbers) -> list[Disk]:
    found = []
    for number in range(DEVICES_MAX):
        prefix = f"device_{number}_"
        if f"{prefix}bytes_total" not in now:
            break
        told = {
            name: int(now.get(prefix + name, 0))
            for name in Disk.__struct_fields__
            if name not in SAID_OTHERWISE
        }
        found.append(Disk(number=number, state="fenced" if now.get(f"{prefix}fenced") else "serving", **told))
    return found


SAID_OTHERWISE = frozenset({"number", "state"})
