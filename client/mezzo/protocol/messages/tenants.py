"""Bodies for operators: what tenants use of a shard."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from mezzo.protocol.messages.types import Body, Id16, U

NAMESPACES_ASKED_MAX = 1024


class TenantStat(Body, frozen=True):
    """What does a tenant use? Allowed to operators."""

    tenant: Id16
    namespaces: Annotated[list[Id16], Meta(max_length=NAMESPACES_ASKED_MAX)] = []
    """those of which is to be told one by one"""


class NamespaceUse(Body, frozen=True):
    """What a namespace uses."""

    namespace: Id16
    chunks: U
    """that can be read"""
    bytes: U
    """of them on devices, in whole blocks"""


class TenantStated(Body, frozen=True):
    """The answer to `TenantStat`: of this shard, now."""

    bytes: U
    """of its chunks on devices, in whole blocks, puts under way among them"""
    hot_bytes: U
    """of the hot tier, in whole arenas"""
    leased_bytes: U
    namespaces: Annotated[list[NamespaceUse], Meta(max_length=NAMESPACES_ASKED_MAX)] = []
    """those that were asked for and that the tenant has, in that order"""
