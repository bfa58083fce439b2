"""`mezzo tenant`: who is isolated, limited and accounted; made, looked at, changed, deleted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, remark, result
from mezzo.errors import InvalidArgument, MezzoError
from mezzo.sizes import parse_size
from mezzo_server.admin.api import Admin, IssuedCredential, TenantChange, Usage
from mezzo_server.commands import operator as op
from mezzo_server.commands.admin_reports import (
    NewTenantReport,
    credential_report,
    tenant_report,
    tenant_table,
    tenants_table,
    token_lines,
)
from mezzo_server.tenancy.credentials import check_scopes
from mezzo_server.tenancy.model import COPIES_MAX, WEIGHT_MAX, Lifetime, Limit, Quota, Tenant

OVERLAP = "1h"

Name = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.", show_default=False)]
Weight = Annotated[
    int | None,
    typer.Option(
        min=1, max=WEIGHT_MAX, help="Share of device and network time beside other tenants.", show_default="1"
    ),
]
Capacity = Annotated[str | None, typer.Option(metavar="LIMIT", help="Bytes of chunks on a shard's devices.")]
Hot = Annotated[str | None, typer.Option(metavar="LIMIT", help="Bytes of a shard's hot tier.")]
Leased = Annotated[str | None, typer.Option(metavar="LIMIT", help="Bytes under leases.")]
Bandwidth = Annotated[str | None, typer.Option(metavar="LIMIT", help="Bytes put and got in a second.")]
Requests = Annotated[str | None, typer.Option(metavar="LIMIT", help="Requests in a second.")]
Copies = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=COPIES_MAX,
        help="That a pod keeps of its chunks, unless a namespace says otherwise.",
        show_default="1",
    ),
]
Scopes = Annotated[str, typer.Option(help="What the token is good for: read, write, admin.")]


def register_tenant(app: typer.Typer) -> None:
    """Add `mezzo tenant` and the commands below it."""
    group = typer.Typer(
        help="Make, list, change and delete tenants. A LIMIT is HARD, SOFT:HARD or none.",
        no_args_is_help=True,
    )
    for name, command in (
        ("create", create),
        ("list", list_tenants),
        ("show", show),
        ("set", set_tenant),
        ("rotate", rotate),
        ("delete", delete),
    ):
        group.command(name)(command)
    app.add_typer(group, name="tenant")


@op.takes_way
def create(
    way: op.Way,
    name: Name,
    *,
    weight: Weight = None,
    capacity: Capacity = None,
    hot: Hot = None,
    leased: Leased = None,
    bandwidth: Bandwidth = None,
    requests: Requests = None,
    ttl: op.Ttl = None,
    ttl_max: op.TtlMax = None,
    copies: Copies = None,
    encrypted: Annotated[
        bool, typer.Option("--encrypted", help="Encrypt its chunks at rest, with a key of its own.")
    ] = False,
    token_too: Annotated[bool, typer.Option("--issue/--no-issue", help="Issue a first token.")] = True,
    scopes: Scopes = "read,write",
) -> None:
    """Make a tenant, its namespace `default` and a first token, which is shown once."""
    quota = Quota(**_limits(capacity, hot, leased, bandwidth, requests))
    lifetime = op.lifetime(ttl, ttl_max).of(Lifetime())
    wanted = scope_list(scopes)
    if token_too:
        check_scopes(wanted)  # a tenant that is made, and a token that is refused, would be half of it

    async def work(to: Admin) -> tuple[Tenant, IssuedCredential | None]:
        tenant = await to.create_tenant(
            name,
            weight=weight or 1,
            quota=quota,
            lifetime=lifetime,
            encrypted=encrypted,
            copies=copies or 1,
        )
        if not token_too:
            return tenant, None
        try:
            return tenant, await to.issue_credential(name, wanted)
        except MezzoError:
            remark(f"tenant {name} was made, and no token: mezzo credential issue {name}")
            raise

    tenant, issued = way.act(work, makes=True)
    if way.json:
        told = None if issued is None else credential_report(issued.credential, issued.token)
        json_result(msgspec.json.encode(NewTenantReport(tenant_report(tenant), told)))
        return
    sys.stdout.write(f"made tenant {tenant.name} ({tenant.id.hex()})\n")
    if issued is not None:
        show_tokens([issued])


@op.takes_way
def list_tenants(
    way: op.Way,
    *,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that were deleted as well.")] = False,
) -> None:
    """List tenants, with their limits."""
    found = way.act(lambda to: to.tenants(deleted=deleted))
    if way.json:
        json_result(msgspec.json.encode([tenant_report(one) for one in found]))
    elif found:
        result(tenants_table(found))
    else:
        remark("there is no tenant: make one with mezzo tenant create NAME")


@op.takes_way
def show(way: op.Way, name: Name) -> None:
    """Show a tenant, and through a front-end what it uses of its shard."""

    async def work(to: Admin) -> tuple[Tenant, Usage | None, int, int]:
        tenant, usage = await to.tenant(name)
        namespaces = await to.namespaces(name)
        now_s = time.time()
        held = [
            one for one in await to.credentials(name) if not one.revoked and not 0 < one.expires_s <= now_s
        ]
        return tenant, usage, len(namespaces), len(held)

    tenant, usage, namespaces, credentials = way.act(work)
    if way.json:
        json_result(msgspec.json.encode(tenant_report(tenant, usage)))
    else:
        result(tenant_table(tenant, usage, namespaces, credentials))


@op.takes_way
def set_tenant(
    way: op.Way,
    name: Name,
    *,
    weight: Weight = None,
    capacity: Capacity = None,
    hot: Hot = None,
    leased: Leased = None,
    bandwidth: Bandwidth = None,
    requests: Requests = None,
    ttl: op.Ttl = None,
    ttl_max: op.TtlMax = None,
    copies: Copies = None,
) -> None:
    """Change what is given, and leave the rest as it is. Shards follow within seconds."""
    change = TenantChange(
        weight=weight,
        quota=_limits(capacity, hot, leased, bandwidth, requests),
        lifetime=op.lifetime(ttl, ttl_max),
        copies=copies,
    )
    if change == TenantChange():
        raise InvalidArgument("say what is to be different (--help lists it)")
    tenant = way.act(lambda to: to.set_tenant(name, change))
    if way.json:
        json_result(msgspec.json.encode(tenant_report(tenant)))
    else:
        result(tenants_table([tenant]))


@op.takes_way
def rotate(
    way: op.Way,
    name: Name,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="How long the old tokens are good for; none: no more.")
    ] = OVERLAP,
    yes: op.Yes = False,
) -> None:
    """Replace each token of a tenant's with a new one; the new ones are shown once."""
    overlap_s = op.seconds("--overlap", overlap) or 0
    ends = f"in {op.shown_seconds(overlap_s)}" if overlap_s else "at once"
    op.confirm(f"Replace all tokens of {name}, and end the old ones {ends}?", yes)
    issued = way.act(lambda to: to.rotate_tenant(name, overlap_s))
    if way.json:
        told = [credential_report(one.credential, one.token) for one in issued]
        json_result(msgspec.json.encode(told))
    else:
        show_tokens(issued)
        remark(f"the tokens that they replace end {ends}")


