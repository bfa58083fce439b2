"""Calls over the shards of a pod, as generators: what each shard is asked, and what is made of it. No I/O.

Each shard gets a call of its own, the very one that a client of that shard makes (`calls`, `moves`), and all of
them run at a time (`Together`).  A shard that does not answer is a matter of its own chunks: they are misses, or
were not stored, and the result says how many these are.  An error of the whole call is only what makes the call
wrong anywhere, or what all shards answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from mezzo import calls, moves, shard_calls
from mezzo.answers import Answer, Prefix, added, asked_by, leases_of, unanswered
from mezzo.calls import Call, CatchUp, Context, Follow, Grant, Link, Pause, Together
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
from mezzo.protocol.messages import ChunkStat, InPlace, TenantStated
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState, Stats
from mezzo.routing import Router, grouped, merged, prefix_of, sums

T = TypeVar("T")

PUT_PAUSES_S = (0.02, 0.05, 0.1, 0.2)
"""A put waits so long for a new owner that has not heard of it: nobody else takes it. Who had it before is read from."""
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
    def behind(self) -> bool:
        """Whether a shard said that it follows a later map."""

    @property
    def chunk_bytes_max(self) -> int:
        """Bytes of the largest chunk that the shards take."""


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

        epoch = yield from self._keep_up()
        answers = yield from self._ask(keys, make)
        silent = unanswered(answers)
        take(answers)
        missing = [index for index in range(count) if not found[index]]
        if missing:
            take((yield from self._ask_before(keys, missing, make)))
            missing = [index for index in missing if not found[index]]
        if missing and (yield from self._overtaken(asked_by(answers, epoch))):
            answers = yield from self._ask(keys, make, indexes=missing)
            silent = unanswered(answers, among=count)
            take(answers)
            missing = [index for index in missing if not found[index]]
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
        yield from self._keep_up()
        answers = yield from self._ask(keys, make, pauses_s=PUT_PAUSES_S)
        silent = unanswered(answers)
        for answer in answers:
            if not answer.failed:
                for index, state in zip(answer.indexes, answer.outcome.states, strict=True):
                    states[index] = state
        return moves.put_result(states, len(silent))

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
    ) -> Call[Prefix]:
        """What is there of a prefix: by a later map, if it is said to be short by one that shards do not follow any more."""
        epoch = yield from self._keep_up()
        prefix = yield from self._prefix_by_map(context, keys, make, told, drop)
        epoch = asked_by(prefix.answers, epoch)
        if prefix.length < len(keys) and (yield from self._overtaken(epoch)):
            again = yield from self._prefix_by_map(context, keys, make, told, drop)
            yield from drop(prefix.answers)
            return again
        return prefix

    def _prefix_by_map(
        self,
        context: Context,
        keys: list[bytes],
        make: Make,
        told: Callable[[Answer], LookupResult],
        drop: Callable[[Sequence[Answer]], Call[None]],
    ) -> Call[Prefix]:
        """Ask each shard for its keys of a prefix until what all of them count ends at one and the same key.

        Behind the first key that is missing anywhere nothing counts, and only its shard knows how much that is: one
        that counted further is asked again, for what counts, and its first answer is dropped.
        """
        router, holders, silent = yield from self._holders(context, keys)
        answers = yield from self._ask(keys[: len(holders)], make, (router, holders))
        silent += unanswered(answers, among=len(silent))
        answers = [answer for answer in answers if not answer.failed]
        absent = [index for index in silent if index < len(holders)]
        while True:
            prefix = Prefix(0, answers, told, len(silent))
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
            more = yield from self._together(again, make, asked_by(far, 0))
            lost = unanswered(more, among=len(silent) + len(answers))
            silent, absent = silent + lost, absent + lost
            answers += [answer for answer in more if not answer.failed]
            yield from drop(far)

    # What is asked of each key.

    def stat(self, context: Context, keys: list[bytes]) -> Call[Stats]:
        """See `calls.stat`."""
        chunks: list[ChunkStat | None] = [None] * len(keys)
        epoch = yield from self._keep_up()
        _, silent = yield from self._stats(context, keys, range(len(keys)), chunks)
        if None in chunks and (yield from self._overtaken(epoch)):
            missing = [index for index, chunk in enumerate(chunks) if chunk is None]
            _, silent = yield from self._stats(context, keys, missing, chunks)
        return Stats.of(chunks, len(silent))

    def delete(self, context: Context, keys: list[bytes]) -> Call[DeleteResult]:
        """See `calls.delete`. What a slot's owner before still has is deleted as well.

        Raises:
            MezzoError: a shard did not say that it has deleted its chunks; the others have.
        """
        epoch = yield from self._keep_up()
        deleted = yield from self._delete_by_map(context, keys)
        if (yield from self._overtaken(epoch)):
            again = yield from self._delete_by_map(context, keys)
            deleted = [one or other for one, other in zip(deleted, again, strict=True)]
        return DeleteResult(tuple(deleted), sum(deleted))

    def _delete_by_map(self, context: Context, keys: list[bytes]) -> Call[list[bool]]:
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
        return deleted

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

    def _keep_up(self) -> Call[int]:
        """Go by the map that shards were heard to follow, if another call does not get it just now; its epoch."""
        if self._pod.behind:
            yield CatchUp(self._link, wait=False)
        return self._pod.router.epoch

    def _overtaken(self, epoch: int) -> Call[bool]:
        """Whether there is a later map than that of ``epoch``: what was put by it, those who were asked may not have.

        A shard tells by which map it answers before it answers, so that nobody believes a miss of who had a slot once.
        """
        if self._pod.behind:
            yield CatchUp(self._link, wait=True)
        return self._pod.router.epoch != epoch

    def _ask(
        self,
        keys: Sequence[bytes],
        make: Make,
        holders: tuple[Router, Sequence[int]] | None = None,
        indexes: Sequence[int] | None = None,
        pauses_s: Sequence[float] = (0.02,),
    ) -> Call[list[Answer]]:
        """Ask the owners of keys (of those at ``indexes`` only, if given), or who is said to hold them.

        Who has another map than ours is asked once more, by the one in force then; who has not come to ours yet is
        asked again after pauses: all shards follow a map within moments, in any order.
        """
        if holders is None:
            router = self._pod.router
            shares = router.split(keys, indexes)
        else:
            router, shares = holders[0], grouped(enumerate(holders[1]))
        answers = yield from self._ask_these(router, shares, make)
        refused = [answer for answer in answers if isinstance(answer.outcome, WrongEpoch)]
        pauses, followed = iter(pauses_s), False
        while refused:
            if all(answer.lags for answer in refused):
                pause_s = next(pauses, 0.0)
                if not pause_s:
                    break
                yield Pause(pause_s)
            elif followed:
                break
            else:
                yield Follow(self._link, router.epoch)
                followed = True
            answers = [answer for answer in answers if answer not in refused]
            again = sorted([index for answer in refused for index in answer.indexes])
            router = self._pod.router
            more = yield from self._ask_these(router, router.split(keys, again), make)
            refused = [answer for answer in more if isinstance(answer.outcome, WrongEpoch)]
            answers += more
        return answers

    def _ask_these(self, router: Router, shares: dict[int, list[int]], make: Make) -> Call[list[Answer]]:
        nobodys = shares.pop(NOBODY, None)
        parts = [(router.shard_id(shard), indexes) for shard, indexes in shares.items()]
        answers: list[Answer] = yield from self._together(parts, make, router.epoch)
        if nobodys is not None:
            answers.append(Answer(b"", nobodys, WrongEpoch(NO_OWNER), router.epoch))
        return answers

    def _together(
        self, parts: Sequence[tuple[bytes, list[int]]], make: Make, epoch: int
    ) -> Call[list[Answer]]:
        if not parts:
            return []
        outcomes = yield Together(self._link, [(shard, make(indexes)) for shard, indexes in parts])
        return [Answer(*part, outcome, epoch) for part, outcome in zip(parts, outcomes, strict=True)]

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

    def _holders(self, context: Context, keys: list[bytes]) -> Call[tuple[Router, list[int], list[int]]]:
        """Who has each key, as far as the prefix can go, by which map; and the indexes of keys whose shard did not answer.

        It is the owner, but for slots that moved lately: there the owner is asked for each key, and for what he does
        not have, who was it before.
        """
        router = self._pod.router
        owners = router.owners(keys)
        moved = sorted(
            [index for own in router.split_before(keys, range(len(keys))).values() for index in own]
        )
        if not moved:
            return router, owners, []
        chunks: list[ChunkStat | None] = [None] * len(keys)
        before, silent = yield from self._stats(context, keys, moved, chunks)
        if self._pod.router is not router:
            # Another map came meanwhile: what was learnt is by that one, in which shards have other places.
            return (yield from self._holders(context, keys))
        for index in moved:
            if chunks[index] is None:
                return router, owners[:index], [each for each in silent if each <= index]
            owners[index] = before.get(index, owners[index])
        return router, owners, []

    def _stats(
        self, context: Context, keys: list[bytes], indexes: Iterable[int], chunks: list[ChunkStat | None]
    ) -> Call[tuple[dict[int, int], list[int]]]:
        """What is known of some keys, into ``chunks``; who had it before of those that only he has, and the indexes
        of those whose shard did not answer.
        """
        wanted = list(indexes)
        own = [keys[index] for index in wanted]

        def make(places: list[int]) -> Call[Stats]:
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


def _nothing(answers: Sequence[Answer]) -> Call[None]:
    """A lookup that is not used leaves nothing behind."""
    yield from ()
