"""What the commands of operators print as JSON, and as tables for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
from msgspec.structs import asdict
from rich.markup import escape
from rich.table import Table

from mezzo.identity import Identity
from mezzo.sizes import about_size
from mezzo_server.admin.api import CredentialInfo, IssuedCredential, NamespaceUsage, Usage
from mezzo_server.commands.operator import shown_limit, shown_seconds, shown_time
from mezzo_server.tenancy.model import Lifetime, Namespace, Quota, Tenant

QUOTA_NAMES = {
    "capacity_bytes": "capacity",
    "hot_bytes": "hot tier",
    "leased_bytes": "leased",
    "bytes_per_s": "bytes a second",
    "requests_per_s": "requests a second",
}


class TenantReport(msgspec.Struct, frozen=True):
    """A tenant."""

    id: str
    name: str
    generation: int
    weight: int
    quota: Quota
    lifetime: Lifetime
    encrypted: bool
    created_s: int
    deleted: bool
    usage: dict[str, int] | None = None
    copies: int = 1


class CredentialReport(msgspec.Struct, frozen=True):
    """A credential; its token if it is new."""

    id: str
    tenant: str
    scopes: list[str]
    created_s: int
    expires_s: int
    revoked: bool
    note: str
    token: str | None = None


class NewTenantReport(msgspec.Struct, frozen=True):
    """A tenant that was made, and its first credential."""

    tenant: TenantReport
    credential: CredentialReport | None


class NamespaceReport(msgspec.Struct, frozen=True):
    """A namespace."""

    id: str
    tenant: str
    name: str
    identity: Identity | None
    generation: int
    lifetime: Lifetime
    created_s: int
    deleted: bool
    usage: dict[str, int] | None = None
    copies: int = 0
    """0: as many as of its tenant's"""


def tenant_report(tenant: Tenant, usage: Usage | None = None) -> TenantReport:
    """A tenant, for JSON."""
    return TenantReport(
        tenant.id.hex(),
        tenant.name,
        tenant.generation,
        tenant.weight,
        tenant.quota,
        tenant.lifetime,
        tenant.encrypted,
        tenant.created_s,
        tenant.deleted,
        _usage(usage),
        tenant.copies,
    )


def credential_report(credential: CredentialInfo, token: str | None = None) -> CredentialReport:
    """A credential, for JSON."""
    return CredentialReport(**asdict(credential), token=token)


def namespace_report(
    namespace: Namespace, tenant: str, usage: NamespaceUsage | None = None
) -> NamespaceReport:
    """A namespace, for JSON."""
    return NamespaceReport(
        namespace.id.hex(),
        tenant,
        namespace.name,
        namespace.identity,
        namespace.generation,
        namespace.lifetime,
        namespace.created_s,
        namespace.deleted,
        _usage(usage),
        namespace.copies,
    )


def tenants_table(tenants: Sequence[Tenant]) -> Table:
    """Tenants, one a line."""
    table = _table("tenant", "weight", "capacity", "bytes/s", "requests/s", "ttl", "longest", "created", "")
    for column in table.columns[1:7]:
        column.justify = "right"
    for one in tenants:
        facts = (("encrypted", one.encrypted), ("2 copies", one.copies > 1), ("deleted", one.deleted))
        remarks = [text for text, true in facts if true]
        table.add_row(
            escape(one.name),
            str(one.weight),
            shown_limit(one.quota.capacity_bytes),
            shown_limit(one.quota.bytes_per_s),
            shown_limit(one.quota.requests_per_s, unit=""),
            shown_seconds(one.lifetime.ttl_s_default),
            shown_seconds(one.lifetime.ttl_s_max),
            shown_time(one.created_s),
            " ".join(remarks),
        )
    return table


def tenant_table(tenant: Tenant, usage: Usage | None, namespaces: int, credentials: int) -> Table:
    """All of one tenant."""
    table = _facts()
    table.add_row("tenant", escape(tenant.name))
    table.add_row("id", tenant.id.hex())
    table.add_row("created", shown_time(tenant.created_s))
    table.add_row("generation", str(tenant.generation))
    table.add_row("weight", str(tenant.weight))
    for field, name in QUOTA_NAMES.items():
        unit = "" if field == "requests_per_s" else "bytes"
        table.add_row(name, _limit_words(shown_limit(getattr(tenant.quota, field), unit=unit)))
    _add_lifetime(table, tenant.lifetime, "no end")
    table.add_row("encrypted at rest", "yes" if tenant.encrypted else "no")
    table.add_row("copies in a pod", str(tenant.copies))
    table.add_row("namespaces", str(namespaces))
    table.add_row("credentials in force", str(credentials))
    _add_usage(table, usage)
    return table


