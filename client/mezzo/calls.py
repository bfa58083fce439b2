"""The calls of a client as generators: what to do, in which order. No I/O.

A call yields steps and is sent their results (`driving`); `client` and `asynchronous` perform the steps, each
in its way, under the call's deadline.  So both clients share everything that decides: checks,
splitting by the server's limits, staging of foreign memory, one retry on a lost connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from mezzo.errors import (
    ConnectionLost,
    Gone,
    InvalidArgument,
    MezzoError,
    ProtocolError,
    Unauthenticated,
)
from mezzo.identity import Identity
from mezzo.in_place import Arena, Channel, LeasedPlaces, Places, unknown_arenas
from mezzo.operations import (
    Acquire,
    ChangeDevice,
    Delete,
    ListDevices,
    Lookup,
    OpenArena,
    Operation,
    Ping,
    ReadEvents,
    Release,
    Renew,
    ShardStat,
    Stat,
    StatTenant,
)
from mezzo.places import check_keys
from mezzo.protocol.messages import (
    KEY_BYTES_MAX,
    KEYS_MAX,
    NAMESPACES_ASKED_MAX,
    U32_MAX,
    ChunkStat,
    DeviceChange,
    DeviceState,
    Events,
    EventsAre,
    InPlace,
    LookedUp,
    TenantStated,
    Welcome,
)
from mezzo.results import DeleteResult, LookupResult, looked_up
from mezzo.session import Session
from mezzo.staging import Staging
from mezzo.statistics import Counters

NOT_IN_PLACE = (
    "in_place=True needs a shard on this host: a unix:// address, and a client that was not made with "
    "shm=False (only a Unix socket passes descriptors); use get instead"
)
ID_BYTES = 16
"""of a tenant or a namespace"""
RUN_OPERATIONS_MAX = 4
"""Requests of one call in flight at a time."""


class Link(Protocol):
    """A driver's connection."""

    session: Session


class Connect(NamedTuple):
    """Step: a usable connection. Result: `Link`."""


class Run(NamedTuple):
    """Step: submit the operations and wait until all are done; raises the first error of theirs."""

    link: Link
    operations: Sequence[Operation]


class Stage(NamedTuple):
    """Step: staging memory of so many bytes. Result: `staging.Piece`, to be given back."""

    length: int


class Copy(NamedTuple):
    """Step: copy bytes; each move is (targets, sources), with equal totals."""

    moves: Sequence[tuple[Sequence[memoryview], Sequence[memoryview]]]


Step: TypeAlias = Connect | Run | Stage | Copy
T = TypeVar("T")
Call: TypeAlias = Generator[Step, Any, T]

CONNECT = Connect()
NOT_FOUND = LookupResult(0, 0, 0.0)


class Context(NamedTuple):
    """What calls need of their client."""

    now: Callable[[], float]
    counters: Counters
    staging: Staging
    disabled: bool
    open_channel: Callable[[], Channel]
    identity: Identity | None = None
    """what the namespace's bytes are, if that was said"""


class Grant(NamedTuple):
    """Leases that one acquire got: (connection, lease id) of each request it was split into."""

    leases: tuple[tuple[Link, int], ...]
    found: LookupResult
    """what is leased, and what its load would take"""
    expires: float
    """reading of the client's clock"""
    places: LeasedPlaces | None = None
    """where the chunks lie that are hot, if it was asked for"""


class Stale(Unauthenticated):
    """A request was refused, and had not begun, for a ticket or token in whose place the client can get another."""


def retried(context: Context, attempt: Callable[[], Call[T]]) -> Call[T]:
    """``attempt``, once more on a new connection if the connection was lost: for idempotent calls."""
    try:
        return (yield from attempt())
    except (ConnectionLost, Stale):
        context.counters.retries += 1
    return (yield from attempt())


def readmitted(context: Context, attempt: Callable[[], Call[T]]) -> Call[T]:
    """``attempt``, once more if nothing of it was done for want of a good ticket: for all other calls."""
    try:
        return (yield from attempt())
    except Stale:
        context.counters.retries += 1
    return (yield from attempt())


def ping(context: Context) -> Call[float]:
    """Seconds that a round trip takes."""
    if context.disabled:
        return 0.0

    def attempt() -> Call[float]:
        link = yield CONNECT
        start = context.now()
        yield Run(link, (Ping(),))
        return context.now() - start

    return (yield from retried(context, attempt))


def lookup(context: Context, keys: Iterable[bytes]) -> Call[LookupResult]:
    """Length of the present prefix."""
    checked = check_keys(keys)
    if context.disabled:
        return NOT_FOUND

    def attempt() -> Call[LookupResult]:
        link = yield CONNECT
        operations = [Lookup(piece) for piece in key_pieces(checked, link.session.limits)]
        found: list[LookedUp] = []
        for batch in windows(operations):
            yield Run(link, batch)
            for operation in batch:
                found.append(operation.found)
                if operation.found.prefix < len(operation.keys):
                    return looked_up(found)
        return looked_up(found)

    return (yield from retried(context, attempt))


