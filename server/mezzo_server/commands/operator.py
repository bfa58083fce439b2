"""What the commands of operators share: the way to the metadata, and limits and times as people write them."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mezzo.address import Address, parse
from mezzo.cli.output import remark
from mezzo.credentials import Bearer
from mezzo.durations import SECONDS_OF_UNIT, parse_duration
from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size, parse_size
from mezzo.tls import TLS
from mezzo_server.admin.api import Admin
from mezzo_server.admin.audit import Actor
from mezzo_server.admin.opening import audit_of, tenant_keys_of
from mezzo_server.config import NodeConfig, load_with_origins
from mezzo_server.logs import configure_logs
from mezzo_server.tenancy.model import Limit

if TYPE_CHECKING:
    from mezzo_server.admin.local import LocalAdmin

T = TypeVar("T")

CONFIG_VARIABLE = "MEZZO_CONFIG"
ADMIN_VARIABLE = "MEZZO_ADMIN"
TIMEOUT_S = 10.0
NONE = "none"
PROCESS = "operator"
"""what logs call it"""

Config = Annotated[
    Path | None,
    typer.Option(
        envvar=CONFIG_VARIABLE,
        help="Act on the metadata of this configuration's engine: whoever may write them is an operator.",
    ),
]
AdminAddress = Annotated[
    str,
    typer.Option(
        "--admin",
        metavar="HOST:PORT",
        envvar=ADMIN_VARIABLE,
        help="Act through the admin port of a front-end (grpcs://HOST:PORT over TLS), with an operator's token.",
    ),
]
Token = Annotated[
    str,
    typer.Option(
        envvar="MEZZO_TOKEN", show_envvar=True, help="The token; better in the variable.", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Ttl = Annotated[
    str | None,
    typer.Option("--ttl", metavar="TIME", help="Life of chunks that are put without one; none: no end."),
]
TtlMax = Annotated[
    str | None,
    typer.Option("--ttl-max", metavar="TIME", help="The longest life that a put may ask for; none: any."),
]


def act(
    config: Path | None,
    admin: str,
    token: str,
    work: Callable[[Admin], Awaitable[T]],
    *,
    makes: bool = False,
) -> T:
    """Do something as an operator: through a front-end, or on the metadata of a configuration.

    ``makes``: if there is no file of the metadata yet, it is made.

    Raises:
        InvalidArgument: neither is named, both are, or the configuration has no metadata engine.
        MezzoError: what came of it.
    """
    if config is not None and admin:
        config, admin = _the_one_said(config, admin)
    if not admin and config is None:
        raise InvalidArgument(
            "say which metadata: --config mezzo.toml (a file that you may write), or --admin HOST:PORT with an "
            "operator's token in MEZZO_TOKEN"
        )
    return asyncio.run(_act(config, admin, token, work, makes))


def _the_one_said(config: Path, admin: str) -> tuple[Path | None, str]:
    """What is said in a command counts before what is in a variable. Raises InvalidArgument: both are, or neither."""
    config_said = str(config) != os.environ.get(CONFIG_VARIABLE)
    admin_said = admin != os.environ.get(ADMIN_VARIABLE)
    if config_said == admin_said:
        raise InvalidArgument(
            f"say which metadata, and not two: --config {config} acts in place, --admin {admin} through a "
            f"front-end ({CONFIG_VARIABLE} and {ADMIN_VARIABLE} count as well)"
        )
    return (config, "") if config_said else (None, admin)


async def _act(
    config: Path | None, admin: str, token: str, work: Callable[[Admin], Awaitable[T]], makes: bool
) -> T:
    if config is None:
        from mezzo_server.admin.remote import Channel, RemoteAdmin

        bearer = Bearer(token or None, time.monotonic)
        address = _address(admin)
        bearer.check_way(address)
        tls = TLS.from_environment()
        remote = RemoteAdmin(Channel(address, tls=tls, bearer=bearer, timeout_s=TIMEOUT_S))
        try:
            return await work(remote)
        finally:
            await remote.close()
    node = load_with_origins(config, os.environ).config
    configure_logs(node.log, PROCESS)
    return await on_metadata(node, work, makes=makes)


async def on_metadata(
    node: NodeConfig, work: Callable[[LocalAdmin], Awaitable[T]], *, makes: bool = False
) -> T:
    """Do something on the metadata of a node's settings.

    Raises:
        InvalidArgument: it has none of its own; or its file is not there, and is not made: what was moved away
            must not be taken for new by the processes that follow it.
    """
    from mezzo_server.admin.local import LocalAdmin
    from mezzo_server.metadata.opening import make_engine
    from mezzo_server.metadata.urls import MEMORY, SQLITE
    from mezzo_server.tenancy.registry import Registry

    url = node.metadata.engine
    if not url or url == MEMORY:
        raise InvalidArgument(
            "the configuration has no metadata to act on: without an engine there is one tenant and no "
            'credential. Set [metadata] engine = "sqlite:///var/lib/mezzo/metadata.db"'
        )
    if not makes:
        _check_there(url.removeprefix(SQLITE))
    engine = make_engine(url, create=makes)
    try:
        admin = LocalAdmin(
            Registry(engine, time.time, os.urandom),
            audit_of(node),
            Actor(_user(), "local"),
            now=time.time,
            new_key=tenant_keys_of(node),
        )
        return await work(admin)
    finally:
        await engine.close()


def _check_there(path: str) -> None:
    if not os.path.exists(path):
        raise InvalidArgument(
            f"{path} is not there: mezzo tenant create NAME makes it, with the first tenant"
        )


def confirm(question: str, yes: bool) -> None:
    """Ask, unless it was said already. What is no yes ends the command with status 2."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(f"{question} Say --yes: there is nobody to ask")
    if not typer.confirm(question, err=True):
        remark("nothing was done")
        raise typer.Exit(2)


