"""What the shards of a pod said of a call, each of its part, and what that is together. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mezzo.calls import Grant, Link, Stale
from mezzo.errors import CallerError, ClientClosed, MezzoError, Unauthenticated, WrongEpoch
from mezzo.protocol.messages import NamespaceUse, TenantStated
from mezzo.results import GetResult, LookupResult
from mezzo.routing import Share


class Answer(NamedTuple):
    """What became of one shard's part of a call."""

    shard: bytes
    indexes: list[int]
    """of its keys"""
    outcome: Any
    """its result, or the `MezzoError` that it ended with"""
    epoch: int
    """of the map by which it was asked"""

    @property
    def lags(self) -> bool:
        """Whether the shard refused since it follows an earlier map than that by which it was asked."""
        return isinstance(self.outcome, WrongEpoch) and 0 < self.outcome.epoch < self.epoch

    @property
    def failed(self) -> bool:
        """Whether there is no result."""
        return isinstance(self.outcome, MezzoError)


class Prefix(NamedTuple):
    """What shards said of a prefix that they count to one and the same end."""

    length: int
    answers: list[Answer]
    told: Callable[[Answer], LookupResult]
    unanswered: int
    """keys whose shard did not answer"""
    failed: list[Answer]
    """of those who were asked first"""

    def share(self, answer: Answer) -> Share:
        """As `routing` wants it."""
        return Share(answer.indexes, self.told(answer))


def leases_of(grants: Iterable[Grant]) -> tuple[tuple[Link, int], ...]:
    """All of their leases."""
    return tuple([lease for grant in grants for lease in grant.leases])


def unanswered(answers: Sequence[Answer], among: int = 0) -> list[int]:
    """The indexes of keys whose shard did not answer; ``among``: so many others did, or did not, already.

    Raises:
        MezzoError: the call is wrong, or the client was closed; or no shard has answered at all.
    """
    raise_wrong(answers)
    failed = [answer for answer in answers if answer.failed]
    if failed and len(failed) == len(answers) and not among and not any(answer.lags for answer in failed):
        raise failed[0].outcome
    return list(dict.fromkeys([index for answer in failed for index in answer.indexes]))


def all_found(answers: Sequence[Answer], count: int) -> GetResult | None:
    """The result of a get where shards have all of its chunks, each as long as the others: as nearly always.

    Nothing has to be put back in the caller's order then.  None: it is another case.
    """
    found = 0
    lengths: set[int] = set()
    for answer in answers:
        if answer.failed:
            return None
        got: GetResult = answer.outcome
        found += got.count
        lengths.update(got.lengths)
    if found != count or len(lengths) != 1 or sum([len(answer.indexes) for answer in answers]) != count:
        return None
    length = lengths.pop()
    return GetResult((True,) * count, count, (length,) * count, length * count)


def raise_wrong(answers: Iterable[Answer]) -> None:
    """Raises MezzoError: the call is wrong, or the client was closed."""
    for answer in answers:
        if isinstance(answer.outcome, CallerError | ClientClosed):
            raise answer.outcome


def pairs_of(answers: Iterable[Answer]) -> set[tuple[bytes, int]]:
    """Who answered what: shards, each with the index of a key."""
    return {(answer.shard, index) for answer in answers for index in answer.indexes}


def note_done(answers: Sequence[Answer], done: set[tuple[bytes, int]]) -> None:
    """Add who has done its part, for which keys, to those that are ``done``.

    Raises:
        MezzoError: what one of them failed with; `Stale` only if nothing is done, since all would be begun anew.
    """
    done.update(pairs_of([answer for answer in answers if not answer.failed]))
    for answer in answers:
        if isinstance(answer.outcome, Stale) and done:
            raise Unauthenticated(str(answer.outcome))
        if answer.failed:
            raise answer.outcome


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


def asked_by(answers: Iterable[Answer], epoch: int) -> int:
    """The earliest map by which one of these was asked; ``epoch`` if there is none."""
    return min([answer.epoch for answer in answers], default=epoch)
