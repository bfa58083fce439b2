"""Asking the shards of a pod, each for its keys, and those who may have what others did not: as generators. No I/O.

What is asked, and what is made of the answers, is the matter of `spread`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from mezzo.answers import Answer, pairs_of, raise_wrong
from mezzo.calls import Call, CatchUp, Context, Follow, Link, Pause, Together
from mezzo.copies import Copies
from mezzo.errors import CallerError, ClientClosed, MezzoError, Unavailable, WrongEpoch
from mezzo.placement.rendezvous import NOBODY
from mezzo.routing import Router, grouped

T = TypeVar("T")

PAUSES_S = (0.02,)
"""A call waits so long for shards that have not heard of a map yet: all do within moments, in any order."""
PUT_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""And a put, which nobody else takes than the new owner; a machine that has too much to do may take so long to hear of it.
What is read is looked for at who had it before."""
NO_OWNER = "no shard of the pod has these keys now"
NOT_GIVEN = "shards follow a later map of the pod than epoch {}, and no front-end gives it: ask again"


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

    @property
    def copies(self) -> Copies:
        """Which chunks have a second one, and which of two is asked."""


Make = Callable[[list[int]], Call[Any]]
"""The call that a shard gets for the keys at these indexes."""


class Asking:
    """Has nothing of its own: ``link`` stands for all shards, ``pod`` says whose a key is."""

    def __init__(self, link: Link, pod: Pod) -> None:
        self._link = link
        self._pod = pod

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

    def _surely_overtaken(self, epoch: int) -> Call[bool]:
        """As `_overtaken`, for what must not be believed of who had a slot once.

        Raises:
            WrongEpoch: there is a later map, and nobody gives it.
        """
        if (yield from self._overtaken(epoch)):
            return True
        if self._pod.behind:
            yield Follow(self._link, epoch)
            if self._pod.router.epoch == epoch:
                raise WrongEpoch(NOT_GIVEN.format(epoch), epoch)
        return self._pod.router.epoch != epoch

    def _ask(
        self,
        keys: Sequence[bytes],
        make: Make,
        holders: tuple[Router, Sequence[int]] | None = None,
        indexes: Sequence[int] | None = None,
        timed: Context | None = None,
        *,
        to_put: bool = False,
    ) -> Call[list[Answer]]:
        """Ask the owners of keys (of those at ``indexes`` only, if given), or who is said to hold them.

        Who has another map than ours is asked once more, by the one in force then; who has not come to ours yet is
        asked again after a pause: all shards follow a map within moments, in any order.
        ``timed``: what it takes is to be known for the choice between two copies.
        ``to_put``: nobody takes these but their owner.  So shards that lag are asked again for longer, and so is for a map
        that was heard of, whether the owner by ours refuses or has gone.
        """
        if holders is None:
            router = self._pod.router
            shares = router.split(keys, indexes)
        else:
            router, shares = holders[0], grouped(enumerate(holders[1]))
        answers = yield from self._ask_these(router, shares, make, timed)
        stale = [answer for answer in answers if self._is_stale(answer, to_put)]
        pauses, followed = iter(PUT_PAUSES_S if to_put else PAUSES_S), False
        while stale:
            lag = all(answer.lags for answer in stale)
            if lag or (followed and to_put):
                pause_s = next(pauses, 0.0)
                if not pause_s:
                    break
                yield Pause(pause_s)
            elif followed:
                break
            if not lag:
                yield Follow(self._link, router.epoch)
                followed = True
            answers = [answer for answer in answers if answer not in stale]
            again = sorted([index for answer in stale for index in answer.indexes])
            router = self._pod.router
            more = yield from self._ask_these(router, router.split(keys, again), make)
            stale = [answer for answer in more if self._is_stale(answer, to_put)]
            answers += more
        return answers

    def _is_stale(self, answer: Answer, to_put: bool) -> bool:
        """Whether it may be another by another map."""
        outcome = answer.outcome
        if to_put and isinstance(outcome, Unavailable) and not isinstance(outcome, ClientClosed):
            return self._pod.behind or self._pod.router.epoch != answer.epoch
        return isinstance(outcome, WrongEpoch)

    def _ask_these(
        self, router: Router, shares: dict[int, list[int]], make: Make, timed: Context | None = None
    ) -> Call[list[Answer]]:
        nobodys = shares.pop(NOBODY, None)
        parts = [(router.shard_id(shard), indexes) for shard, indexes in shares.items()]
        answers: list[Answer] = yield from self._together(parts, make, router.epoch, timed)
        if nobodys is not None:
            answers.append(Answer(b"", nobodys, WrongEpoch(NO_OWNER), router.epoch))
        return answers

    def _together(
        self,
        parts: Sequence[tuple[bytes, list[int]]],
        make: Make,
        epoch: int,
        timed: Context | None = None,
    ) -> Call[list[Answer]]:
        if not parts:
            return []
        if timed is None:
            own = [(shard, make(indexes)) for shard, indexes in parts]
        else:
            own = [
                (shard, self._timed(timed, shard, len(indexes), make(indexes))) for shard, indexes in parts
            ]
        outcomes = yield Together(self._link, own)
        return [Answer(*part, outcome, epoch) for part, outcome in zip(parts, outcomes, strict=True)]

    def _timed(self, context: Context, shard: bytes, chunks: int, call: Call[T]) -> Call[T]:
        began, copies = context.now(), self._pod.copies
        load = copies.begin(shard, chunks)
        try:
            return (yield from call)
        finally:
            copies.end(load, chunks, context.now() - began)

    def _note(self, context: Context, answers: Iterable[Answer]) -> None:
        """Remember who did not answer: others are asked for a while, where they have a copy."""
        for answer in answers:
            if answer.failed and not isinstance(answer.outcome, CallerError | ClientClosed | WrongEpoch):
                self._pod.copies.silent(answer.shard, context.now())

    def _ask_rest(
        self,
        context: Context,
        keys: Sequence[bytes],
        make: Make,
        answers: Sequence[Answer],
        missing: Callable[[Iterable[Answer]], list[int]],
    ) -> Call[list[Answer]]:
        """Ask for what is missing after these answers who else may have a copy; what they said.

        ``missing`` takes answers in, and gives the indexes of keys that nobody had so far.
        """
        copies = self._pod.copies
        more: list[Answer] = []
        asked: set[tuple[bytes, int]] = set()
        while True:
            self._note(context, answers)
            raise_wrong(answers)
            asked |= pairs_of(answers)
            left, router = missing(answers), self._pod.router
            own = [keys[index] for index in left]
            seconds = copies.seconds(router, own, context.now()) or [NOBODY] * len(left)
            holders = [
                (index, holder)
                for index, both in zip(left, zip(router.owners(own), seconds, strict=True), strict=True)
                for holder in both
                if holder != NOBODY and (router.shard_id(holder), index) not in asked
            ]
            if not holders:
                return more
            # One at a time: both would write to the same memory.
            answers = yield from self._ask_these(router, grouped(dict(holders).items()), make)
            more += answers

    def _ask_seconds(
        self, keys: Sequence[bytes], make: Make, told: Collection[tuple[bytes, int]] = ()
    ) -> Call[list[Answer]]:
        """Ask whoever may have second copies of these, and is to be told: nobody, where chunks have none.

        ``told``: who is asked no more, each with the index of a key.

        Who has another map than ours is asked again, as by `_ask`, but everybody is: seconds may be others now.
        """
        pauses, followed = iter(PAUSES_S), False
        said: list[Answer] = []
        while True:
            router = self._pod.router
            shares = grouped(
                (index, second)
                for index, second in enumerate(self._pod.copies.doomed(router, keys))
                if second != NOBODY and (router.shard_id(second), index) not in told
            )
            answers = yield from self._ask_these(router, shares, make)
            refused = [answer for answer in answers if isinstance(answer.outcome, WrongEpoch)]
            lags = all(answer.lags for answer in refused)
            pause_s = next(pauses, 0.0) if refused and lags else 0.0
            if not refused or (lags and not pause_s) or (not lags and followed):
                return said + answers
            said += [answer for answer in answers if not answer.failed]
            if lags:
                yield Pause(pause_s)
            else:
                yield Follow(self._link, router.epoch)
                followed = True

    def _ask_before(
        self,
        keys: Sequence[bytes],
        indexes: Iterable[int],
        make: Make,
        told: Collection[tuple[bytes, int]] = (),
    ) -> Call[list[Answer]]:
        """Ask those who had the slots of keys before, as far as these moved lately. What fails is left out.

        ``told``: as for `_ask_seconds`.
        """
        router = self._pod.router
        shares = router.split_before(keys, indexes)
        if told:
            shares = grouped(
                (index, shard)
                for shard, own in shares.items()
                for index in own
                if (router.shard_id(shard), index) not in told
            )
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
