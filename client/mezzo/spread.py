"""Calls over the shards of a pod, as generators: what each shard is asked, and what is made of it. No I/O.

Each shard gets a call of its own, the very one that a client of that shard makes (`calls`, `moves`), and all of
them run at a time (`Together`).  A shard that does not answer is a matter of its own chunks: they are misses, or
were not stored, and the result says how many these are.  An error of the whole call is only what makes the call
wrong anywhere, or what all shards answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from mezzo import calls, moves, shard_calls
from mezzo.calls import Call, Context, Follow, Grant, Link, Together
from mezzo.errors import (
    CallerError,
    ClientClosed,
    InvalidArgument,
    MezzoError,
    TooLarge,
    Unsupported,
    WrongEpoch,
)
from mezzo.in_place import LeasedPlaces, SpreadPlaces
from mezzo.moves import GetArguments, PutArguments
from mezzo.placement.rendezvous import NOBODY
from mezzo.protocol.messages import ChunkStat, InPlace, NamespaceUse, TenantStated
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState
from mezzo.routing import Router, Share, grouped, merged, prefix_of, sums

T = TypeVar("T")

NO_OWNER = "no shard of the pod has these keys now"
ONE_SHARD_ONLY = (
    "{} is a shard's own, and there are several: use a client of the shard's address (the node tells it when it is "
    "ready, and mezzo pod map those of a pod)"
)


class Pod(Protocol):
    """What the calls know of the pod."""

    @property
    def router(self) -> Router:
        """Of the map in force; another one after `Follow`."""

    @property
    def chunk_bytes_max(self) -> int:
        """Bytes of the largest chunk that the shards take."""


class Answer(NamedTuple):
    """What became of one shard's part of a call."""

    shard: bytes
    indexes: list[int]
    """of its keys"""
    outcome: Any
    """its result, or the `MezzoError` that it ended with"""

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return isinstance(self.outcome, MezzoError)


Make = Callable[[list[int]], Call[Any]]
"""The call that a shard gets for the keys at these indexes."""


