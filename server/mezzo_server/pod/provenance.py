"""Which second copies a shard may give: those that are, or were lately, what the owner has. No I/O, no clock.

A shard may have bytes under a name that its owner does not have: put when the slot was another's, or pulled before the
owner evicted them and others were put.  So a second gives only what it can say the provenance of.  Its *tenure* of a
slot begins when it becomes second for the slot's present owner, and anew whenever that owner says that it does not know
any more what it told (`pod.leaving`).  A copy is *proven* if it was pulled from that owner within this tenure, or was compared
with what that owner has.  What is not proven is a miss here, and is compared or pulled when it is read.

Nothing is kept for each chunk: a store draws a sequence for each put, and a second takes no puts but its own pulls, so what
has a sequence from within the tenure was pulled in it.  Only of chunks that were compared is kept which they are.
Nothing outlasts a restart: then all is compared again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from mezzo_server.blockstore.api import Scope
from mezzo_server.pod.standing import NOTHING, OWNED, SECOND, Share

EPOCHS_MAX = 4096
"""Maps of which is known when they were followed; of those before them it is taken that it was when the first of these was."""
COMPARED_MAX = 65536
"""Chunks that are known to have been compared; over it the one that was first is, when it is read, again."""
OWNERS_MAX = 4096
"""Owners of which is known when they began anew; over it all tenures begin anew."""


class Tenure(NamedTuple):
    """For how long a shard has been second of a slot. Two that are equal are the same."""

    owner: bytes
    begin: int
    """sequence that the store would have drawn next"""
    number: int
    """of all beginnings, counted"""


class Provenance:
    """Owner of what is known of the second copies of one shard. Used by one thread."""

    def __init__(self, sequence: int) -> None:
        """``sequence``: the next that the store draws; nothing is known of what is there already."""
        self._share = NOTHING
        self._begun = 0
        self._all = self._beginning(sequence)
        self._of_owner: dict[bytes, tuple[int, int]] = {}
        self._epochs: list[int] = []
        self._followed: list[tuple[int, int]] = []
        """when each of these epochs was followed"""
        self._tenures: dict[tuple[int, int], Tenure] = {}
        """by owner (index in the map) and epoch; as far as they were asked for"""
        self._compared: dict[tuple[bytes, bytes, bytes], tuple[int, int]] = {}
        """sequence, and number of the tenure"""
        self._arriving: set[tuple[bytes, bytes, bytes]] = set()
        """what is being stored: of these it is looked at once more, when they are there, whether they count"""

    def follow(self, share: Share, sequence: int) -> None:
        """Another map is followed from now on. One that gives nothing (the membership was lost) changes nothing."""
        if share is self._share or not share.epoch:
            return
        if self._epochs and share.epoch <= self._epochs[-1]:
            # Of another pod, or restored.
            self.begin(None, sequence)
            self._epochs.clear()
            self._followed.clear()
        self._share = share
        self._epochs.append(share.epoch)
        self._followed.append(self._beginning(sequence))
        if len(self._epochs) > EPOCHS_MAX:
            del self._epochs[0], self._followed[0]
        self._tenures.clear()

    def begin(self, owner: bytes | None, sequence: int) -> None:
        """The tenure of all slots of an owner begins anew, or of all; what was told before does not count."""
        self._tenures.clear()
        if owner is not None and (owner in self._of_owner or len(self._of_owner) < OWNERS_MAX):
            self._of_owner[owner] = self._beginning(sequence)
            return
        self._all = self._beginning(sequence)
        self._of_owner.clear()
        self._compared.clear()

    def tenure(self, scope: Scope, key: bytes) -> Tenure | None:
        """Of the slot of a key; None: this shard is not its second."""
        share = self._share
        return self._tenure(share.slot(scope, key)) if share.since else None

    def owns(self, scope: Scope, key: bytes) -> bool:
        """Whether the slot of a key is this shard's own: there all counts that is here."""
        share = self._share
        return bool(share.answers[share.slot(scope, key)] & OWNED)

    def held(self, scope: Scope, keys: Sequence[bytes]) -> list[tuple[Tenure, bool] | None] | None:
        """For each key of which this shard is second the tenure, and whether what is here must be proven before it is given.

        It need not be of slots that this shard is asked for because it had them: there it is asked for what the owner does not
        have.  None: it is second of none of these.
        """
        share = self._share
        if not share.since:
            return None
        answers, slots = share.answers, share.slots(scope, keys)
        kinds = [answers[each] for each in slots]
        if not any(kind & SECOND for kind in kinds):
            return None
        tenures = [self._tenure(each) for each in slots]
        return [
            None if tenure is None else (tenure, kind == SECOND)
            for tenure, kind in zip(tenures, kinds, strict=True)
        ]

    def is_proven(self, scope: Scope, key: bytes, sequence: int, tenure: Tenure) -> bool:
        """Whether what is here under a key, with this sequence, is the owner's."""
        if self._arriving and (scope.tenant, scope.namespace, key) in self._arriving:
            return False
        if sequence >= tenure.begin:
            return True
        known = self._compared.get((scope.tenant, scope.namespace, key))
        return known == (sequence, tenure.number)

    def arrives(self, scope: Scope, key: bytes) -> None:
        """What was pulled is handed to the store, under this key: not given before `arrived`."""
        self._arriving.add((scope.tenant, scope.namespace, key))

    def arrived(self, scope: Scope, key: bytes) -> None:
        """It is there, and was pulled in the tenure that there is; or it is gone."""
        self._arriving.discard((scope.tenant, scope.namespace, key))

    def compared(self, scope: Scope, key: bytes, sequence: int, tenure: Tenure) -> None:
        """What is here with this sequence is the same as what the owner has, who was asked within this tenure."""
        compared, name = self._compared, (scope.tenant, scope.namespace, key)
        compared.pop(name, None)
        if len(compared) >= COMPARED_MAX:
            del compared[next(iter(compared))]
        compared[name] = sequence, tenure.number

    def _beginning(self, sequence: int) -> tuple[int, int]:
        self._begun += 1
        return self._begun, sequence

    def _tenure(self, slot: int) -> Tenure | None:
        share = self._share
        pod_map, since = share.pod_map, share.since[slot]
        if not since or pod_map is None:
            return None
        index = pod_map.table[slot]
        tenure = self._tenures.get((index, since))
        if tenure is None:
            place = pod_map.owner(slot)
            if place is None:
                return None
            # Of a map that was never followed here, or long ago, the next one that was counts.
            followed = self._followed[bisect_left(self._epochs, since)]
            number, begin = max(followed, self._all, self._of_owner.get(place.id, self._all))
            tenure = self._tenures[index, since] = Tenure(place.id, begin, number)
        return tenure
