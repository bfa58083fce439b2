"""Whether a shard may serve, and which slots: what its event loop holds of the pod. No I/O.

Written by what follows the metadata (`membership`, in a thread of its own), read with each request.  The time
until which it may serve is known beforehand, so that a shard stops by its own clock: whatever becomes of that
thread, of the engine and of the network.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mezzo.errors import MezzoError, Unavailable, WrongEpoch
from mezzo.placement.pod_map import PodMap
from mezzo.placement.rendezvous import NOBODY
from mezzo.placement.slots import hash_key, namespace_seed
from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.moving import NOTHING_MOVED
from mezzo_server.pod.offers import NOTHING_COPIED
from mezzo_server.quota.part import NEWCOMER, Part

NEVER = float("-inf")

OWNED, BEFORE, GAINED, SECOND = 1, 2, 3, 4
"""What a shard has to do with a slot: it owns it; it had it before, and is asked for it still; it owns it and another
had it before, who may have what it lacks; it has second copies of another's, alone or with `BEFORE`. 0: nothing."""
ANY = OWNED | BEFORE | SECOND

OF_NO_POD: Mapping[str, int | float] = {
    **dict.fromkeys(
        (
            "pod_epoch",
            "pod_serving",
            "pod_serves_s",
            "pod_slots",
            "pod_slots_before",
            "pod_slots_second",
            "pod_wrong_epoch",
            "pod_not_serving",
            "pod_writes_withheld",
            "pod_failures",
            "pod_memberships_lost",
            "pod_plans_read",
            "pod_parts_weighed",
        ),
        0,
    ),
    "pod_lease_age_s": -1.0,
    **NOTHING_MOVED,
    **NOTHING_COPIED,
    "pod_part": 1.0,
    "pod_part_settled": 1,
}
"""The numbers of a shard that is of no pod."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one map gives one shard."""

    epoch: int
    slots_log2: int
    answers: bytes
    """for each slot: `OWNED`, `BEFORE`, `GAINED`, `SECOND`, `SECOND` + `BEFORE` or 0"""
    alone: bool = False
    """whether the map has no shard of another node"""
    pod_map: PodMap | None = field(default=None, compare=False, repr=False)
    """the whole of it: who else has what"""
    gains: bool = False
    """whether a slot is `GAINED`"""
    since: Sequence[int] = ()
    """for each slot of which the shard is second the epoch since which it is, for the slot's present owner, by all maps that it
    followed; 0 for the others. Empty: it is second of none"""
    seconds: frozenset[bytes] = frozenset()
    """the shards that are second of slots that this one owns"""

    @property
    def owns_any(self) -> bool:
        """Whether the shard owns a slot."""
        return OWNED in self.answers or self.gains

    @classmethod
    def of(cls, pod_map: PodMap, shard: bytes, before: Share | None = None) -> Share:
        """``before``: what the shard had by the map that it followed until now. Takes some milliseconds with many slots."""
        me = _index_of(pod_map, shard)
        answers = bytearray(len(pod_map.table))
        gains = False
        owned: list[int] = []
        copied: list[int] = []
        if me is not None:
            owned = [slot for slot, owner in enumerate(pod_map.table) if owner == me]
            copied = [slot for slot, second in enumerate(pod_map.seconds) if second == me]
            for slot in owned:
                answers[slot] = OWNED
            for slot, former in pod_map.previous.items():
                if former == me:
                    answers[slot] = answers[slot] or BEFORE
                elif answers[slot] == OWNED:
                    answers[slot] = GAINED
                    gains = True
            for slot in copied:
                answers[slot] |= SECOND
        seconds = set(map(pod_map.seconds.__getitem__, owned)) if pod_map.seconds else set()
        nodes = {place.node for place in pod_map.shards}
        alone = me is None or nodes == {pod_map.shards[me].node}
        return cls(
            pod_map.epoch,
            pod_map.slots_log2,
            bytes(answers),
            alone,
            pod_map,
            gains,
            _since(pod_map, copied, before) if copied else (),
            frozenset(pod_map.shards[second].id for second in seconds - {NOBODY}),
        )

    def slot(self, scope: Scope, key: bytes) -> int:
        """Of a key."""
        return hash_key(key, namespace_seed(scope.tenant, scope.namespace)) >> (64 - self.slots_log2)

    def slots(self, scope: Scope, keys: Sequence[bytes]) -> list[int]:
        """Of several."""
        seed, shift = namespace_seed(scope.tenant, scope.namespace), 64 - self.slots_log2
        return [hash_key(key, seed) >> shift for key in keys]

    def second_of(self, scope: Scope, key: bytes) -> bytes | None:
        """The second of a key's slot, if the shard owns it; None: nobody, or it does not."""
        pod_map = self.pod_map
        if pod_map is None or not self.seconds:
            return None
        slot = self.slot(scope, key)
        second = pod_map.second(slot) if self.answers[slot] & OWNED else None
        return None if second is None else second.id

    def may_pull(self, peer: bytes, slot: int) -> bool:
        """Whether a shard may pull chunks of a slot: by this map it owns it, or is its second."""
        pod_map = self.pod_map
        places = () if pod_map is None else (pod_map.owner(slot), pod_map.second(slot))
        return any(place is not None and place.id == peer for place in places)


