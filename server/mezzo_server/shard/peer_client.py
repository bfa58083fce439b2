"""The way to another shard of the pod: a client that shows a shard's credential."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from mezzo import AsyncClient
from mezzo.address import Address, parse
from mezzo.calls import CONNECT, Call, Link, Run
from mezzo.connecting import Surroundings
from mezzo.credentials import Ticket
from mezzo.errors import InvalidArgument, MezzoError, Unavailable
from mezzo.operations import Operation
from mezzo.reaching import Opens, Reached
from mezzo.tls import TLS

TIMEOUT_S = 10.0
STAGING_BYTES = 4096
"""Nothing is copied by way of the client's own memory."""


class PeerClient(AsyncClient):
    """Reaches one shard of the pod, at whichever of its addresses it answers."""

    def __new__(cls, *arguments: object) -> Self:
        """It has no namespace for which another would be made alike."""
        return super().__new__(cls, "")

    def __init__(
        self,
        shard: bytes,
        addresses: Sequence[str],
        tls: TLS,
        credential: Callable[[], bytes],
        surroundings: Surroundings | None = None,
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
            surroundings=surroundings,
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
            self._ticket = self._given_now()
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
