"""Calls over the shards of a pod, as generators: what each shard is asked, and what is made of it. No I/O.

Each shard gets a call of its own, the very one that a client of that shard makes (`calls`, `moves`), and all of
them run at a time (`Together`).  A shard that does not answer is a matter of its own chunks: they are misses, or
were not stored, and the result says how many these are.  An error of the whole call is only what makes the call
wrong anywhere, or what all shards answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mezzo import calls, moves, shard_calls
from mezzo.answers import (
    Answer,
    Prefix,
    added,
    all_found,
    asked_by,
    leases_of,
    note_done,
    pairs_of,
    unanswered,
)
from mezzo.asking import Asking, Make
from mezzo.calls import Call, Context, Grant
from mezzo.errors import (
    InvalidArgument,
    RegionError,
    Unavailable,
    Unsupported,
)
from mezzo.in_place import LeasedPlaces, SpreadPlaces
from mezzo.moves import GetArguments, PutArguments
from mezzo.placement.rendezvous import NOBODY
from mezzo.places import picker
from mezzo.protocol.messages import ChunkStat, InPlace, TenantStated
from mezzo.results import DeleteResult, GetResult, LookupResult, PutResult, PutState, Stats
from mezzo.routing import Router, merged, prefix_of, sums

T = TypeVar("T")

FORGOTTEN_S = 60.0
"""Between telling a slot's second that chunks are deleted and its owner: over it the second is told again. A shard takes
none of them from others for longer (`mezzo_server.pod.moving`)."""
ONE_SHARD_ONLY = (
    "{} is a shard's own, and there are several: use a client of the shard's address (the node tells it when it is "
    "ready, and mezzo pod map those of a pod)"
)


class Spread(Asking):
    """The calls."""

    @property
    def chunk_bytes_max(self) -> int:
        """See `shard_calls.chunk_bytes_max`."""
        return self._pod.chunk_bytes_max

    # What moves chunks.

    def get(self, context: Context, arguments: GetArguments) -> Call[GetResult]:
        """See `moves.get`."""
        keys, targets, part, _ = arguments
        count = len(keys)
        found: Sequence[bool] = [False] * count
        lengths: Sequence[int] = [0] * count
        asked: set[int] = set()
        copies = self._pod.copies

        def heard(popular: list[bytes]) -> None:
            copies.are_popular(popular, context.now())

        def make(indexes: list[int]) -> Call[GetResult]:
            own = GetArguments(list(picker(indexes)(keys)), targets.of_these(indexes), part, heard)
            again = not asked.isdisjoint(indexes)
            asked.update(indexes)
            return _got_again(context, own) if again else moves.got(context, own)

        def take(answers: Iterable[Answer]) -> list[int]:
            nonlocal found, lengths
            for answer in answers:
                if not answer.failed:
                    got: GetResult = answer.outcome
                    found = moves.put_back(found, answer.indexes, got.found)
                    lengths = moves.put_back(lengths, answer.indexes, got.lengths)
            if False not in found:
                return []
            return [index for index in range(count) if not found[index]]

        epoch = yield from self._keep_up()
        router = self._pod.router
        seconds = copies.seconds(router, keys, context.now())
        if seconds is None:
            answers = yield from self._ask(keys, make)
        else:
            holders = copies.choose(router, keys, router.owners(keys), seconds, context.now())
            answers = yield from self._ask(keys, make, (router, holders), timed=context)
            answers += yield from self._ask_rest(context, keys, make, answers, take)
        whole = all_found(answers, count)
        if whole is not None:
            return whole
        silent = unanswered(answers)
        missing = take(answers)
        if missing:
            missing = take((yield from self._ask_before(keys, missing, make)))
        if missing and (yield from self._overtaken(asked_by(answers, epoch))):
            answers = yield from self._ask(keys, make, indexes=missing)
            if seconds is not None:
                answers += yield from self._ask_rest(context, keys, make, answers, take)
            silent = unanswered(answers, among=count)
            missing = take(answers)
            take((yield from self._ask_before(keys, missing, make)))
        missing = [index for index in silent if not found[index]]
        return GetResult(tuple(found), found.count(True), tuple(lengths), sum(lengths), len(missing))

    def put(self, context: Context, arguments: PutArguments) -> Call[PutResult]:
        """See `moves.put`."""
        keys, sources, parts, terms = arguments
        moves.check_sizes(sources, self._pod.chunk_bytes_max)

        def make(indexes: list[int]) -> Call[PutResult]:
            pick = picker(indexes)
            own = PutArguments(
                list(pick(keys)),
                sources.of_these(indexes),
                parts if len(parts) <= 1 else list(pick(parts)),
                terms._replace(positions=pick(terms.positions)),
            )
            return moves.stored(context, own)

        states: Sequence[PutState] = [PutState.FAILED] * len(keys)
        yield from self._keep_up()
        answers = yield from self._ask(keys, make, to_put=True)
        silent = unanswered(answers)
        for answer in answers:
            if not answer.failed:
                states = moves.put_back(states, answer.indexes, answer.outcome.states)
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
        """How far a prefix goes, and what shards said of it.

        Owners are asked. Where it ends at a key that another shard may have a copy of, that is asked for it, and if it
        has it, all from there on are looked for one by one.
        """
        copies = self._pod.copies
        router, holders, silent = yield from self._holders(context, keys)
        seconds = copies.seconds(router, keys, context.now())
        if seconds is None:
            return (yield from self._counted(keys, router, holders, silent, make, told, drop))
        owners = router.owners(keys[: len(holders)])
        answering = copies.answering(router, owners, seconds[: len(holders)], context.now())
        # Who has what moved lately is known already.
        holders = [
            another if holder == owner else holder
            for holder, owner, another in zip(holders, owners, answering, strict=True)
        ]
        others = seconds[0] != NOBODY
        prefix = yield from self._counted(keys, router, holders, silent, make, told, drop, others=others)
        first = prefix.length
        self._note(context, prefix.failed)
        if first == len(keys) or seconds[first] == NOBODY:
            return prefix
        other = seconds[first]
        if first < len(holders) and holders[first] == other:
            other = router.owners([keys[first]])[0]
        chunks: list[ChunkStat | None] = [None] * len(keys)

        def at(indexes: list[int]) -> Call[tuple[ChunkStat | None, ...]]:
            return calls.stat(context, [keys[index] for index in indexes])

        answers = yield from self._ask_these(router, {other: [first]}, at)
        self._note(context, answers)
        unanswered(answers, among=len(prefix.answers))
        if answers[0].failed or answers[0].outcome[0] is None:
            return prefix
        elsewhere, silent = yield from self._stats(context, keys, range(first, len(keys)), chunks)
        if self._pod.router is not router:
            return prefix  # another map came meanwhile, in which shards have other places: all begins anew
        end = next((index for index in range(first, len(keys)) if chunks[index] is None), len(keys))
        owners = router.owners(keys[first:end])
        holders = holders[:first] + [
            elsewhere.get(index, owner) for index, owner in enumerate(owners, start=first)
        ]
        silent = [index for index in silent if index <= end]
        longer = yield from self._counted(keys, router, holders, silent, make, told, drop, others=True)
        yield from drop(prefix.answers)
        return longer

    def _counted(
        self,
        keys: list[bytes],
        router: Router,
        holders: Sequence[int],
        silent: list[int],
        make: Make,
        told: Callable[[Answer], LookupResult],
        drop: Callable[[Sequence[Answer]], Call[None]],
        *,
        others: bool = False,
    ) -> Call[Prefix]:
        """Ask each shard for its keys of a prefix until what all of them count ends at one and the same key.

        Behind the first key that is missing anywhere nothing counts, and only its shard knows how much that is: one
        that counted further is asked again, for what counts, and its first answer is dropped.
        ``silent``: keys whose shard did not answer before; ``others``: there are more to be asked besides.
        """
        answers = yield from self._ask(keys[: len(holders)], make, (router, holders))
        failed = [answer for answer in answers if answer.failed]
        silent = silent + unanswered(answers, among=len(silent) + others)
        answers = [answer for answer in answers if not answer.failed]
        absent = [index for index in silent if index < len(holders)]
        while True:
            prefix = Prefix(0, answers, told, len(silent), failed)
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
        """See `calls.delete`. What a slot's second has, and its owner before, is deleted as well.

        Against the way that chunks go: first the second, which gets them from the owner, then that, then who was it
        before. Each takes none of them for a while afterwards, so none comes back.  Nobody is told of a key twice: that
        would delete what somebody has put in between.  What was deleted is the owner's to say: of two that delete a
        chunk at a time one has done it.

        Raises:
            MezzoError: a shard did not say that it has deleted its chunks; others have.
            WrongEpoch: it may have been said by who owned them once.
        """
        epoch = yield from self._keep_up()
        told: set[tuple[bytes, int]] = set()
        deleted = yield from self._delete_by_map(context, keys, told)
        while (yield from self._surely_overtaken(epoch)):
            epoch = self._pod.router.epoch
            again = yield from self._delete_by_map(context, keys, told)
            deleted = [one or other for one, other in zip(deleted, again, strict=True)]
        return DeleteResult(tuple(deleted), sum(deleted))

    def _delete_by_map(
        self, context: Context, keys: list[bytes], told: set[tuple[bytes, int]]
    ) -> Call[list[bool]]:
        """``told``: shards that were told to, each with the index of a key; those that are now are added."""

        def make(indexes: list[int]) -> Call[DeleteResult]:
            return calls.delete(context, [keys[index] for index in indexes])

        deleted = [False] * len(keys)
        began = context.now()
        seconds = yield from self._ask_seconds(keys, make, told)
        note_done(seconds, told)
        router = self._pod.router
        left = [
            index
            for index, owner in enumerate(router.owners(keys))
            if owner == NOBODY or (router.shard_id(owner), index) not in told
        ]
        answers = yield from self._ask(keys, make, indexes=left)
        note_done(answers, told)
        if seconds and context.now() - began > FORGOTTEN_S:
            # Who was told first may have begun to take them again before the owner had deleted them.
            note_done((yield from self._ask_seconds(keys, make)), told)
        before = yield from self._ask_before(keys, range(len(keys)), make, told)
        note_done(before, told)
        # What a second had that is no former owner is a copy of what the owner tells of.
        former = {
            (router.shard_id(shard), index)
            for shard, own in router.split_before(keys, range(len(keys))).items()
            for index in own
        }
        counted = former | pairs_of([*answers, *before])
        for answer in [*seconds, *answers, *before]:
            for index, flag in zip(answer.indexes, answer.outcome.deleted, strict=True):
                deleted[index] = deleted[index] or (flag and (answer.shard, index) in counted)
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

    # Where a prefix is.

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
        """What is known of some keys, into ``chunks``; who has those that their owner does not, and the indexes of
        those of which a shard that may have them did not answer.
        """
        wanted = list(indexes)
        own = [keys[index] for index in wanted]

        def make(places: list[int]) -> Call[Stats]:
            return calls.stat(context, [own[place] for place in places])

        def take(answers: Iterable[Answer]) -> list[int]:
            for answer in answers:
                if not answer.failed:
                    for place, chunk in zip(answer.indexes, answer.outcome, strict=True):
                        chunks[wanted[place]] = chunks[wanted[place]] or chunk
            return [place for place, index in enumerate(wanted) if chunks[index] is None]

        router, copies = self._pod.router, self._pod.copies
        seconds = copies.seconds(router, own, context.now())
        if seconds is None:
            answers = yield from self._ask(own, make)
        else:
            asked = copies.answering(router, router.owners(own), seconds, context.now())
            answers = yield from self._ask(own, make, (router, asked))
            answers += yield from self._ask_rest(context, own, make, answers, take)
        silent = [wanted[place] for place in unanswered(answers, among=len(keys) - len(wanted))]
        former = yield from self._ask_before(own, take(answers), make)
        take(former)
        elsewhere = self._elsewhere(own, wanted, former if seconds is None else [*answers, *former])
        return elsewhere, [index for index in silent if chunks[index] is None]

    def _elsewhere(
        self, own: Sequence[bytes], wanted: Sequence[int], answers: Sequence[Answer]
    ) -> dict[int, int]:
        """Who has each key of those that another shard than the owner said it has, by the map in force now."""
        if not answers:
            return {}
        router = self._pod.router
        numbers = {shard.id: number for number, shard in enumerate(router.pod_map.shards)}
        owners = router.owners(own)
        found: dict[int, int] = {}
        for answer in answers:
            number = numbers.get(answer.shard, NOBODY)
            for place, chunk in zip(answer.indexes, () if answer.failed else answer.outcome, strict=False):
                if chunk is not None and number not in (owners[place], NOBODY):
                    found[wanted[place]] = number
        return found


def _got_again(context: Context, arguments: GetArguments) -> Call[GetResult]:
    """As `moves.got`, of keys of which another shard was asked before: if that one was lost, it may still write there."""
    try:
        return (yield from moves.got(context, arguments))
    except RegionError as error:
        raise Unavailable(str(error)) from None


def _nothing(answers: Sequence[Answer]) -> Call[None]:
    """A lookup that is not used leaves nothing behind."""
    yield from ()