def limit(text: str, parse_one: Callable[[str], int]) -> Limit:
    """A limit: ``HARD``, ``SOFT:HARD``, or ``none``. Raises InvalidArgument."""
    if text == NONE:
        return Limit()
    soft, colon, hard = text.partition(":")
    if not colon:
        return Limit(0, parse_one(soft))
    return Limit(
        parse_one(soft) if soft and soft != NONE else 0, parse_one(hard) if hard and hard != NONE else 0
    )


def size_limit(option: str, text: str | None) -> dict[str, Limit]:
    """The limit of a quota in bytes, by its field; nothing if it was not given."""
    return {} if text is None else {option: limit(text, parse_size)}


def count_limit(option: str, text: str | None) -> dict[str, Limit]:
    """The limit of a quota in numbers, by its field; nothing if it was not given."""
    return {} if text is None else {option: limit(text, _count)}


def seconds(text: str | None) -> int | None:
    """Whole seconds of a time, 0 for ``none``; None if it was not given. Raises InvalidArgument."""
    if text is None:
        return None
    if text == NONE:
        return 0
    value = parse_duration(text)
    if value != int(value) or value < 1:
        raise InvalidArgument(f"{text!r}: times are whole seconds, from 1 on, or {NONE}")
    return int(value)


def expiry(text: str | None) -> int:
    """Unix time so long from now; 0 for none."""
    after_s = seconds(text)
    return int(time.time()) + after_s if after_s else 0


def shown_time(unix_s: int) -> str:
    """A moment, for people."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s)) if unix_s else "-"


def shown_seconds(value_s: int) -> str:
    """A duration, for people; 0: no end."""
    if not value_s:
        return "-"
    for unit in ("d", "h", "min"):
        factor = int(SECONDS_OF_UNIT[unit])
        if value_s % factor == 0:
            return f"{value_s // factor}{unit}"
    return f"{value_s}s"


def shown_limit(value: Limit, *, unit: str = "bytes") -> str:
    """A limit, for people."""

    def one(number: int) -> str:
        return about_size(number) if unit == "bytes" else f"{number:,}"

    if value == Limit():
        return "-"
    if not value.soft:
        return one(value.hard)
    return f"{one(value.soft)} : {one(value.hard) if value.hard else NONE}"


def _count(text: str) -> int:
    plain = text.replace("_", "").replace(",", "")
    if not plain.isdecimal() or len(plain) > 15:
        raise InvalidArgument(f"{text!r} is no number")
    return int(plain)


def _address(text: str) -> Address:
    address = parse(text if "://" in text else f"grpc://{text}")
    if not address.is_frontend:
        raise InvalidArgument(f"--admin is HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT, not {text}")
    return address


def _user() -> str:
    """The user of this machine that acts, for the audit log."""
    uid = os.getuid()
    try:
        return f"user:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid:{uid}"