def _index_of(pod_map: PodMap, shard: bytes) -> int | None:
    return next((index for index, place in enumerate(pod_map.shards) if place.id == shard), None)


def _since(pod_map: PodMap, slots: Sequence[int], before: Share | None) -> Sequence[int]:
    """`Share.since`. A map that was not followed may have had another second, or owner: then all begins anew."""
    since, epoch = array("Q", bytes(8 * len(pod_map.table))), pod_map.epoch
    for slot in slots:
        since[slot] = epoch
    was = None if before is None else before.pod_map
    if was is None or before is None or not before.since or was.pod != pod_map.pod or was.epoch + 1 != epoch:
        return since
    if len(was.table) != len(pod_map.table):
        return since
    numbers = {place.id: index for index, place in enumerate(pod_map.shards)}
    now = {index: numbers.get(place.id) for index, place in enumerate(was.shards)}
    for slot in slots:
        # What it was not second of then has 0 there.
        if before.since[slot] and now.get(was.table[slot]) == pod_map.table[slot]:
            since[slot] = before.since[slot]
    return since


NOTHING = Share(0, 0, b"\0")
"""of a shard that has no map"""


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a shard stands: handed over whole."""

    share: Share = NOTHING
    until: float = NEVER
    """on the clock of `Standing`: from then on it serves nothing"""
    reason: str = "it has not registered with its pod yet"
    """why it does not serve, where that is not a matter of ``until``"""
    part: Part = NEWCOMER
    """of tenants' quotas, which it is to enforce"""