def credentials_table(credentials: Sequence[CredentialInfo], now_s: float) -> Table:
    """Credentials, one a line."""
    table = _table("credential", "tenant", "scopes", "created", "expires", "state", "note")
    for one in credentials:
        state = "revoked" if one.revoked else "expired" if 0 < one.expires_s <= now_s else "in force"
        table.add_row(
            one.id,
            escape(one.tenant) or "(operators)",
            " ".join(one.scopes),
            shown_time(one.created_s),
            shown_time(one.expires_s),
            state,
            escape(one.note),
        )
    return table


def namespaces_table(namespaces: Sequence[Namespace]) -> Table:
    """Namespaces, one a line."""
    table = _table("namespace", "model", "dtype", "rank", "chunk", "ttl", "longest", "gen", "")
    for one in namespaces:
        identity = one.identity
        table.add_row(
            escape(one.name),
            "-" if identity is None else escape(identity.model),
            "-" if identity is None else escape(identity.kv_dtype),
            "-" if identity is None else _rank(identity),
            "-"
            if identity is None
            else f"{identity.chunk_tokens:,} tokens, {about_size(identity.chunk_bytes)}",
            shown_seconds(one.lifetime.ttl_s_default),
            shown_seconds(one.lifetime.ttl_s_max),
            str(one.generation),
            " ".join([f"copies {one.copies}"] * bool(one.copies) + ["deleted"] * one.deleted),
        )
    return table


def namespace_table(namespace: Namespace, tenant: str, usage: NamespaceUsage | None) -> Table:
    """All of one namespace."""
    table = _facts()
    table.add_row("namespace", escape(namespace.name))
    table.add_row("tenant", escape(tenant))
    table.add_row("id", namespace.id.hex())
    table.add_row("created", shown_time(namespace.created_s))
    table.add_row("generation", str(namespace.generation))
    if namespace.identity is None:
        table.add_row("identity", "none: nothing was said of its bytes")
    else:
        for name, value in asdict(namespace.identity).items():
            table.add_row(name, f"{value:,}" if isinstance(value, int) else escape(value) or "-")
    _add_lifetime(table, namespace.lifetime, "as the tenant's")
    table.add_row("copies in a pod", str(namespace.copies or "as the tenant's"))
    _add_usage(table, usage)
    return table


def token_lines(issued: Sequence[IssuedCredential]) -> str:
    """New tokens, for people."""
    lines = []
    for one in issued:
        whose = f"tenant {one.credential.tenant}" if one.credential.tenant else "an operator"
        lines.append(f"credential {one.credential.id} of {whose} ({', '.join(one.credential.scopes)})")
        lines.append(f"  {one.token}")
    return "\n".join(lines)


def _rank(identity: Identity) -> str:
    words = []
    if identity.tp_size > 1:
        words.append(f"tp {identity.tp_rank}/{identity.tp_size}")
    if identity.pp_size > 1:
        words.append(f"pp {identity.pp_rank}/{identity.pp_size}")
    return " ".join(words) or "-"


def _limit_words(shown: str) -> str:
    if shown == "-":
        return "no limit"
    soft, colon, hard = shown.partition(" : ")
    return f"soft {soft}, hard {hard}" if colon else f"hard {soft}"


def _add_lifetime(table: Table, lifetime: Lifetime, none: str) -> None:
    for name, value in (("ttl", lifetime.ttl_s_default), ("longest ttl", lifetime.ttl_s_max)):
        table.add_row(name, shown_seconds(value) if value else none)


def _add_usage(table: Table, usage: Usage | NamespaceUsage | None) -> None:
    if usage is None:
        return
    table.add_row("chunks", f"{usage.chunks:,}")
    table.add_row("on devices", about_size(usage.bytes))
    if isinstance(usage, Usage):
        table.add_row("in the hot tier", about_size(usage.hot_bytes))
        table.add_row("under leases", about_size(usage.leased_bytes))


def _usage(usage: Usage | NamespaceUsage | None) -> dict[str, int] | None:
    return None if usage is None else dataclasses.asdict(usage)


def _table(*titles: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table