class Spread:
    """The calls. Has nothing of its own: ``link`` stands for all shards, ``pod`` says whose a key is."""

    def __init__(self, link: Link, pod: Pod) -> None:
        self._link = link
        self._pod = pod

    @property
    def chunk_bytes_max(self) -> int:
        """See `shard_calls.chunk_bytes_max`."""
        return self._pod.chunk_bytes_max

    # What moves chunks.

    def get(self, context: Context, arguments: GetArguments) -> Call[GetResult]:
        """See `moves.get`."""
        keys, targets, part = arguments
        count = len(keys)
        found, lengths = [False] * count, [0] * count

        def make(indexes: list[int]) -> Call[GetResult]:
            own = GetArguments(
                [keys[index] for index in indexes], [targets[index] for index in indexes], part
            )
            return moves.got(context, own)

        def take(answers: Iterable[Answer]) -> None:
            for answer in answers:
                if not answer.failed:
                    got: GetResult = answer.outcome
                    for index, there, length in zip(answer.indexes, got.found, got.lengths, strict=True):
                        found[index], lengths[index] = there, length

        answers = yield from self._ask(keys, make)
        silent = unanswered(answers)
        take(answers)
        missing = [index for index in range(count) if not found[index]]
        if missing:
            take((yield from self._ask_before(keys, missing, make)))
            missing = [index for index in silent if not found[index]]
        return GetResult(tuple(found), sum(found), tuple(lengths), sum(lengths), len(missing))

    def put(self, context: Context, arguments: PutArguments) -> Call[PutResult]:
        """See `moves.put`."""
        keys, sources, parts, terms = arguments
        chunk_bytes_max = self._pod.chunk_bytes_max
        for index, place in enumerate(sources):
            if place.length > chunk_bytes_max:
                raise TooLarge(
                    f"sources[{index}] has {place.length} bytes, over chunk_bytes_max = {chunk_bytes_max}"
                )

        def make(indexes: list[int]) -> Call[PutResult]:
            own = PutArguments(
                [keys[index] for index in indexes],
                [sources[index] for index in indexes],
                parts if len(parts) <= 1 else [parts[index] for index in indexes],
                terms._replace(positions=[terms.positions[index] for index in indexes]),
            )
            return moves.stored(context, own)

        states = [PutState.FAILED] * len(keys)
        answers = yield from self._ask(keys, make)
        silent = unanswered(answers)
        for answer in answers:
            if not answer.failed:
                for index, state in zip(answer.indexes, answer.outcome.states, strict=True):
                    states[index] = state
        return msgspec.structs.replace(moves.put_result(states), unanswered=len(silent))

    # What tells of a prefix.

    def lookup(self, context: Context, keys: list[bytes]) -> Call[LookupResult]:
        """See `calls.lookup`."""

        def make(indexes: list[int]) -> Call[LookupResult]:
            return calls.lookup(context, [keys[index] for index in indexes])

        def told(answer: Answer) -> LookupResult:
            found: LookupResult = answer.outcome
            return found

        prefix = yield from self._prefix(context, keys, make, told, _nothing)
        return merged(prefix.length, [prefix.share(answer) for answer in prefix.answers], prefix.unanswered)

    def acquire(self, context: Context, keys: list[bytes], ttl_s: float, wish: InPlace) -> Call[Grant]:
        """See `calls.acquire`."""
        held: list[Grant] = []

        def make(indexes: list[int]) -> Call[Grant]:
            own = [keys[index] for index in indexes]
            grant = yield from calls.granted(context, own, ttl_s, wish, anywhere=True)
            held.append(grant)
            return grant

        def told(answer: Answer) -> LookupResult:
            found: LookupResult = answer.outcome.found
            return found

        def drop(answers: Sequence[Answer]) -> Call[None]:
            dropped = [answer.outcome for answer in answers]
            held[:] = [grant for grant in held if not any(grant is each for each in dropped)]
            yield from calls.abandon(leases_of(dropped), self._link)

        try:
            prefix = yield from self._prefix(context, keys, make, told, drop)
            if wish and held and all(grant.places is None for grant in held):
                raise InvalidArgument(calls.NOT_IN_PLACE)
        except GeneratorExit:
            raise  # nobody is there to take another step
        except BaseException:
            yield from calls.abandon(leases_of(held), self._link)
            raise
        places: LeasedPlaces | None = None
        if wish:
            there = [(answer.indexes, answer.outcome.places) for answer in prefix.answers]
            places = SpreadPlaces(prefix.length, [(own, each) for own, each in there if each is not None])
        return Grant(
            leases_of(held),
            merged(prefix.length, [prefix.share(answer) for answer in prefix.answers], prefix.unanswered),
            min([grant.expires for grant in held if grant.leases], default=context.now()),
            places,
            self._link,
        )

    def _prefix(
        self,
        context: Context,
        keys: list[bytes],
        make: Make,
        told: Callable[[Answer], LookupResult],
        drop: Callable[[Sequence[Answer]], Call[None]],
    ) -> Call[_Prefix]:
        """Ask each shard for its keys of a prefix until what all of them count ends at one and the same key.

        Behind the first key that is missing anywhere nothing counts, and only its shard knows how much that is: one
        that counted further is asked again, for what counts, and its first answer is dropped.
        """
        holders, silent = yield from self._holders(context, keys)
        answers = yield from self._ask(keys[: len(holders)], make, holders)
        silent += unanswered(answers, among=len(silent))
        answers = [answer for answer in answers if not answer.failed]
        absent = [index for index in silent if index < len(holders)]
        while True:
            prefix = _Prefix(0, answers, told, len(silent))
            shares = [prefix.share(answer) for answer in answers]
            length = prefix_of(len(holders), shares, absent)
            beyond = [
                (answer, share.counted(length))
                for answer, share in zip(answers, shares, strict=True)
                if share.found.prefix > share.counted(length)
            ]
            if not beyond:
                return prefix._replace(length=length)
            far = [answer for answer, _ in beyond]
            answers = [answer for answer in answers if not any(answer is each for each in far)]
            # First the new lease, then the old one is dropped: what counts is never without.
            again = [(answer.shard, answer.indexes[:count]) for answer, count in beyond if count]
            more = yield from self._together(again, make)
            lost = unanswered(more, among=len(silent) + len(answers))
            silent, absent = silent + lost, absent + lost
            answers += [answer for answer in more if not answer.failed]
            yield from drop(far)

    # What is asked of each key.

    def stat(self, context: Context, keys: list[bytes]) -> Call[tuple[ChunkStat | None, ...]]:
        """See `calls.stat`."""
        chunks: list[ChunkStat | None] = [None] * len(keys)
        yield from self._stats(context, keys, range(len(keys)), chunks)
        return tuple(chunks)

    def delete(self, context: Context, keys: list[bytes]) -> Call[DeleteResult]:
        """See `calls.delete`. What a slot's owner before still has is deleted as well.

        Raises:
            MezzoError: a shard did not say that it has deleted its chunks; the others have.
        """

        def make(indexes: list[int]) -> Call[DeleteResult]:
            return calls.delete(context, [keys[index] for index in indexes])

        deleted = [False] * len(keys)
        answers = yield from self._ask(keys, make)
        for answer in answers:
            if answer.failed:
                raise answer.outcome
        for answer in [*answers, *(yield from self._ask_before(keys, range(len(keys)), make))]:
            if not answer.failed:
                for index, flag in zip(answer.indexes, answer.outcome.deleted, strict=True):
                    deleted[index] = deleted[index] or flag
        return DeleteResult(tuple(deleted), sum(deleted))

    # What is asked of all shards.

    def ping(self, context: Context) -> Call[float]:
        """See `shard_calls.ping`: the slowest of those that answer."""
        return max((yield from self._ask_all(lambda: shard_calls.ping(context))))

    def shard_stat(self, context: Context) -> Call[dict[str, float]]:
        """See `shard_calls.shard_stat`: sums over those that answer."""
        return sums((yield from self._ask_all(lambda: shard_calls.shard_stat(context))))

    def tenant_stat(self, context: Context, tenant: bytes, namespaces: Sequence[bytes]) -> Call[TenantStated]:
        """See `shard_calls.tenant_stat`: sums over those that answer."""
        told: list[TenantStated] = yield from self._ask_all(
            lambda: shard_calls.tenant_stat(context, tenant, namespaces)
        )
        return added(told)

    def refused(self, what: str) -> Unsupported:
        """The error for what only one shard can be asked."""
        return Unsupported(ONE_SHARD_ONLY.format(what))

    # Asking.

    def _ask(
        self, keys: Sequence[bytes], make: Make, holders: Sequence[int] | None = None
    ) -> Call[list[Answer]]:
        """Ask the owners of keys, or who is said to hold them; whoever has another map than ours is asked once more,
        by the one in force then.
        """
        router = self._pod.router
        shares = router.split(keys) if holders is None else grouped(enumerate(holders))
        answers = yield from self._ask_these(router, shares, make)
        refused = [answer for answer in answers if isinstance(answer.outcome, WrongEpoch)]
        if not refused:
            return answers
        yield Follow(self._link, router.epoch)
        indexes = sorted([index for answer in refused for index in answer.indexes])
        answers = [answer for answer in answers if not isinstance(answer.outcome, WrongEpoch)]
        router = self._pod.router
        return answers + (yield from self._ask_these(router, router.split(keys, indexes), make))

    def _ask_these(self, router: Router, shares: dict[int, list[int]], make: Make) -> Call[list[Answer]]:
        nobodys = shares.pop(NOBODY, None)
        parts = [(router.shard_id(shard), indexes) for shard, indexes in shares.items()]
        answers: list[Answer] = yield from self._together(parts, make)
        if nobodys is not None:
            answers.append(Answer(b"", nobodys, WrongEpoch(NO_OWNER)))
        return answers

    def _together(self, parts: Sequence[tuple[bytes, list[int]]], make: Make) -> Call[list[Answer]]:
        if not parts:
            return []
        outcomes = yield Together(self._link, [(shard, make(indexes)) for shard, indexes in parts])
        return [Answer(*part, outcome) for part, outcome in zip(parts, outcomes, strict=True)]

    def _ask_before(self, keys: Sequence[bytes], indexes: Iterable[int], make: Make) -> Call[list[Answer]]:
        """Ask those who had the slots of keys before, as far as these moved lately. What fails is left out."""
        router = self._pod.router
        shares = router.split_before(keys, indexes)
        if not shares:
            return []
        answers = yield from self._ask_these(router, shares, make)
        for answer in answers:
            if isinstance(answer.outcome, ClientClosed):
                raise answer.outcome
        return [answer for answer in answers if not answer.failed]

    def _ask_all(self, make: Callable[[], Call[T]]) -> Call[list[T]]:
        """Ask all shards. Raises what one of them said if none has an answer."""
        parts = [(shard.id, make()) for shard in self._pod.router.pod_map.shards]
        outcomes = yield Together(self._link, parts)
        errors = [outcome for outcome in outcomes if isinstance(outcome, MezzoError)]
        for error in errors:
            if isinstance(error, CallerError | ClientClosed) or len(errors) == len(outcomes):
                raise error
        return [outcome for outcome in outcomes if not isinstance(outcome, MezzoError)]

    def _holders(self, context: Context, keys: list[bytes]) -> Call[tuple[list[int], list[int]]]:
        """Who has each key, as far as the prefix can go; and the indexes of keys whose shard did not answer.

        It is the owner, but for slots that moved lately: there the owner is asked for each key, and for what he does
        not have, who was it before.
        """
        router = self._pod.router
        owners = router.owners(keys)
        moved = sorted(
            [index for own in router.split_before(keys, range(len(keys))).values() for index in own]
        )
        if not moved:
            return owners, []
        chunks: list[ChunkStat | None] = [None] * len(keys)
        before, silent = yield from self._stats(context, keys, moved, chunks)
        for index in moved:
            if chunks[index] is None:
                return owners[:index], [each for each in silent if each <= index]
            owners[index] = before.get(index, owners[index])
        return owners, []

    def _stats(
        self, context: Context, keys: list[bytes], indexes: Iterable[int], chunks: list[ChunkStat | None]
    ) -> Call[tuple[dict[int, int], list[int]]]:
        """What is known of some keys, into ``chunks``; who had it before of those that only he has, and the indexes
        of those whose shard did not answer.
        """
        wanted = list(indexes)
        own = [keys[index] for index in wanted]

        def make(places: list[int]) -> Call[tuple[ChunkStat | None, ...]]:
            return calls.stat(context, [own[place] for place in places])

        answers = yield from self._ask(own, make)
        silent = [wanted[place] for place in unanswered(answers, among=len(keys) - len(wanted))]
        for answer in answers:
            if not answer.failed:
                for place, chunk in zip(answer.indexes, answer.outcome, strict=True):
                    chunks[wanted[place]] = chunk
        missing = [place for place, index in enumerate(wanted) if chunks[index] is None]
        before: dict[int, int] = {}
        holders = {
            place: shard
            for shard, places in self._pod.router.split_before(own, missing).items()
            for place in places
        }
        for answer in (yield from self._ask_before(own, missing, make)) if holders else ():
            for place, chunk in zip(answer.indexes, answer.outcome, strict=True):
                if chunk is not None:
                    chunks[wanted[place]] = chunk
                    before[wanted[place]] = holders[place]
        return before, [index for index in silent if chunks[index] is None]


