"""What each call of a front-end needs: one table. A method that is not here cannot be served."""

from __future__ import annotations

from typing import NamedTuple

from mezzo.errors import Denied
from mezzo_server.access.principal import Principal, Scopes, scope_names


class Need(NamedTuple):
    """What a caller must have."""

    scopes: Scopes
    operator: bool = False
    """it concerns no tenant of the caller's, and is an operator's alone"""


ANYBODY = Need(Scopes.NONE)
READ = Need(Scopes.READ)
WRITE = Need(Scopes.WRITE)
OPERATOR = Need(Scopes.ADMIN, operator=True)

NEEDS: dict[str, Need] = {
    # Whoever has a credential: what it is good for, shards see in the ticket.
    "OpenSession": ANYBODY,
    "OpenNamespace": ANYBODY,
    # A tenant's own numbers; the shard's as a whole are an operator's.
    "ShardStat": ANYBODY,
    "Lookup": READ,
    "Get": READ,
    "Acquire": READ,
    "Renew": READ,
    "Events": READ,
    "PollEvents": READ,
    "Release": READ,
    "Stat": READ,
    "Put": WRITE,
    "Delete": WRITE,
}
"""By method of the services that `Calls` serves."""
TOOLS: dict[str, Need] = {
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANYBODY,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": ANYBODY,
}
"""By path, of services that are not ours; those that are not here (channelz) are an operator's alone."""
OPEN_PATHS = ("/grpc.health.v1.Health/",)
"""Of what is told to anybody: load balancers have no credential, and it says nothing but whether we serve."""


def check(principal: Principal, method: str, need: Need) -> None:
    """
    Raises:
        Denied: the caller may not make this call.
    """
    if need.operator and not principal.is_operator:
        raise Denied(f"{method} is for operators, whose credential belongs to no tenant")
    if need.scopes & principal.scopes != need.scopes:
        raise Denied(f"{method} needs the scope {', '.join(scope_names(need.scopes))}")