def acquire(
    context: Context, keys: Iterable[bytes], ttl_s: float, in_place: bool = False, load: bool = False
) -> Call[Grant]:
    """Lookup and lease of the present prefix."""
    checked = check_keys(keys)
    lease_ms = check_ttl(ttl_s)
    wish = check_in_place(in_place, load)
    if context.disabled:
        return Grant((), NOT_FOUND, context.now())

    def attempt() -> Call[Grant]:
        # Leases end with their connection, so a second attempt leaves nothing of the first behind.
        link = yield CONNECT
        if wish and not link.session.shm:
            raise InvalidArgument(NOT_IN_PLACE)
        leases: list[tuple[Link, int]] = []
        numbers: list[int] = []
        found: list[LookedUp] = []
        expires = math.inf
        places: Places | None = None
        operation: Acquire | None = None
        try:
            for piece in key_pieces(checked, link.session.limits):
                start = context.now()
                operation = Acquire(piece, lease_ms, wish)
                yield Run(link, (operation,))
                if operation.lease:
                    leases.append((link, operation.lease))
                    expires = min(expires, start + operation.lease_ms / 1000)
                found.append(operation.found)
                numbers.extend(operation.places)
                if operation.found.prefix < len(piece):
                    break
            if wish:
                arenas = link.session.arenas
                for number in unknown_arenas(arenas, numbers):
                    yield from open_arena(context, link, number, arenas)
                places = Places(arenas, numbers)
        except GeneratorExit:
            raise  # nobody is there to take another step
        except BaseException:
            # Its answer may have come just as its time was over, or its task was cancelled.
            if operation is not None and operation.lease and (link, operation.lease) not in leases:
                leases.append((link, operation.lease))
            if leases:
                yield from abandon(leases)
            raise
        if not leases:
            expires = context.now()
        return Grant(tuple(leases), looked_up(found), expires, places)

    return (yield from retried(context, attempt))


def open_arena(context: Context, link: Link, number: int, arenas: dict[int, Arena]) -> Call[None]:
    """Have an arena of the hot tier sent, map it and put it into ``arenas``."""
    channel = context.open_channel()
    try:
        operation = OpenArena(number, channel.descriptor)
        yield Run(link, (operation,))
        if operation.opened is None:
            raise ProtocolError("ARENA_OPEN has ended without an answer")
        arenas[number] = channel.receive(operation.opened)
    finally:
        channel.close()


def abandon(leases: Sequence[tuple[Link, int]]) -> Call[None]:
    """`release` on the way out of an error, which is the one to be raised."""
    try:
        yield from release(leases)
    except MezzoError:
        pass  # they end by themselves, or with the connection


def release(leases: Sequence[tuple[Link, int]]) -> Call[bool]:
    """End leases; whether all were still held. A lease ended with its connection."""
    held = bool(leases)
    for link, lease in leases:
        if link.session.failure is not None:
            held = False
            continue
        operation = Release(lease, link.session.limits.shard_incarnation)
        try:
            yield Run(link, (operation,))
        except ConnectionLost:
            held = False
        held = held and operation.held
    return held


def renew(context: Context, leases: Sequence[tuple[Link, int]], ttl_s: float) -> Call[float]:
    """Let leases last longer; when the first of them ends now, by the client's clock.

    Raises:
        Gone: one of them has ended.
    """
    lease_ms = check_ttl(ttl_s)
    expires = math.inf
    for link, lease in leases:
        if (failure := link.session.failure) is not None:
            raise Gone(f"the connection has ended ({failure}), and the lease with it: acquire again")
        start = context.now()
        operation = Renew(lease, lease_ms, link.session.limits.shard_incarnation)
        try:
            yield Run(link, (operation,))
        except ConnectionLost as error:
            raise Gone(f"the connection has ended ({error}), and the lease with it: acquire again") from error
        expires = min(expires, start + operation.lease_ms / 1000)
    return expires


def delete(context: Context, keys: Iterable[bytes]) -> Call[DeleteResult]:
    """Delete chunks. Not tried again: the answer would tell of the second attempt only."""
    checked = check_keys(keys)
    if context.disabled:
        return DeleteResult((False,) * len(checked), 0)

    def attempt() -> Call[DeleteResult]:
        link = yield CONNECT
        operations = [Delete(piece) for piece in key_pieces(checked, link.session.limits)]
        for number, batch in enumerate(windows(operations)):
            try:
                yield Run(link, batch)
            except Stale as error:
                if number or any(operation.error is None for operation in batch):
                    raise Unauthenticated(str(error)) from None  # a part of it was done
                raise
        deleted = tuple([flag for operation in operations for flag in operation.deleted])
        return DeleteResult(deleted, sum(deleted))

    return (yield from readmitted(context, attempt))


