"""The calls that move chunks, as generators: get and put (see `calls`). No I/O.

A call is split into requests by the server's limits and by region: one request names one region.
Foreign memory is moved over the stream directly; over shared memory it goes through staging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from mezzo.calls import CONNECT, RUN_OPERATIONS_MAX, Call, Context, Copy, Link, Run, Stage, retried
from mezzo.errors import InternalError, InvalidArgument, TooLarge
from mezzo.identity import Identity, too_long
from mezzo.places import Memory, Parts, Place, Places, check_keys, check_parts, picker, places
from mezzo.protocol.messages import KEYS_MAX, PARTS_MAX, PRIORITY_MAX, TTL_S_MAX, U32_MAX
from mezzo.regions import Region
from mezzo.results import GetResult, PutResult, PutState
from mezzo.session import Session
from mezzo.staging import ALIGN_BYTES, Piece
from mezzo.transfers import Get, Put, cut

REQUEST_BYTES_MAX = 64 * 1024 * 1024
"""Chunk bytes of one request (more only if one chunk is larger): what is larger is pipelined."""
STRIPE_BYTES_MIN = 1024 * 1024
"""Chunk bytes that are worth a request of their own on another connection."""

_BODY_REST_BYTES = 256  # of a body besides what grows with its keys
_KEY_REST_BYTES = 29  # of a key: its header, length, capacity or position, and list header
_EXTENT_BYTES = 18  # two integers of at most 9 bytes


T = TypeVar("T")
O = TypeVar("O", Get, Put)  # noqa: E741


class _Batch(NamedTuple):
    """Chunks of one request."""

    indexes: Sequence[int]
    """a range: all of the call's"""
    region: Region | None
    staged: bool

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Of something for each chunk of the call, those of this request."""
        indexes = self.indexes
        return items if type(indexes) is range else picker(indexes)(items)

    def places(self, chunks: Places) -> Places:
        """`of`, for their memory."""
        return chunks if type(self.indexes) is range else chunks.of_these(self.indexes)


class Terms(NamedTuple):
    """What a put says of its chunks beside their bytes."""

    positions: Sequence[int]
    """of each chunk in its prefix"""
    ttl_ms: int
    """0: as namespace and tenant say"""
    priority: int


Heard = Callable[[list[bytes]], None]
"""Told of keys that another shard has too."""


class GetArguments(NamedTuple):
    """A get's arguments, checked."""

    keys: list[bytes]
    targets: Places
    part: tuple[int, int]
    """(0, 0): all parts"""
    heard: Heard | None = None


class PutArguments(NamedTuple):
    """A put's arguments, checked."""

    keys: list[bytes]
    sources: Places
    parts: list[list[int]]
    terms: Terms


def check_get(keys: Iterable[bytes], targets: Sequence[Memory], part: tuple[int, int] | None) -> GetArguments:
    """Raises InvalidArgument or RegionError."""
    checked = check_keys(keys)
    targeted = places(targets, writable=True, name="targets")
    if len(targeted) != len(checked):
        raise InvalidArgument(f"{len(checked)} keys and {len(targeted)} targets")
    first, count = part or (0, 0)
    if part is not None and not (first >= 0 and count >= 1 and first + count <= PARTS_MAX):
        raise InvalidArgument(f"part must be (first, count) within {PARTS_MAX} parts, not {part}")
    return GetArguments(checked, targeted, (first, count))


def check_put(
    keys: Iterable[bytes],
    sources: Sequence[Memory],
    parts: Parts,
    position: int,
    ttl_s: float | None,
    priority: int,
) -> PutArguments:
    """Raises InvalidArgument or RegionError."""
    checked = check_keys(keys)
    sourced = places(sources, writable=False, name="sources")
    if len(sourced) != len(checked):
        raise InvalidArgument(f"{len(checked)} keys and {len(sourced)} sources")
    part_lists = check_parts(parts, sourced.lengths, PARTS_MAX)
    if not 0 <= position <= U32_MAX - len(checked):
        raise InvalidArgument(f"position {position} is not within 0 to {U32_MAX - len(checked)}")
    if not 0 <= priority <= PRIORITY_MAX:
        raise InvalidArgument(f"priority {priority} is not within 0 to {PRIORITY_MAX}")
    return PutArguments(
        checked,
        sourced,
        part_lists,
        Terms(range(position, position + len(checked)), _ttl_ms(ttl_s), priority),
    )


