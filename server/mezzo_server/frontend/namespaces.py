"""One client of the shard for each namespace in use, within a bound.

Namespaces are kept by tenant and name, and the tenant is that of the call that is being handled: there
is no way to name another one's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from mezzo import AsyncClient
from mezzo.errors import InvalidArgument
from mezzo.identity import NAME_CHARACTERS_MAX
from mezzo_server.access.principal import Principal
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.shares import Shares

Ensure: TypeAlias = Callable[[Principal, str], Awaitable[None]]


class Namespace:
    """A namespace's client, and what keeps it from being closed: calls, and leases, which live on its connection."""

    __slots__ = ("_busy", "client", "holds", "tenant")

    def __init__(self, tenant: bytes, client: AsyncClient, busy: Shares) -> None:
        """``busy`` counts the namespaces that are held."""
        self._busy = busy
        self.tenant = tenant
        """whose it is"""
        self.client = client
        self.holds = 0
        """calls under way, and leases"""

    def hold(self) -> None:
        """Keep it open. Raises Busy: its tenant, or all of them, hold too many."""
        if not self.holds:
            self._busy.take(self.tenant)
        self.holds += 1

    def let_go(self) -> None:
        """One hold less."""
        self.holds -= 1
        if not self.holds:
            self._busy.give(self.tenant)


class Namespaces:
    """The clients. Owner of them; the one that was idle for longest goes when there are too many."""

    def __init__(
        self,
        make_client: Callable[[Principal, str], AsyncClient],
        namespaces_max: int,
        ensure: Ensure | None = None,
        *,
        several: bool = False,
    ) -> None:
        """``make_client`` makes one that speaks for the tenant of a caller, in the namespace of this name;
        ``ensure`` sees to it that there is such a namespace.  None: every name is one.
        ``several``: chunks are spread over several shards.
        """
        self.several = several
        self._make_client = make_client
        self._ensure = ensure
        self._namespaces_max = namespaces_max
        self._busy = Shares("namespaces have calls or leases", namespaces_max, "frontend.namespaces_max")
        self._known: OrderedDict[tuple[bytes, str], Namespace] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._known)

    def use(self, name: str) -> InUse:
        """The caller's namespace ``name``, whose client stays open for the block.

        The block raises, before it begins:
            InvalidArgument: it is no name.
            Busy: too many others are in use.
            Unavailable: it may be new, and the metadata are away.
        """
        return InUse(self, name)

    async def hold(self, name: str) -> Namespace:
        """As `use`; the namespace has one hold more, which is let go of by whoever asked."""
        principal = caller()
        check_name(name)
        if self._ensure is not None:
            await self._ensure(principal, name)
        place = (principal.tenant, name)
        namespace = self._known.get(place)
        if namespace is None:
            namespace = self._add(principal, name)
        else:
            self._known.move_to_end(place)
        namespace.hold()
        return namespace

    async def close(self) -> None:
        """Close all clients."""
        known, self._known = self._known, OrderedDict()
        for namespace in known.values():
            await namespace.client.close()
        if self._closing:
            await asyncio.wait(tuple(self._closing))

    def _add(self, principal: Principal, name: str) -> Namespace:
        if len(self._known) >= self._namespaces_max:
            idle = next((place for place, known in self._known.items() if not known.holds), None)
            if idle is None:
                raise self._busy.full()
            task = asyncio.get_running_loop().create_task(self._known.pop(idle).client.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        client = self._make_client(principal, name)
        namespace = self._known[principal.tenant, name] = Namespace(principal.tenant, client, self._busy)
        return namespace


class InUse:
    """A namespace for a block. Of every call, so a class: a generator takes three times as long."""

    __slots__ = ("_name", "_namespaces", "_used")

    _used: Namespace

    def __init__(self, namespaces: Namespaces, name: str) -> None:
        self._namespaces = namespaces
        self._name = name

    async def __aenter__(self) -> Namespace:
        self._used = await self._namespaces.hold(self._name)
        return self._used

    async def __aexit__(self, *raised: object) -> None:
        self._used.let_go()


def check_name(name: str) -> None:
    """Raises InvalidArgument: it is no name."""
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        raise InvalidArgument(f"namespace must have 1 to {NAME_CHARACTERS_MAX} characters, not {len(name)}")
