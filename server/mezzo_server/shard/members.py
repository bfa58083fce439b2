"""The member records of other shards of the pod, looked up in the metadata when one is needed.

Nobody watches all of them: in a pod of many shards each of them would hear of every change of every other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mezzo.errors import Busy, FormatError, MezzoError
from mezzo_server.access.peers import CONNECTION_S
from mezzo_server.metadata.engine import Scan
from mezzo_server.pod.driving import READ_S, Driver
from mezzo_server.pod.records import MemberRecord, decode, member_key
from mezzo_server.quota.bucket import Bucket
from mezzo_server.shard.peer_admission import Known

RECORDS_MAX = 1024
WAITING_MAX = 64
"""who waits for one record"""
UNPROVEN_PER_S, UNPROVEN_BURST = 4.0, 32.0
"""Reads for who says that he is a shard, of which anybody can say so: not so many that the metadata would suffer from
it, on which the membership of every shard depends."""

FromThread = Callable[[Callable[[], None]], None]
Read = Callable[[str, Callable[[Scan | MezzoError], None]], None]


class MemberRecords:
    """Owner of the records that were read lately. Used in the loop."""

    def __init__(self, driver: Driver, from_thread: FromThread, now: Callable[[], float]) -> None:
        """``driver`` reads the metadata; ``from_thread`` leads from its thread to the loop."""
        self._read = driver.read
        self._from_thread = from_thread
        self._now = now
        self._records: OrderedDict[bytes, tuple[float, MemberRecord | None]] = OrderedDict()
        self._waiting: dict[bytes, tuple[float, list[Known]]] = {}
        self._unproven = Bucket(UNPROVEN_PER_S, UNPROVEN_BURST, now())

    def look(self, shard: bytes, fresh_s: float, told: Known, *, unproven: bool = False) -> None:
        """See `peer_admission.Members`."""
        now = self._now()
        read_at, record = self._records.get(shard, (float("-inf"), None))
        if now - read_at < fresh_s:
            told(record)
            return
        began, waiting = self._waiting.get(shard, (now, []))
        if waiting and now - began < 2 * READ_S:
            if len(waiting) < WAITING_MAX:
                waiting.append(told)
            else:
                told(Busy("too many wait to hear of this shard", READ_S))
            return
        if unproven:
            wait_s = self._unproven.wait_s(1, now)
            if wait_s > 0:
                # A connection outlives the look at its shard by as long: what is known is good enough meanwhile.
                known = record is not None and now - read_at < CONNECTION_S
                told(record if known else Busy("too many say that they are shards of the pod", wait_s))
                return
            self._unproven.take(1, now)
        self._waiting[shard] = now, [told]
        self._read(member_key(shard), partial(self._came, shard))

    def _came(self, shard: bytes, result: Scan | MezzoError) -> None:
        """In the driver's thread."""
        record: MemberRecord | MezzoError | None
        if isinstance(result, MezzoError):
            record = result
        else:
            key = member_key(shard)
            value = next((entry.value for entry in result.entries if entry.key == key), None)
            try:
                record = None if value is None else decode(MemberRecord, key, value)
            except FormatError as error:
                record = error
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._from_thread(partial(self._tell, shard, record))

    def _tell(self, shard: bytes, record: MemberRecord | MezzoError | None) -> None:
        if not isinstance(record, MezzoError):
            self._records[shard] = self._now(), record
            self._records.move_to_end(shard)
            if len(self._records) > RECORDS_MAX:
                self._records.popitem(last=False)
        _, waiting = self._waiting.pop(shard, (0.0, []))
        for told in waiting:
            told(record)
