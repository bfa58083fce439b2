"""What the metadata engine holds of a pod: where it lies, and the way from bytes to it and back. No I/O.

- `SETTINGS`: made once, by whoever comes first.
- `MEMBERS` + id: a shard that is there, under its metadata lease; written by its own process only.
- `DRAINS` + id: an operator wants that shard to be emptied.
- `PLAN`: the plan in force (`plan_format`); changed by check-and-set only.
- `PARTS`: which part of tenants' quotas each shard enforces (`parts`); changed by check-and-set only. It lies under
  `PLAN`, so that who follows the one follows both.
- `USES` + id: what a shard uses of its parts, under its metadata lease; written by its own process only.
- `ROSTER`: written whenever a shard registers. A plan is written only if it is as it was when the members were
  read, so that no plan leaves out one who has registered since.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from mezzo.errors import FormatError, Unsupported
from mezzo.placement.pod_map import ADDRESSES_MAX, Epoch, Id, Name, SlotsLog2
from mezzo.placement.slots import SLOTS_LOG2
from mezzo_server.pod.plan import Member, Pace
from mezzo_server.stored import Stored, decode_stored, encode_stored

POD = "pod/"
SETTINGS = POD + "settings"
PLAN = POD + "plan"
PARTS = PLAN + "/parts"
ROSTER = POD + "roster"
MEMBERS = POD + "members/"
DRAINS = POD + "drain/"
USES = POD + "use/"
SHARD_WRITES = (MEMBERS, USES, ROSTER)
"""Beginnings of what shards write, and nothing else."""

Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Settings(Stored, frozen=True):
    """What a pod is made with, and keeps."""

    pod: Id
    slots_log2: SlotsLog2 = SLOTS_LOG2
    ramp_s: Seconds = 600.0
    asked_s: Seconds = 3600.0
    remembered_s: Seconds = 86_400.0

    @property
    def pace(self) -> Pace:
        """How fast it changes."""
        return Pace(self.ramp_s, self.asked_s, self.remembered_s)


class MemberRecord(Stored, frozen=True):
    """A shard that is there, as it says itself. Its id is in the key."""

    node: Name
    rack: Name
    addresses: Annotated[tuple[Name, ...], Meta(max_length=ADDRESSES_MAX)]
    capacity_bytes: Bytes
    incarnation: Id
    """of the process: another one is not the one that registered"""
    epoch: Epoch = 0
    """It will never again act by a map of an epoch before this one; 0: it has not said so of any since it registered."""
    leaving: bool = False
    """It is about to stop: it still serves, and its slots are to be others' before it goes."""
    public: Annotated[bytes, Meta(max_length=32)] = b""
    """key by which others know it when it pulls chunks from them (`access.peers`); empty: it does not, nor do they from
    it: of a release before that, or with movement switched off"""

    def member(self, shard: bytes, *, draining: bool) -> Member:
        """As the planner sees it."""
        return Member(shard, self.node, self.rack, self.addresses, self.capacity_bytes, draining)


class Drain(Stored, frozen=True):
    """An operator's wish that a shard be emptied."""

    since_s: Seconds
    """Unix time"""


Record = TypeVar("Record", Settings, MemberRecord, Drain)


def member_key(shard: bytes) -> str:
    """Of a `MemberRecord`."""
    return MEMBERS + shard.hex()


def drain_key(shard: bytes) -> str:
    """Of a `Drain`."""
    return DRAINS + shard.hex()


def use_key(shard: bytes) -> str:
    """Of what it uses (`parts.Use`)."""
    return USES + shard.hex()


def shard_of(key: str) -> bytes:
    """The id of the shard that a key under `MEMBERS`, `DRAINS` or `USES` is about.

    Raises:
        FormatError: none.
    """
    name = key.rsplit("/", 1)[-1]
    try:
        shard = bytes.fromhex(name)
    except ValueError:
        shard = b""
    if len(shard) != 16 or shard.hex() != name:
        raise FormatError(f"the metadata record {key} is of no shard")
    return shard


def encode(record: Settings | MemberRecord | Drain) -> bytes:
    """A record as it is stored."""
    return encode_stored(record)


def decode(kind: type[Record], key: str, value: bytes) -> Record:
    """A record of this kind; fields that this release does not know are kept, and ignored.

    Raises:
        FormatError: it is malformed, or only a later release may act by it; the message names its key.
    """
    try:
        return decode_stored(kind, value)
    except Unsupported as error:
        raise FormatError(f"the metadata record {key} is a later release's: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the metadata record {key} is malformed: {error}") from None