class _Prefix(NamedTuple):
    """What shards said of a prefix that they count to one and the same end."""

    length: int
    answers: list[Answer]
    told: Callable[[Answer], LookupResult]
    unanswered: int
    """keys whose shard did not answer"""

    def share(self, answer: Answer) -> Share:
        """As `routing` wants it."""
        return Share(answer.indexes, self.told(answer))


def leases_of(grants: Iterable[Grant]) -> tuple[tuple[Link, int], ...]:
    """All of their leases."""
    return tuple([lease for grant in grants for lease in grant.leases])


def _nothing(answers: Sequence[Answer]) -> Call[None]:
    """A lookup that is not used leaves nothing behind."""
    yield from ()


def unanswered(answers: Sequence[Answer], among: int = 0) -> list[int]:
    """The indexes of keys whose shard did not answer; ``among``: so many others did, or did not, already.

    Raises:
        MezzoError: the call is wrong, or the client was closed; or no shard has answered at all.
    """
    failed = [answer for answer in answers if answer.failed]
    for answer in failed:
        if isinstance(answer.outcome, CallerError | ClientClosed):
            raise answer.outcome
    if failed and len(failed) == len(answers) and not among:
        raise failed[0].outcome
    return [index for answer in failed for index in answer.indexes]


def added(told: Sequence[TenantStated]) -> TenantStated:
    """What a tenant uses of several shards, added up."""
    uses: dict[bytes, NamespaceUse] = {}
    for use in [use for each in told for use in each.namespaces]:
        known = uses.get(use.namespace)
        uses[use.namespace] = (
            use
            if known is None
            else NamespaceUse(use.namespace, known.chunks + use.chunks, known.bytes + use.bytes)
        )
    return TenantStated(
        sum([each.bytes for each in told]),
        sum([each.hot_bytes for each in told]),
        sum([each.leased_bytes for each in told]),
        list(uses.values()),
    )
