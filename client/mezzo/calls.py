"""The calls of a client as generators: what to do, in which order. No I/O.

A call yields steps and is sent their results (`driving`); `client` and `asynchronous` perform the steps, each
in its way, under the call's deadline.  So both clients share everything that decides: checks,
splitting by the server's limits, staging of foreign memory, one retry on a lost connection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

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
    Delete,
    Lookup,
    OpenArena,
    Operation,
    Release,
    Renew,
    Stat,
)
from mezzo.places import check_keys
from mezzo.protocol.messages import (
    KEY_BYTES_MAX,
    KEYS_MAX,
    U32_MAX,
    InPlace,
    LookedUp,
    Welcome,
)
from mezzo.results import DeleteResult, LookupResult, Stats, looked_up
from mezzo.session import Session
from mezzo.staging import Staging
from mezzo.statistics import Counters

if TYPE_CHECKING:
    from mezzo.spread import Spread

NOT_IN_PLACE = (
    "in_place=True needs a shard on this host: a unix:// address, and a client that was not made with "
    "shm=False (only a Unix socket passes descriptors); use get instead"
)
RUN_OPERATIONS_MAX = 4
"""Requests of one call in flight at a time."""


class Link(Protocol):
    """A driver's connection."""

    session: Session
    spread: Spread | None
    """the calls over its shards, if it stands for several"""


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


class Together(NamedTuple):
    """Step: calls of several shards, all at a time; `Connect` in one of them means its own shard.

    Result: of each, in order, its result or the `MezzoError` that it ended with.
    """

    link: Link
    """that stands for the shards"""
    parts: Sequence[tuple[bytes, Call[Any]]]
    """the shard's id, and the call"""


class Follow(NamedTuple):
    """Step: another map of the pod than that of ``epoch``, if there is one by now."""

    link: Link
    epoch: int


class CatchUp(NamedTuple):
    """Step: the map that shards were heard to follow. It takes half of the time that is left at most, and seldom any."""

    link: Link
    wait: bool
    """for another call that asks already"""


class Pause(NamedTuple):
    """Step: let so much time pass, or half of what is left."""

    seconds: float


Step: TypeAlias = Connect | Run | Stage | Copy | Together | Follow | CatchUp | Pause
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
    over: Link | None = None
    """stands for the shards, if several granted it"""


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


def lookup(context: Context, keys: Iterable[bytes]) -> Call[LookupResult]:
    """Length of the present prefix."""
    checked = check_keys(keys)
    if context.disabled:
        return NOT_FOUND

    def attempt() -> Call[LookupResult]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.lookup(context, checked))
        operations = [Lookup(piece) for piece in key_pieces(checked, link.session.limits)]
        found: list[LookedUp] = []
        unanswered = 0
        for batch in windows(operations):
            yield Run(link, batch)
            for operation in batch:
                found.append(operation.found)
                unanswered += operation.unanswered
                if operation.found.prefix < len(operation.keys):
                    return looked_up(found, unanswered)
        return looked_up(found, unanswered)

    return (yield from retried(context, attempt))


def acquire(
    context: Context, keys: Iterable[bytes], ttl_s: float, in_place: bool = False, load: bool = False
) -> Call[Grant]:
    """Lookup and lease of the present prefix."""
    checked = check_keys(keys)
    check_ttl(ttl_s)
    wish = check_in_place(in_place, load)
    if context.disabled:
        return Grant((), NOT_FOUND, context.now())
    return (yield from granted(context, checked, ttl_s, wish))


def granted(
    context: Context, keys: list[bytes], ttl_s: float, asked: InPlace, *, anywhere: bool = False
) -> Call[Grant]:
    """`acquire` of keys that were checked; ``anywhere``: from a shard that is not on this host nothing is in place."""
    lease_ms = check_ttl(ttl_s)

    def attempt() -> Call[Grant]:
        # Leases end with their connection, so a second attempt leaves nothing of the first behind.
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.acquire(context, keys, ttl_s, asked))
        wish = asked
        if wish and not link.session.shm:
            if not anywhere:
                raise InvalidArgument(NOT_IN_PLACE)
            wish = InPlace.NO
        leases: list[tuple[Link, int]] = []
        numbers: list[int] = []
        found: list[LookedUp] = []
        unanswered = 0
        expires = math.inf
        places: Places | None = None
        operation: Acquire | None = None
        try:
            for piece in key_pieces(keys, link.session.limits):
                start = context.now()
                operation = Acquire(piece, lease_ms, wish)
                yield Run(link, (operation,))
                if operation.lease:
                    leases.append((link, operation.lease))
                    expires = min(expires, start + operation.lease_ms / 1000)
                found.append(operation.found)
                unanswered += operation.unanswered
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
        return Grant(tuple(leases), looked_up(found, unanswered), expires, places)

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


def abandon(leases: Sequence[tuple[Link, int]], over: Link | None = None) -> Call[None]:
    """`release` on the way out of an error, which is the one to be raised."""
    try:
        yield from release(leases, over)
    except MezzoError:
        pass  # they end by themselves, or with the connection


def release(leases: Sequence[tuple[Link, int]], over: Link | None = None) -> Call[bool]:
    """End leases; whether all were still held. A lease ended with its connection.

    ``over``: stands for the shards, if several granted them.
    """
    if over is not None:
        return all((yield from _of_each(leases, over, release))) and bool(leases)
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


def renew(
    context: Context, leases: Sequence[tuple[Link, int]], ttl_s: float, over: Link | None = None
) -> Call[float]:
    """Let leases last longer; when the first of them ends now, by the client's clock. ``over`` as for `release`.

    Raises:
        Gone: one of them has ended.
    """
    lease_ms = check_ttl(ttl_s)
    expires = math.inf
    if over is not None:
        return min(
            (yield from _of_each(leases, over, lambda own: renew(context, own, ttl_s))), default=expires
        )
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


def _of_each(
    leases: Sequence[tuple[Link, int]],
    over: Link,
    make: Callable[[Sequence[tuple[Link, int]]], Call[T]],
) -> Call[list[T]]:
    """One call for the leases of each connection, all at a time; raises the first error of theirs."""
    own: dict[int, list[tuple[Link, int]]] = {}
    for lease in leases:
        own.setdefault(id(lease[0]), []).append(lease)
    if not own:
        return []
    outcomes = yield Together(over, [(b"", make(each)) for each in own.values()])
    for outcome in outcomes:
        if isinstance(outcome, MezzoError):
            raise outcome
    return list(outcomes)


def delete(context: Context, keys: Iterable[bytes]) -> Call[DeleteResult]:
    """Delete chunks. Not tried again: the answer would tell of the second attempt only."""
    checked = check_keys(keys)
    if context.disabled:
        return DeleteResult((False,) * len(checked), 0)

    def attempt() -> Call[DeleteResult]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.delete(context, checked))
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


def stat(context: Context, keys: Iterable[bytes]) -> Call[Stats]:
    """What is known of chunks."""
    checked = check_keys(keys)
    if context.disabled:
        return Stats.of((None,) * len(checked))

    def attempt() -> Call[Stats]:
        link: Link = yield CONNECT
        if link.spread is not None:
            return (yield from link.spread.stat(context, checked))
        operations = [Stat(piece) for piece in key_pieces(checked, link.session.limits)]
        for batch in windows(operations):
            yield Run(link, batch)
        chunks = [chunk for operation in operations for chunk in operation.chunks]
        return Stats.of(chunks, sum([operation.unanswered for operation in operations]))

    return (yield from retried(context, attempt))


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
