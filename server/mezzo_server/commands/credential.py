"""`mezzo credential`: tokens of tenants and operators; issued, listed, revoked."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import msgspec
import typer

from mezzo.cli.output import json_result, remark, result
from mezzo.errors import InvalidArgument
from mezzo_server.admin.api import OPERATORS
from mezzo_server.commands import operator as op
from mezzo_server.commands.admin_reports import credential_report, credentials_table
from mezzo_server.commands.tenant import scope_list, show_tokens

Whose = Annotated[
    str | None, typer.Argument(metavar="[TENANT]", help="Name of the tenant.", show_default=False)
]
Operator = Annotated[bool, typer.Option("--operator", help="Of an operator, who belongs to no tenant.")]


def register_credential(app: typer.Typer) -> None:
    """Add `mezzo credential` and the commands below it."""
    group = typer.Typer(help="Issue, list and revoke tokens.", no_args_is_help=True)
    group.command("issue")(issue)
    group.command("list")(list_credentials)
    group.command("revoke")(revoke)
    app.add_typer(group, name="credential")


@op.takes_way
def issue(
    way: op.Way,
    tenant: Whose = None,
    *,
    operator: Operator = False,
    scopes: Annotated[
        str,
        typer.Option(
            help="What it is good for: read, write, admin.", show_default="read,write; admin of an operator"
        ),
    ] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long it is good for.", show_default="without end")
    ] = None,
    note: Annotated[str, typer.Option(help="A remark, for people.")] = "",
) -> None:
    """Issue a token, which is shown once. The first operator's is made with --config."""
    _check_whose(tenant, operator)
    if tenant is None and not operator:
        raise InvalidArgument("name a tenant, or say --operator")
    wanted = scope_list(scopes) or (["admin"] if operator else ["read", "write"])
    issued = way.act(
        lambda to: to.issue_credential(
            tenant or OPERATORS, wanted, expires_s=op.expiry("--expires", expires), note=note
        ),
        makes=operator,
    )
    if way.json:
        json_result(msgspec.json.encode(credential_report(issued.credential, issued.token)))
    else:
        show_tokens([issued])


@op.takes_way
def list_credentials(
    way: op.Way,
    tenant: Whose = None,
    *,
    operator: Operator = False,
) -> None:
    """List credentials: of a tenant, of operators, or all."""
    _check_whose(tenant, operator)
    whose = OPERATORS if operator else tenant
    found = way.act(lambda to: to.credentials(whose))
    if way.json:
        json_result(msgspec.json.encode([credential_report(one) for one in found]))
    elif found:
        result(credentials_table(found, time.time()))
    else:
        remark("there is no credential")


@op.takes_way
def revoke(
    way: op.Way,
    credential: Annotated[
        str, typer.Argument(metavar="ID", help="Of the credential; 16 digits.", show_default=False)
    ],
    *,
    yes: op.Yes = False,
) -> None:
    """Revoke a credential: void from now on, also on connections that are open."""
    op.confirm(f"Revoke credential {credential}? This cannot be undone.", yes)
    gone = way.act(lambda to: to.revoke_credential(credential))
    if way.json:
        json_result(msgspec.json.encode(credential_report(gone)))
    else:
        sys.stdout.write(f"revoked credential {gone.id}\n")


def _check_whose(tenant: str | None, operator: bool) -> None:
    if tenant is not None and operator:
        raise InvalidArgument(
            f"either a tenant's ({tenant}) or an operator's (--operator): operators belong to no tenant"
        )
