"""Mezzo: a pod-wide store for the KV cache of large language models. This is its SDK.

    import mezzo

    with mezzo.Client("unix:///run/mezzo.sock") as client:
        region = client.region(64 * 1024 * 1024)
        ...

docs/sdk.md is the guide.  What is named here is imported when it is first used: whoever wants errors and frames alone (a
server, a command) does not wait for two kinds of clients.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mezzo.errors import (
    Busy,
    CallerError,
    ClientClosed,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    Denied,
    DeviceFailed,
    ForkedError,
    Gone,
    InternalError,
    InvalidArgument,
    MezzoError,
    OverQuota,
    ProtocolError,
    RegionError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongEpoch,
)

if TYPE_CHECKING:
    from mezzo.asynchronous import AsyncClient
    from mezzo.client import Client
    from mezzo.credentials import Ticket
    from mezzo.events import AsyncEventStream, Cursor, Event, EventStream, Gap
    from mezzo.identity import Identity
    from mezzo.lease import AsyncLease, Lease
    from mezzo.loading import LoadDecision, decide_load
    from mezzo.places import Memory, Parts
    from mezzo.protocol.messages import ChunkStat, DeviceAction, DeviceState, EventKind, GapReason
    from mezzo.regions import Extent, Region
    from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState, Stats
    from mezzo.statistics import ClientStatistics
    from mezzo.tls import TLS

_NAMES = {
    "mezzo.asynchronous": ("AsyncClient",),
    "mezzo.client": ("Client",),
    "mezzo.credentials": ("Ticket",),
    "mezzo.events": ("AsyncEventStream", "Cursor", "Event", "EventStream", "Gap"),
    "mezzo.identity": ("Identity",),
    "mezzo.lease": ("AsyncLease", "Lease"),
    "mezzo.loading": ("LoadDecision", "decide_load"),
    "mezzo.places": ("Memory", "Parts"),
    "mezzo.protocol.messages": ("ChunkStat", "DeviceAction", "DeviceState", "EventKind", "GapReason"),
    "mezzo.regions": ("Extent", "Region"),
    "mezzo.results": ("DeleteResult", "GetResult", "LookupResult", "PutResult", "PutState", "Stats"),
    "mezzo.statistics": ("ClientStatistics",),
    "mezzo.tls": ("TLS",),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    # clients
    "AsyncClient",
    "Client",
    "ClientStatistics",
    "TLS",
    "Identity",
    # memory
    "Extent",
    "Memory",
    "Parts",
    "Region",
    # results
    "AsyncLease",
    "ChunkStat",
    "DeleteResult",
    "DeviceAction",
    "DeviceState",
    "GetResult",
    "Lease",
    "LoadDecision",
    "LookupResult",
    "PutResult",
    "PutState",
    "Stats",
    "decide_load",
    # events
    "AsyncEventStream",
    "Cursor",
    "Event",
    "EventKind",
    "EventStream",
    "Gap",
    "GapReason",
    # errors
    "Busy",
    "CallerError",
    "ClientClosed",
    "Conflict",
    "ConnectionLost",
    "DeadlineExceeded",
    "Denied",
    "DeviceFailed",
    "ForkedError",
    "Gone",
    "InternalError",
    "InvalidArgument",
    "MezzoError",
    "OverQuota",
    "ProtocolError",
    "RegionError",
    "Ticket",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "WrongEpoch",
]


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