@op.takes_way
def delete(way: op.Way, name: Name, *, yes: op.Yes = False) -> None:
    """Delete a tenant: from now on none of its chunks can be read, and its tokens are void."""
    op.confirm(f"Delete tenant {name}, with all that it has stored? This cannot be undone.", yes)
    tenant = way.act(lambda to: to.delete_tenant(name))
    if way.json:
        json_result(msgspec.json.encode(tenant_report(tenant)))
    else:
        sys.stdout.write(
            f"deleted tenant {tenant.name}; shards follow within seconds, and its space comes back\n"
        )


def scope_list(text: str) -> list[str]:
    """Scopes as they are written."""
    return text.replace(",", " ").split()


def show_tokens(issued: list[IssuedCredential]) -> None:
    """Tokens to standard output, and that they are shown once."""
    sys.stdout.write(token_lines(issued) + "\n")
    remark(
        "keep "
        + ("it" if len(issued) == 1 else "them")
        + " now: a token is shown once, and only its hash is kept"
    )


def _limits(
    capacity: str | None, hot: str | None, leased: str | None, bandwidth: str | None, requests: str | None
) -> dict[str, Limit]:
    """The limits that were given, by the fields of a quota."""
    given: tuple[tuple[str, str, str | None, Callable[[str], int]], ...] = (
        ("capacity_bytes", "--capacity", capacity, parse_size),
        ("hot_bytes", "--hot", hot, parse_size),
        ("leased_bytes", "--leased", leased, parse_size),
        ("bytes_per_s", "--bandwidth", bandwidth, parse_size),
        ("requests_per_s", "--requests", requests, op.count),
    )
    return {
        field: op.limit(option, text, parse_one)
        for field, option, text, parse_one in given
        if text is not None
    }