class Standing:
    """Owner of a shard's situation. Used by one thread."""

    def __init__(self, clock: Callable[[], float], now: Callable[[], float]) -> None:
        """``clock``: the one that `Situation.until` is of, goes on while the machine sleeps; ``now``: that of requests."""
        self._clock = clock
        self._now = now
        self._situation = Situation()
        self._share = NOTHING
        self._changed_at = NEVER
        self._ended = False
        self.wrong_epoch = 0
        self.not_serving = 0
        self.withheld = 0

    @property
    def epoch(self) -> int:
        """Of the map that is followed; 0: none."""
        return self._share.epoch

    @property
    def share(self) -> Share:
        """What the map that is followed gives the shard."""
        return self._share

    @property
    def serving(self) -> bool:
        """Whether anything is served at this moment."""
        return not self._ended and self._clock() < self._situation.until

    def take(self, situation: Situation) -> None:
        """Another situation is in force."""
        if situation.share is not self._share:
            self._share = situation.share
            self._changed_at = self._now()
        self._situation = situation

    def end(self) -> None:
        """Serve nothing from now on, whatever comes."""
        self._ended = True

    def check(
        self, scope: Scope, keys: Sequence[bytes], *, to_put: bool = False, told: bool = True
    ) -> Sequence[int]:
        """Whether keys may be asked for here, or put: that is the owner's alone, who knows what is there.

        What the shard has to do with the slot of each, as in `Share.answers`.

        Not ``told``: who asks does not know by which map he is answered, nor of second copies.  If he asks for one, it is
        as its owner by an older map, and what is missing here would be missing to him for ever.

        Raises:
            Unavailable: nothing is served.
            WrongEpoch: one of them is another shard's.
        """
        kinds = self._kinds(scope, keys)
        error = self._objection(kinds, OWNED if to_put else ANY if told else GAINED)
        if error is not None:
            self.not_serving += isinstance(error, Unavailable)
            self.wrong_epoch += isinstance(error, WrongEpoch)
            raise error
        return kinds

    def gained(self, scope: Scope, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Of these keys those that another shard had before us, each with that shard's id."""
        share = self._share
        if not share.gains or share.pod_map is None or not self.serving:
            return []
        answers, shift = share.answers, 64 - share.slots_log2
        seed = namespace_seed(scope.tenant, scope.namespace)
        found = []
        for key in keys:
            slot = hash_key(key, seed) >> shift
            before = share.pod_map.owner_before(slot) if answers[slot] == GAINED else None
            if before is not None:
                found.append((key, before.id))
        return found

    def holds(self, scope: Scope, key: bytes) -> bool:
        """Whether a chunk may be moved to here now: something is served, and the slot is ours."""
        share = self._share
        if not share.epoch or not self.serving:
            return False
        slot = hash_key(key, namespace_seed(scope.tenant, scope.namespace)) >> (64 - share.slots_log2)
        return share.answers[slot] not in (0, BEFORE)

    def comes_from(self, scope: Scope, key: bytes, source: bytes) -> bool:
        """Whether a shard has or had a key's slot by the map that we follow: any other refuses to give it."""
        share = self._share
        if share.pod_map is None:
            return False
        slot = hash_key(key, namespace_seed(scope.tenant, scope.namespace)) >> (64 - share.slots_log2)
        pod_map = share.pod_map
        places = pod_map.owner(slot), pod_map.owner_before(slot), pod_map.second(slot)
        return any(place is not None and place.id == source for place in places)

    def owner_of(self, scope: Scope, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key of whose slot we are second the id of its owner; None for the others."""
        share = self._share
        if share.pod_map is None or not share.pod_map.seconds or not self.serving:
            return [None] * len(keys)
        answers, owner, shift = share.answers, share.pod_map.owner, 64 - share.slots_log2
        seed = namespace_seed(scope.tenant, scope.namespace)
        slots = [hash_key(key, seed) >> shift for key in keys]
        owners = [owner(slot) if answers[slot] & SECOND else None for slot in slots]
        return [None if each is None else each.id for each in owners]

    def second_of(self, scope: Scope, key: bytes, *, on_other_node: bool = False) -> bytes | None:
        """The shard that has the second copy of a key of ours, if it has one; None: nobody, or it is not ours."""
        share = self._share
        if share.pod_map is None or not self.serving:
            return None
        slot = hash_key(key, namespace_seed(scope.tenant, scope.namespace)) >> (64 - share.slots_log2)
        second, owner = share.pod_map.second(slot), share.pod_map.owner(slot)
        if second is None or owner is None or not share.answers[slot] & OWNED:
            return None
        return None if on_other_node and second.node == owner.node else second.id

    def check_pull(self, peer: bytes, scope: Scope, keys: Sequence[bytes]) -> None:
        """Whether another shard may pull these from here: we have or had them, and it is to have them.

        Raises:
            Unavailable: nothing is served.
            WrongEpoch: one of them is not its, or not ours, by the map that we follow.
        """
        self.check(scope, keys)
        share = self._share
        seed, shift = namespace_seed(scope.tenant, scope.namespace), 64 - share.slots_log2
        if not all(share.may_pull(peer, hash_key(key, seed) >> shift) for key in keys):
            self.wrong_epoch += 1
            raise WrongEpoch(
                f"by the map of epoch {share.epoch} the shard that asks is not to have what it asks for",
                share.epoch,
            )

    @property
    def pod_map(self) -> PodMap | None:
        """The map that is followed."""
        return self._share.pod_map

    def objection(
        self, scope: Scope, keys: Sequence[bytes], began: float, *, to_put: bool = False
    ) -> MezzoError | None:
        """Why a write that came at ``began`` may not be acknowledged now; None: it may.

        Called when it was made, and right before it is answered.
        """
        if began > self._changed_at and self.serving:
            return None
        error = self._objection(self._kinds(scope, keys), OWNED if to_put else ANY)
        self.withheld += error is not None
        return error

    def numbers(self) -> dict[str, int | float]:
        """How it stands; docs/metrics.md lists them."""
        left_s = self._situation.until - self._clock()
        return {
            "pod_epoch": self.epoch,
            "pod_serving": int(self.serving),
            "pod_serves_s": max(0.0, left_s) if self.serving else 0.0,
            "pod_slots": self._share.answers.count(OWNED) + self._share.answers.count(GAINED),
            "pod_slots_before": self._share.answers.count(BEFORE)
            + self._share.answers.count(BEFORE | SECOND),
            "pod_slots_second": self._share.answers.count(SECOND)
            + self._share.answers.count(BEFORE | SECOND),
            "pod_wrong_epoch": self.wrong_epoch,
            "pod_not_serving": self.not_serving,
            "pod_writes_withheld": self.withheld,
        }

    def _kinds(self, scope: Scope, keys: Sequence[bytes]) -> Sequence[int]:
        """What the shard has to do with the slot of each key."""
        share = self._share
        answers, shift = share.answers, 64 - share.slots_log2
        seed = namespace_seed(scope.tenant, scope.namespace)
        return [answers[hash_key(key, seed) >> shift] for key in keys]

    def _objection(self, kinds: Sequence[int], right: int) -> MezzoError | None:
        if not self.serving:
            return Unavailable(f"this shard serves nothing now: {self._why()}")
        share = self._share
        if not kinds:
            return None
        if share.epoch and 0 not in kinds and (right == ANY or all(kind & right for kind in kinds)):
            return None
        return WrongEpoch(
            f"by the map of epoch {share.epoch} another shard has what was asked for", share.epoch
        )

    def _why(self) -> str:
        if self._ended:
            return "it stops"
        if self._situation.until == NEVER:
            return self._situation.reason
        return "its membership of the pod was not renewed in time"
