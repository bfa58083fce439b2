"""How the tier keeps what belongs together: the slots of one size, the arenas of one tenant. No I/O."""

from __future__ import annotations

from collections import OrderedDict

from mezzo_server.hot.policy import SlotPolicy
from mezzo_server.hot.slots import Cut


class Pool:
    """The slots of one size of one tenant."""

    __slots__ = ("draining", "pages", "policy", "roomy")

    def __init__(self, pages: int, policy: SlotPolicy) -> None:
        self.pages = pages
        self.policy = policy
        self.roomy: dict[Cut, None] = {}
        """arenas with a free slot"""
        self.draining: Cut | None = None
        """another's arena, which is emptied for this pool"""


class Claim:
    """An arena of one tenant that another is to have the memory of."""

    __slots__ = ("cut", "giver", "over", "tenant")

    def __init__(self, tenant: bytes, giver: Tenant, cut: Cut) -> None:
        self.tenant = tenant
        """who gets it"""
        self.giver = giver
        self.cut = cut
        self.over = False
        """it is empty, and being closed"""


class Tenant:
    """The arenas of one tenant."""

    __slots__ = ("cuts", "pools", "spare")

    def __init__(self) -> None:
        self.pools: dict[int, Pool] = {}
        self.cuts: OrderedDict[Cut, None] = OrderedDict()
        """arenas that are cut, the one used longest ago first"""
        self.spare: Cut | None = None
        """an arena that no size has yet"""

    @property
    def idle(self) -> bool:
        """Whether it has no arena."""
        return not self.cuts and self.spare is None
