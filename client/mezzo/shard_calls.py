"""The calls that ask about a shard itself, as generators (see `calls`). No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.calls import CONNECT, Call, Context, Link, Run, readmitted, retried
from mezzo.errors import InvalidArgument
from mezzo.operations import ChangeDevice, ListDevices, Ping, ReadEvents, ShardStat, StatTenant
from mezzo.protocol.messages import (
    NAMESPACES_ASKED_MAX,
    U32_MAX,
    DeviceChange,
    DeviceState,
    Events,
    EventsAre,
    TenantStated,
)

ID_BYTES = 16
"""of a tenant or a namespace"""


def ping(context: Context) -> Call[float]:
    """Seconds that a round trip takes."""
    if context.disabled:
        return 0.0

    def attempt() -> Call[float]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.ping(context))
        start = context.now()
        yield Run(link, (Ping(),))
        return context.now() - start

    return (yield from retried(context, attempt))


def shard_stat(context: Context) -> Call[dict[str, float]]:
    """Numbers of the shard, by name."""
    if context.disabled:
        return {}

    def attempt() -> Call[dict[str, float]]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.shard_stat(context))
        operation = ShardStat()
        yield Run(link, (operation,))
        return {name: float(number) for name, number in operation.numbers.items()}

    return (yield from retried(context, attempt))


def read_events(context: Context, question: Events) -> Call[EventsAre | None]:
    """One question about events; None: the client is disabled, and nothing ever happens."""
    if context.disabled:
        return None
    link: Link = yield CONNECT
    if link.spread is not None:
        raise link.spread.refused("a stream of events")
    operation = ReadEvents(question)
    yield Run(link, (operation,))
    return operation.events


def chunk_bytes_max(context: Context) -> Call[int]:
    """Bytes of the largest chunk that the server takes."""
    if context.disabled:
        return U32_MAX
    link: Link = yield CONNECT
    if link.spread is not None:
        return link.spread.chunk_bytes_max
    return int(link.session.limits.chunk_bytes_max)


def tenant_stat(context: Context, tenant: bytes, namespaces: Sequence[bytes]) -> Call[TenantStated]:
    """What a tenant uses of the shard, in all and in some of its namespaces, by their ids."""
    if len(tenant) != ID_BYTES or any(len(namespace) != ID_BYTES for namespace in namespaces):
        raise InvalidArgument(f"ids of tenants and namespaces have {ID_BYTES} bytes")
    if len(namespaces) > NAMESPACES_ASKED_MAX:
        raise InvalidArgument(f"{len(namespaces)} namespaces; {NAMESPACES_ASKED_MAX} can be asked for")

    def attempt() -> Call[TenantStated]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.tenant_stat(context, tenant, namespaces))
        operation = StatTenant(tenant, namespaces)
        yield Run(link, (operation,))
        return operation.use or TenantStated(0, 0, 0)

    if context.disabled:
        return TenantStated(0, 0, 0)
    return (yield from retried(context, attempt))


def devices(context: Context) -> Call[tuple[DeviceState, ...]]:
    """The store's devices, and what is done to them."""
    if context.disabled:
        return ()

    def attempt() -> Call[tuple[DeviceState, ...]]:
        link: Link = yield CONNECT
        if link.spread is not None:
            raise link.spread.refused("a list of devices")
        operation = ListDevices()
        yield Run(link, (operation,))
        return operation.devices

    return (yield from retried(context, attempt))


def change_device(context: Context, change: DeviceChange) -> Call[None]:
    """Begin a change of the store's devices. Not tried again: it may have begun."""
    if context.disabled:
        return

    def attempt() -> Call[None]:
        link: Link = yield CONNECT
        if link.spread is not None:
            raise link.spread.refused("a change of devices")
        yield Run(link, (ChangeDevice(change),))

    yield from readmitted(context, attempt)
