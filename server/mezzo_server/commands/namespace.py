"""`mezzo namespace`: the namespaces of a tenant; opened, listed, changed, purged, deleted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mezzo import kvsize
from mezzo.cli.kvsize import read_config
from mezzo.cli.options import size
from mezzo.cli.output import json_result, result
from mezzo.errors import InvalidArgument
from mezzo.identity import Identity, make_identity
from mezzo_server.admin.api import NamespaceChange
from mezzo_server.commands import operator as op
from mezzo_server.commands.admin_reports import namespace_report, namespace_table, namespaces_table
from mezzo_server.tenancy.model import COPIES_MAX

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant.", show_default=False)]
Copies = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="That a pod keeps of its chunks, 1 or 2; none: as of the tenant's."),
]
Name = Annotated[str, typer.Argument(metavar="NAMESPACE", help="Name of the namespace.", show_default=False)]


def register_namespace(app: typer.Typer) -> None:
    """Add `mezzo namespace` and the commands below it."""
    group = typer.Typer(help="Open, list, change, purge and delete namespaces.", no_args_is_help=True)
    for name, command in (
        ("open", open_namespace),
        ("list", list_namespaces),
        ("show", show),
        ("set", set_namespace),
        ("purge", purge),
        ("delete", delete),
    ):
        group.command(name)(command)
    app.add_typer(group, name="namespace")


@op.takes_way
def open_namespace(
    way: op.Way,
    tenant: TenantName,
    name: Annotated[
        str, typer.Argument(metavar="[NAMESPACE]", help="Its name.", show_default="after its identity")
    ] = "",
    *,
    model: Annotated[str, typer.Option(help="What the model is called.", show_default=False)] = "",
    revision: Annotated[str, typer.Option(help="Revision of its weights.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the KV cache.")] = "bf16",
    layout: Annotated[str, typer.Option(help="Order of the axes in a chunk, as the engine names it.")] = "",
    tp: Annotated[int, typer.Option(min=1, help="Ranks of tensor parallelism.")] = 1,
    tp_rank: Annotated[int, typer.Option(min=0, help="Which of them.")] = 0,
    pp: Annotated[int, typer.Option(min=1, help="Ranks of pipeline parallelism.")] = 1,
    pp_rank: Annotated[int, typer.Option(min=0, help="Which of them.")] = 0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens in a chunk.")] = 256,
    chunk_bytes: Annotated[
        int | None,
        typer.Option(
            parser=size, metavar="SIZE", help="Bytes of a chunk, if not by --shape.", show_default=False
        ),
    ] = None,
    shape: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG", help="The model's config.json, from which the bytes of a chunk follow."
        ),
    ] = None,
    salt: Annotated[str, typer.Option(help="What else must keep chunks apart.")] = "",
) -> None:
    """Open a namespace by its identity: make it if there is none of that name.

    Programs do so by themselves (`client.namespace(...)`). Without --model nothing is said of its bytes.
    """
    identity: Identity | None = None
    if model:
        if (chunk_bytes is None) == (shape is None):
            raise InvalidArgument(
                "give the bytes of a chunk by --chunk-bytes, or the model's config.json by --shape"
            )
        of = kvsize.parse_config(read_config(shape)) if shape is not None else chunk_bytes
        identity = make_identity(
            model=model,
            weights_revision=revision,
            kv_dtype=dtype,
            layout=layout,
            tp=tp,
            tp_rank=tp_rank,
            pp=pp,
            pp_rank=pp_rank,
            chunk_tokens=tokens,
            chunk_bytes=of or 0,
            salt=salt,
        )
    elif not name:
        raise InvalidArgument("a namespace needs a name, or an identity (--model and so on)")
    opened = way.act(lambda to: to.add_namespace(tenant, name, identity))
    if way.json:
        json_result(msgspec.json.encode(namespace_report(opened, tenant)))
    else:
        sys.stdout.write(f"{opened.name}\n")


@op.takes_way
def list_namespaces(
    way: op.Way,
    tenant: TenantName,
    *,
    deleted: Annotated[bool, typer.Option("--deleted", help="Those that were deleted as well.")] = False,
) -> None:
    """List the namespaces of a tenant, with what their bytes are."""
    found = way.act(lambda to: to.namespaces(tenant, deleted=deleted))
    if way.json:
        json_result(msgspec.json.encode([namespace_report(one, tenant) for one in found]))
    else:
        result(namespaces_table(found))


@op.takes_way
def show(way: op.Way, tenant: TenantName, name: Name) -> None:
    """Show a namespace, and through a front-end what it uses of its shard."""
    namespace, usage = way.act(lambda to: to.namespace(tenant, name))
    if way.json:
        json_result(msgspec.json.encode(namespace_report(namespace, tenant, usage)))
    else:
        result(namespace_table(namespace, tenant, usage))


@op.takes_way
def set_namespace(
    way: op.Way,
    tenant: TenantName,
    name: Name,
    *,
    ttl: op.Ttl = None,
    ttl_max: op.TtlMax = None,
    copies: Copies = None,
) -> None:
    """Change how long chunks live that are put from now on, and how many copies are kept; `none` is as the tenant's."""
    change = NamespaceChange(op.lifetime(ttl, ttl_max), _copies(copies))
    if change == NamespaceChange():
        raise InvalidArgument("say what is to be different: --ttl, --ttl-max, --copies")
    namespace = way.act(lambda to: to.set_namespace(tenant, name, change))
    if way.json:
        json_result(msgspec.json.encode(namespace_report(namespace, tenant)))
    else:
        result(namespaces_table([namespace]))


@op.takes_way
def purge(way: op.Way, tenant: TenantName, name: Name, *, yes: op.Yes = False) -> None:
    """Empty a namespace: from now on none of the chunks that are in it can be read."""
    op.confirm(f"Purge namespace {name} of {tenant}? This cannot be undone.", yes)
    namespace = way.act(lambda to: to.purge_namespace(tenant, name))
    if way.json:
        json_result(msgspec.json.encode(namespace_report(namespace, tenant)))
    else:
        sys.stdout.write(f"purged {name}; shards follow within seconds, and its space comes back\n")


@op.takes_way
def delete(way: op.Way, tenant: TenantName, name: Name, *, yes: op.Yes = False) -> None:
    """Delete a namespace with all that is in it; its name is free."""
    op.confirm(f"Delete namespace {name} of {tenant}, with all that is in it? This cannot be undone.", yes)
    namespace = way.act(lambda to: to.delete_namespace(tenant, name))
    if way.json:
        json_result(msgspec.json.encode(namespace_report(namespace, tenant)))
    else:
        sys.stdout.write(f"deleted {name}; shards follow within seconds, and its space comes back\n")


def _copies(text: str | None) -> int | None:
    """How many copies; 0 for none, None if it was not given. Raises InvalidArgument."""
    if text is None or text == op.NONE:
        return None if text is None else 0
    if not text.isdecimal() or not 1 <= int(text) <= COPIES_MAX:
        raise InvalidArgument(f"--copies is from 1 to {COPIES_MAX}, or {op.NONE}, not {text}")
    return int(text)
