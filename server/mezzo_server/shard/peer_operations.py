"""What is asked of another shard of the pod, of any client there: PULL and OFFER."""

from __future__ import annotations

from collections.abc import Sequence

from mezzo.errors import ProtocolError
from mezzo.operations import Operation, expect
from mezzo.places import Place
from mezzo.protocol import messages
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import Body, Kind, PulledChunk
from mezzo.statistics import Counters
from mezzo.transfers import CheckedSink, Get
from mezzo_server.blockstore.api import Scope


class PullChunks(Get):
    """PULL: what there is of some chunks, and their bytes into ``places``; without these, no bytes.

    ``chunks`` is of all that are there; with bytes, of those alone whose bytes came and are proven.
    """

    kind = Kind.PULL

    def __init__(self, scope: Scope, keys: Sequence[bytes], places: Sequence[Place] = ()) -> None:
        super().__init__(
            list(keys),
            places,
            region=None,
            scope=scope.tenant + scope.namespace,
            part=(0, 0),
            counters=Counters(),
        )
        self._of = scope
        self._sums: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.chunks: list[PulledChunk | None] = [None] * len(self.keys)
        self.checksums: list[tuple[int, ...]] = [()] * len(self.keys)
        """of the parts, as proven by what came"""

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        of = self._of
        return messages.Pull(
            of.tenant,
            of.namespace,
            of.tenant_generation,
            of.namespace_generation,
            self.keys,
            [place.length for place in self.places],
        )

    def receive_data(self, data: messages.GetData, payload_bytes: int) -> CheckedSink:
        """See `Get.receive_data`."""
        if data.index >= len(self.places):
            raise ProtocolError("GET_DATA for a pull that wants no bytes")
        if sum(data.part_bytes) != payload_bytes:
            raise ProtocolError("GET_DATA with parts that are not its payload")
        sink = super().receive_data(data, payload_bytes)
        self._sums[data.index] = tuple(data.part_bytes), tuple(data.checksums)
        return sink

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        chunks = expect(body, messages.Pulled).chunks
        if len(chunks) != len(self.keys):
            raise ProtocolError(f"PULLED has {len(chunks)} entries for {len(self.keys)} keys")
        if not self.places:
            self.chunks = list(chunks)
            return
        found = [False] * len(self.keys)
        for index, chunk in enumerate(chunks):
            if chunk is None:
                continue
            nbytes = sum(chunk.parts)
            there, _ = self._confirm(index, True, nbytes)
            parts, checksums = self._sums[index]
            if there and tuple(chunk.parts) == parts:
                found[index] = True
                self.chunks[index], self.checksums[index] = chunk, checksums
        self.found = tuple(found)


class OfferChunks(Operation):
    """OFFER: what another is to pull from here, and what it is not to give any more. ``there``: what it has of the first."""

    kind = Kind.OFFER

    def __init__(
        self,
        scope: Scope,
        keys: Sequence[bytes],
        lives_ms: int = 0,
        lengths: Sequence[int] = (),
        gone: Sequence[bytes] = (),
        *,
        anew: bool = False,
    ) -> None:
        super().__init__()
        self.keys = tuple(keys)
        """what is offered"""
        self._offer = messages.Offer(
            scope.tenant, scope.namespace, list(keys), lives_ms, list(lengths), list(gone), anew
        )
        self.there: tuple[bool, ...] = (False,) * len(keys)

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return self._offer

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.there = unpack(expect(body, messages.Offered).there, len(self.there))
