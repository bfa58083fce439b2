"""The member records of other shards of the pod, looked up in the metadata when one is needed.

Nobody watches all of them: in a pod of many shards each of them would hear of every change of every other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mezzo.errors import Busy, FormatError, MezzoError
from mezzo_server.metadata.engine import Scan
from mezzo_server.pod.driving import READ_S, Driver
from mezzo_server.pod.records import MemberRecord, decode, member_key
from mezzo_server.shard.peer_admission import Known

RECORDS_MAX = 1024
WAITING_MAX = 64
"""who waits for one record"""

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

    def look(self, shard: bytes, fresh_s: float, told: Known) -> None:
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
