"""How a simulated shard reads the records of others, which `shard.members` does with the thread that follows the pod."""

from __future__ import annotations

from mezzo.errors import MezzoError
from mezzo_server.pod.records import MemberRecord, decode, member_key
from mezzo_server.shard.peer_admission import Known
from mezzo_server.testing.simulation.clockwork import Process
from mezzo_server.testing.simulation.metadata import FarEngine


class Members:
    """Reads member records; implements `peer_admission.Members`."""

    def __init__(self, process: Process, engine: FarEngine) -> None:
        self._process = process
        self._engine = engine

    def look(self, shard: bytes, fresh_s: float, told: Known, *, unproven: bool = False) -> None:
        """See `peer_admission.Members`."""
        self._process.run(self._look(shard, told))

    async def read(self, shard: bytes) -> MemberRecord | None:
        """The record of a shard; None: it is not registered. Raises MezzoError."""
        key = member_key(shard)
        entry = await self._engine.get(key)
        return None if entry is None else decode(MemberRecord, key, entry.value)

    async def _look(self, shard: bytes, told: Known) -> None:
        try:
            told(await self.read(shard))
        except MezzoError as error:
            told(error)