def stat(context: Context, keys: Iterable[bytes]) -> Call[tuple[ChunkStat | None, ...]]:
    """What is known of chunks."""
    checked = check_keys(keys)
    if context.disabled:
        return (None,) * len(checked)

    def attempt() -> Call[tuple[ChunkStat | None, ...]]:
        link = yield CONNECT
        operations = [Stat(piece) for piece in key_pieces(checked, link.session.limits)]
        for batch in windows(operations):
            yield Run(link, batch)
        return tuple([chunk for operation in operations for chunk in operation.chunks])

    return (yield from retried(context, attempt))


def shard_stat(context: Context) -> Call[dict[str, float]]:
    """Numbers of the shard, by name."""
    if context.disabled:
        return {}

    def attempt() -> Call[dict[str, float]]:
        link = yield CONNECT
        operation = ShardStat()
        yield Run(link, (operation,))
        return {name: float(number) for name, number in operation.numbers.items()}

    return (yield from retried(context, attempt))


def read_events(context: Context, question: Events) -> Call[EventsAre | None]:
    """One question about events; None: the client is disabled, and nothing ever happens."""
    if context.disabled:
        return None
    link = yield CONNECT
    operation = ReadEvents(question)
    yield Run(link, (operation,))
    return operation.events


def chunk_bytes_max(context: Context) -> Call[int]:
    """Bytes of the largest chunk that the server takes."""
    if context.disabled:
        return U32_MAX
    link = yield CONNECT
    return int(link.session.limits.chunk_bytes_max)


def tenant_stat(context: Context, tenant: bytes, namespaces: Sequence[bytes]) -> Call[TenantStated]:
    """What a tenant uses of the shard, in all and in some of its namespaces, by their ids."""
    if len(tenant) != ID_BYTES or any(len(namespace) != ID_BYTES for namespace in namespaces):
        raise InvalidArgument(f"ids of tenants and namespaces have {ID_BYTES} bytes")
    if len(namespaces) > NAMESPACES_ASKED_MAX:
        raise InvalidArgument(f"{len(namespaces)} namespaces; {NAMESPACES_ASKED_MAX} can be asked for")

    def attempt() -> Call[TenantStated]:
        link = yield CONNECT
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
        link = yield CONNECT
        operation = ListDevices()
        yield Run(link, (operation,))
        return operation.devices

    return (yield from retried(context, attempt))


def change_device(context: Context, change: DeviceChange) -> Call[None]:
    """Begin a change of the store's devices. Not tried again: it may have begun."""
    if context.disabled:
        return

    def attempt() -> Call[None]:
        link = yield CONNECT
        yield Run(link, (ChangeDevice(change),))

    yield from readmitted(context, attempt)


def check_ttl(ttl_s: float) -> int:
    """A lease's time in milliseconds. Raises InvalidArgument unless it is positive."""
    if not ttl_s > 0:
        raise InvalidArgument(f"ttl_s must be positive, not {ttl_s}")
    return U32_MAX if ttl_s * 1000 >= U32_MAX else math.ceil(ttl_s * 1000)


def check_in_place(in_place: bool, load: bool) -> InPlace:
    """What a request asks for. Raises InvalidArgument for ``load`` alone."""
    if load and not in_place:
        raise InvalidArgument("load=True reads chunks into the hot tier to use them there: add in_place=True")
    if not in_place:
        return InPlace.NO
    return InPlace.LOAD if load else InPlace.HOT


def key_pieces(keys: list[bytes], limits: Welcome) -> list[list[bytes]]:
    """``keys`` in pieces that the server takes in one request."""
    count = len(keys)
    if count <= limits.keys_max and count * (KEY_BYTES_MAX + 3) + 64 <= limits.body_bytes_max:
        return [keys]
    # 3 bytes: the longest MessagePack header of a key; 64: the rest of any such body.
    by_bytes = (limits.body_bytes_max - 64) // (max(map(len, keys)) + 3)
    size = max(1, min(limits.keys_max, KEYS_MAX, by_bytes))
    return [keys[start : start + size] for start in range(0, count, size)]


O = TypeVar("O", bound=Operation)  # noqa: E741


def windows(operations: Sequence[O]) -> Sequence[Sequence[O]]:
    """``operations`` in groups that one call may have in flight at a time."""
    if len(operations) <= RUN_OPERATIONS_MAX:
        return (operations,)
    return [
        operations[start : start + RUN_OPERATIONS_MAX]
        for start in range(0, len(operations), RUN_OPERATIONS_MAX)
    ]