def _ttl_ms(ttl_s: float | None) -> int:
    if ttl_s is None:
        return 0
    if not 0 < ttl_s <= TTL_S_MAX:
        raise InvalidArgument(f"ttl_s must be positive, and {TTL_S_MAX:.0f} at most, not {ttl_s}")
    return max(1, round(ttl_s * 1000))


def check_chunk_bytes(sources: Places, identity: Identity | None) -> None:
    """Raises TooLarge if a chunk is longer than those of its namespace."""
    if identity is None or max(sources.lengths) <= identity.chunk_bytes:
        return
    for index, length in enumerate(sources.lengths):
        if length > identity.chunk_bytes:
            raise TooLarge(too_long(index, length, identity.chunk_bytes, identity.chunk_tokens))


def check_sizes(sources: Places, chunk_bytes_max: int) -> None:
    """Raises TooLarge if a chunk is longer than shards take."""
    if max(sources.lengths) <= chunk_bytes_max:
        return
    for index, length in enumerate(sources.lengths):
        if length > chunk_bytes_max:
            raise TooLarge(f"sources[{index}] has {length} bytes, over chunk_bytes_max = {chunk_bytes_max}")


def get(
    context: Context, keys: Iterable[bytes], targets: Sequence[Memory], part: tuple[int, int] | None
) -> Call[GetResult]:
    """Read chunks, or parts of them, into ``targets``."""
    arguments = check_get(keys, targets, part)
    count = len(arguments.keys)
    if context.disabled:
        return GetResult((False,) * count, 0, (0,) * count, 0)
    return (yield from retried(context, lambda: _get(context, arguments)))


def got(context: Context, arguments: GetArguments) -> Call[GetResult]:
    """`get` with arguments that were checked."""
    return (yield from retried(context, lambda: _get(context, arguments)))


def put(
    context: Context,
    keys: Iterable[bytes],
    sources: Sequence[Memory],
    parts: Parts,
    position: int,
    ttl_s: float | None,
    priority: int,
) -> Call[PutResult]:
    """Store chunks from ``sources``."""
    arguments = check_put(keys, sources, parts, position, ttl_s, priority)
    check_chunk_bytes(arguments.sources, context.identity)
    if context.disabled:
        count = len(arguments.keys)
        return PutResult((PutState.FAILED,) * count, 0, 0, count)
    return (yield from retried(context, lambda: _put(context, arguments)))


def stored(context: Context, arguments: PutArguments) -> Call[PutResult]:
    """`put` with arguments that were checked."""
    return (yield from retried(context, lambda: _put(context, arguments)))


def put_result(states: Sequence[PutState], unanswered: int = 0) -> PutResult:
    """Counts for per-key states."""
    stored = states.count(PutState.STORED)
    exists = states.count(PutState.EXISTS)
    declined = states.count(PutState.DECLINED)
    failed = len(states) - stored - exists - declined
    return PutResult(tuple(states), stored, exists, failed, declined, unanswered)


