"""The way to another shard of the pod: a client that shows a shard's credential, and asks for what only peers may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from mezzo import AsyncClient
from mezzo.address import Address, parse
from mezzo.calls import CONNECT, Call, Link, Run
from mezzo.credentials import Ticket
from mezzo.errors import InvalidArgument, MezzoError, ProtocolError, Unavailable
from mezzo.operations import Operation, expect
from mezzo.places import Place
from mezzo.protocol import messages
from mezzo.protocol.bitmap import unpack
from mezzo.protocol.messages import Body, Kind, PulledChunk
from mezzo.reaching import Opens, Reached
from mezzo.statistics import Counters
from mezzo.tls import TLS
from mezzo.transfers import CheckedSink, Get
from mezzo_server.blockstore.api import Scope

TIMEOUT_S = 10.0
STAGING_BYTES = 4096
"""Nothing is copied by way of the client's own memory."""


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
    """OFFER: what another is to pull from here. ``there``: what it has of it."""

    kind = Kind.OFFER

    def __init__(
        self, scope: Scope, keys: Sequence[bytes], lives_ms: int = 0, lengths: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self._offer = messages.Offer(scope.tenant, scope.namespace, list(keys), lives_ms, list(lengths))
        self.there: tuple[bool, ...] = (False,) * len(keys)

    def body(self, deadline_ms: int) -> Body:
        """See `Operation.body`."""
        return self._offer

    def answer(self, body: Body) -> None:
        """See `Operation.answer`."""
        self.there = unpack(expect(body, messages.Offered).there, len(self.there))


class PeerClient(AsyncClient):
    """Reaches one shard of the pod, at whichever of its addresses it answers."""

    def __new__(cls, *arguments: object) -> Self:
        """It has no namespace for which another would be made alike."""
        return super().__new__(cls, "")

    def __init__(
        self, shard: bytes, addresses: Sequence[str], tls: TLS, credential: Callable[[], bytes]
    ) -> None:
        """``credential`` makes one for each connection. Raises Unavailable: there is no address to go to."""
        known = _parsed(addresses)
        if not known:
            raise Unavailable(f"the shard {shard.hex()} has told no address that is understood here")
        super().__init__(
            str(known[0]),
            name="shard",
            timeout_s=TIMEOUT_S,
            shm=False,
            staging_bytes=STAGING_BYTES,
            tls=tls,
            token="",
            ticket=lambda: Ticket(credential()),
            stripes=1,
        )
        self._shard = shard
        self._known = known

    async def ask(self, operation: Operation) -> None:
        """Have it done. Raises MezzoError."""
        await self._perform(_run(operation), None)

    def _reach_once(self, *, last: bool) -> Opens[Any]:
        self._ways = [(address, self._shard) for address in self._known]
        errors: list[MezzoError] = []
        for way in tuple(self._ways):
            # For each address a credential of its own: who it was shown to has seen it.
            self._take_given_ticket()
            self._ways = [way]
            link: Reached | None = yield from self._reach_directly(errors)
            if link is not None:
                return link
        raise errors[-1]

    def _is_meant(self, link: Reached, incarnation: bytes) -> bool:
        return link.session.limits.shard_id == self._shard


def _run(operation: Operation) -> Call[None]:
    link: Link = yield CONNECT
    yield Run(link, (operation,))


def _parsed(addresses: Sequence[str]) -> list[Address]:
    known = []
    for text in addresses:
        try:
            address = parse(text)
        except InvalidArgument:
            continue  # of a later release
        if not address.is_frontend:
            known.append(address)
    return known
