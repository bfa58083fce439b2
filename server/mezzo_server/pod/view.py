"""What a pod looks like from the metadata: its settings, members, wishes and plan, as of one revision. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mezzo.errors import FormatError
from mezzo_server.metadata.engine import Change, Scan
from mezzo_server.pod.parts import NOTHING_DIVIDED, Use, decode_parts, decode_use, mark_of
from mezzo_server.pod.plan import Member, Plan, empty_plan
from mezzo_server.pod.plan_format import decode_plan
from mezzo_server.pod.records import (
    DRAINS,
    MEMBERS,
    PARTS,
    PLAN,
    ROSTER,
    SETTINGS,
    USES,
    Drain,
    MemberRecord,
    Settings,
    decode,
    shard_of,
)

R = TypeVar("R", MemberRecord, Drain)

Complain = Callable[[str, str], None]


class PodView:
    """Made of a scan of `POD` and the changes that follow it."""

    def __init__(self, complain: Complain) -> None:
        """``complain`` is told of members and wishes that cannot be read: key, and why."""
        self._complain = complain
        self.revision = 0
        """all up to it is seen"""
        self.news = 0
        """the last revision of which there was something else than what shards use, and their parts of it"""
        self.settings: Settings | None = None
        """None: no pod was made"""
        self.records: dict[bytes, MemberRecord] = {}
        self.drains: dict[bytes, Drain] = {}
        self.unreadable: set[str] = set()
        """keys of members and wishes that cannot be read: who is there is not known, so nothing may be planned"""
        self.plan: Plan | None = None
        """None: there is none yet"""
        self.plan_revision = 0
        self.roster_revision = 0
        self.parts = NOTHING_DIVIDED
        self.parts_mark = b""
        self.parts_revision = 0
        self.uses: dict[bytes, Use] = {}
        """what shards say that they enforce and use"""

    def load(self, scan: Scan) -> None:
        """Everything anew.

        Raises:
            FormatError: settings or plan cannot be read; nothing may be built on this.
        """
        self.settings, self.plan = None, None
        self.plan_revision = self.roster_revision = 0
        self.records, self.drains, self.unreadable = {}, {}, set()
        self.parts, self.parts_mark, self.parts_revision, self.uses = NOTHING_DIVIDED, b"", 0, {}
        for entry in scan.entries:
            self._take(entry.key, entry.value, entry.revision)
        self.revision = self.news = scan.revision

    def apply(self, changes: Sequence[Change]) -> bool:
        """What a watch tells; whether anything of it is new that a plan could follow from.

        Raises:
            FormatError: as `load`.
        """
        new = [change for change in changes if change.revision > self.revision]
        for change in new:
            self._take(change.key, change.value, change.revision)
        if new:
            self.revision = new[-1].revision
        news = [change.revision for change in new if change.key != PARTS and not change.key.startswith(USES)]
        self.news = max(news, default=self.news)
        return bool(news)

    @property
    def present(self) -> Plan | None:
        """The plan, or one without shards where there is none yet; None: no pod was made."""
        if self.plan is not None:
            return self.plan
        return None if self.settings is None else empty_plan(self.settings.pod, self.settings.slots_log2)

    def members(self) -> list[Member]:
        """All that are there, in the order of their ids. Who is leaving is drained, if there is somebody who is not."""
        stay = any(not record.leaving and shard not in self.drains for shard, record in self.records.items())
        return [
            record.member(shard, draining=shard in self.drains or (record.leaving and stay))
            for shard, record in sorted(self.records.items())
        ]

    def behind(self) -> list[bytes]:
        """Members that may still act by a map before the present one."""
        epoch = 0 if self.plan is None else self.plan.pod_map.epoch
        return [shard for shard, record in sorted(self.records.items()) if record.epoch < epoch]

    def _take(self, key: str, value: bytes | None, revision: int) -> None:
        if key == SETTINGS:
            self.settings = None if value is None else decode(Settings, key, value)
        elif key == PLAN:
            self.plan_revision = 0 if value is None else revision
            self.plan = None if value is None else decode_plan(value)
        elif key == PARTS:
            self.parts_revision = 0 if value is None else revision
            self.parts_mark = b"" if value is None else mark_of(value)
            self.parts = NOTHING_DIVIDED if value is None else decode_parts(value)
        elif key.startswith(USES):
            self._take_use(key, value)
        elif key == ROSTER:
            self.roster_revision = 0 if value is None else revision
        elif key.startswith((MEMBERS, DRAINS)):
            self.unreadable.discard(key)
            try:
                if key.startswith(MEMBERS):
                    _set(self.records, MemberRecord, key, value)
                else:
                    _set(self.drains, Drain, key, value)
            except FormatError as error:
                self.unreadable.add(key)
                self._complain(key, str(error))

    def _take_use(self, key: str, value: bytes | None) -> None:
        """One that cannot be read is as none: nobody knows what that shard enforces."""
        try:
            shard = shard_of(key)
            self.uses.pop(shard, None)
            if value is not None:
                self.uses[shard] = decode_use(key, value)
        except FormatError as error:
            self._complain(key, str(error))


def _set(records: dict[bytes, R], kind: type[R], key: str, value: bytes | None) -> None:
    shard = shard_of(key)
    records.pop(shard, None)
    if value is not None:
        records[shard] = decode(kind, key, value)