def _get(context: Context, arguments: GetArguments) -> Call[GetResult]:
    link: Link = yield CONNECT
    if link.spread is not None:
        return (yield from link.spread.get(context, arguments))
    keys, targets, part, heard = arguments
    session = link.session
    found: Sequence[bool] = [False] * len(keys)
    lengths: Sequence[int] = [0] * len(keys)
    unanswered = 0

    def make(batch: _Batch, region: Region | None, into: Places) -> Get:
        own_keys = list(batch.of(keys))
        return Get(own_keys, into, region=region, scope=session.scope, part=part, counters=context.counters)

    def take(batch: _Batch, operation: Get) -> None:
        nonlocal unanswered, found, lengths
        unanswered += operation.unanswered
        found = put_back(found, batch.indexes, operation.found)
        lengths = put_back(lengths, batch.indexes, operation.lengths)
        if operation.popular and heard is not None:
            heard([key for key, popular in zip(operation.keys, operation.popular, strict=True) if popular])

    batches = _batches(context, keys, targets, [], session, in_order=False)
    yield from _direct(link, [batch for batch in batches if not batch.staged], targets, make, take)
    for batch in batches:
        if not batch.staged:
            continue
        wanted = batch.places(targets)
        piece: Piece = yield Stage(_aligned_bytes(wanted))
        try:
            staged = _lay_out(piece, wanted)
            operation = make(batch, piece.extent.region, staged)
            yield Run(link, (operation,))
            moves = [
                (cut(target.memory(), length), cut(place.memory(), length))
                for target, place, length in zip(wanted, staged, operation.lengths, strict=True)
                if length
            ]
            yield Copy(moves)
            take(batch, operation)
            context.counters.bytes_copied += sum(operation.lengths)
        finally:
            context.staging.give(piece)
    total_bytes = sum(lengths)
    context.counters.bytes_got += total_bytes
    return GetResult(tuple(found), found.count(True), tuple(lengths), total_bytes, unanswered)


def _put(context: Context, arguments: PutArguments) -> Call[PutResult]:
    link: Link = yield CONNECT
    if link.spread is not None:
        return (yield from link.spread.put(context, arguments))
    keys, sources, parts, terms = arguments
    session = link.session
    check_sizes(sources, session.limits.chunk_bytes_max)
    states: Sequence[PutState] = [PutState.FAILED] * len(keys)
    unanswered = 0

    def make(batch: _Batch, region: Region | None, sourced: Places) -> Put:
        return Put(
            list(batch.of(keys)),
            sourced,
            parts=parts if len(parts) <= 1 else list(batch.of(parts)),
            region=region,
            scope=session.scope,
            positions=batch.of(terms.positions),
            ttl_ms=terms.ttl_ms,
            priority=terms.priority,
        )

    def take(batch: _Batch, operation: Put) -> None:
        nonlocal unanswered, states
        unanswered += operation.unanswered
        states = put_back(states, batch.indexes, operation.states)

    batches = _batches(context, keys, sources, parts, session, in_order=True)
    yield from _direct(link, [batch for batch in batches if not batch.staged], sources, make, take)
    for batch in batches:
        if not batch.staged:
            continue
        given = batch.places(sources)
        piece: Piece = yield Stage(_aligned_bytes(given))
        try:
            staged = _lay_out(piece, given)
            yield Copy(
                [(place.memory(), source.memory()) for place, source in zip(staged, given, strict=True)]
            )
            operation = make(batch, piece.extent.region, staged)
            yield Run(link, (operation,))
            take(batch, operation)
            context.counters.bytes_copied += sum(given.lengths)
        finally:
            context.staging.give(piece)
    result = put_result(states, unanswered)
    if result.stored == len(states):
        context.counters.bytes_put += sum(sources.lengths)
    elif result.stored:
        context.counters.bytes_put += sum(
            [
                length
                for length, state in zip(sources.lengths, states, strict=True)
                if state is PutState.STORED
            ]
        )
    return result


def put_back(whole: Sequence[T], indexes: Sequence[int], part: Sequence[T]) -> Sequence[T]:
    """``whole`` with what one request, or one shard, said of the chunks at these indexes of the call."""
    if len(part) != len(indexes):
        raise InternalError(f"{len(part)} answers for {len(indexes)} chunks")
    if indexes == range(len(whole)):
        return part
    told = whole if isinstance(whole, list) else list(whole)
    for index, each in zip(indexes, part, strict=True):
        told[index] = each
    return told


def _direct(
    link: Link,
    batches: Sequence[_Batch],
    chunks: Places,
    make: Callable[[_Batch, Region | None, Places], O],
    take: Callable[[_Batch, O], None],
) -> Call[None]:
    """Run the batches whose memory a shard or the socket reaches as it is."""
    size = max(RUN_OPERATIONS_MAX, link.session.stripes)
    for start in range(0, len(batches), size):
        window = batches[start : start + size]
        operations = [make(batch, batch.region, batch.places(chunks)) for batch in window]
        yield Run(link, operations)
        for batch, operation in zip(window, operations, strict=True):
            take(batch, operation)


