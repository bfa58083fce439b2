"""Mezzo: a pod-wide store for the KV cache of large language models. This is its SDK.

    import mezzo

    with mezzo.Client("unix:///run/mezzo.sock") as client:
        region = client.region(64 * 1024 * 1024)
        ...

docs/sdk.md is the guide.
"""

from __future__ import annotations

from mezzo.asynchronous import AsyncClient
from mezzo.client import Client
from mezzo.credentials import Ticket
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