def _batches(
    context: Context,
    keys: list[bytes],
    chunks: Places,
    parts: list[list[int]],
    session: Session,
    *,
    in_order: bool,
) -> list[_Batch]:
    """Cut a call into requests.

    Where several connections share the payload, there is at least one request for each, with about as many
    bytes.  ``in_order``: chunks of one request are neighbours in the call, because a put names only the
    first one's position in the prefix.
    """
    limits, shm = session.limits, session.shm
    keys_max = min(limits.keys_max, KEYS_MAX)
    body_bytes_max = limits.body_bytes_max - _BODY_REST_BYTES - 5 * (len(parts[0]) if len(parts) == 1 else 0)
    share_bytes = REQUEST_BYTES_MAX
    if session.stripes > 1:
        share_bytes = max(STRIPE_BYTES_MIN, sum(chunks.lengths) // session.stripes)
    elif shm and chunks.region is not None and len(parts) <= 1 and len(keys) <= keys_max:
        body_bytes = sum(map(len, keys)) + (_KEY_REST_BYTES + _EXTENT_BYTES) * len(keys)
        # As if all were as long as the longest, which as a rule they are.
        bytes_most = _aligned(max(chunks.lengths)) * len(keys)
        if body_bytes <= body_bytes_max and bytes_most <= REQUEST_BYTES_MAX:
            return [_Batch(range(len(keys)), chunks.region, False)]  # as nearly always: one request
    finished: list[_Batch] = []
    # By region: batch, its indexes, body bytes, chunk bytes.
    open_batches: dict[int, tuple[_Batch, list[int], int, int]] = {}
    for index, place in enumerate(chunks):
        region = _region_of(place, index) if shm else None
        staged = shm and region is None
        body_bytes = len(keys[index]) + _KEY_REST_BYTES + (_EXTENT_BYTES * len(place.extents) if shm else 0)
        if staged:
            body_bytes += _EXTENT_BYTES
        if len(parts) > 1:
            body_bytes += 5 * len(parts[index])
        if body_bytes > body_bytes_max:
            raise TooLarge(
                f"chunk {index} alone needs a request of {body_bytes} bytes, over body_bytes_max = "
                f"{limits.body_bytes_max}; give it fewer extents or parts"
            )
        group = region.number if region is not None else 0
        if in_order:
            for other in [number for number in open_batches if number != group]:
                finished.append(open_batches.pop(other)[0])
        chunk_bytes_max = min(REQUEST_BYTES_MAX, context.staging.bytes_max) if staged else REQUEST_BYTES_MAX
        length = _aligned(place.length)
        current = open_batches.get(group)
        if current is not None:
            batch, indexes, batch_body_bytes, batch_bytes = current
            if (
                batch_bytes < share_bytes
                and len(indexes) < keys_max
                and batch_body_bytes + body_bytes <= body_bytes_max
                and batch_bytes + length <= chunk_bytes_max
            ):
                indexes.append(index)
                open_batches[group] = (batch, indexes, batch_body_bytes + body_bytes, batch_bytes + length)
                continue
            finished.append(batch)
        indexes = [index]
        open_batches[group] = (_Batch(indexes, region, staged), indexes, body_bytes, length)
    finished.extend([batch for batch, _, _, _ in open_batches.values()])
    return finished


def _region_of(place: Place, index: int) -> Region | None:
    """The one region that a chunk lies in; None for foreign memory."""
    region = place.region
    if region is not None and any(extent.region is not region for extent in place.extents):
        raise InvalidArgument(
            f"the extents of chunk {index} lie in several regions; one chunk needs one region"
        )
    return region


def _aligned(length: int) -> int:
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES


def _aligned_bytes(chunks: Places) -> int:
    return sum([_aligned(length) for length in chunks.lengths])


def _lay_out(piece: Piece, chunks: Places) -> Places:
    """Aligned room for each chunk in a piece of staging memory."""
    region, offset, _ = piece.extent
    pairs = []
    for length in chunks.lengths:
        pairs.append((offset, length))
        offset += _aligned(length)
    return Places.within(region, pairs)
