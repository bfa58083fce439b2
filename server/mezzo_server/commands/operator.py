"""What the commands of operators share: the way to the metadata, and limits and times as people write them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import pwd
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mezzo.address import Address, parse
from mezzo.cli import options as opt
from mezzo.cli.output import remark
from mezzo.credentials import Bearer
from mezzo.durations import SECONDS_OF_UNIT, parse_duration
from mezzo.errors import InvalidArgument
from mezzo.sizes import about_size
from mezzo.tls import TLS
from mezzo_server.admin.api import Admin, LifetimeChange
from mezzo_server.admin.audit import Actor
from mezzo_server.admin.opening import audit_of, tenant_keys_of
from mezzo_server.commands.options import signed
from mezzo_server.config import NodeConfig, load_with_origins
from mezzo_server.logs import configure_logs
from mezzo_server.tenancy.model import Limit

if TYPE_CHECKING:
    from mezzo_server.admin.local import LocalAdmin
    from mezzo_server.metadata.engine import Engine

T = TypeVar("T")

CONFIG_VARIABLE = "MEZZO_CONFIG"
ADMIN_VARIABLE = "MEZZO_ADMIN"
TIMEOUT_S = 10.0
NONE = "none"
PROCESS = "operator"
"""what logs call it"""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Ttl = Annotated[
    str | None,
    typer.Option("--ttl", metavar="TIME", help="Life of chunks that are put without one; none: no end."),
]
TtlMax = Annotated[
    str | None,
    typer.Option("--ttl-max", metavar="TIME", help="The longest life that a put may ask for; none: any."),
]


@dataclass(frozen=True, slots=True)
class Way:
    """How a command of operators gets to the metadata, and how it prints its result: its last options."""

    config: Annotated[
        Path | None,
        typer.Option(
            envvar=CONFIG_VARIABLE,
            help="Act on the metadata of this configuration's engine: whoever may write them is an operator.",
        ),
    ] = None
    admin: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar=ADMIN_VARIABLE,
            help="Act through the admin port of a front-end (grpcs://HOST:PORT over TLS), with an operator's token.",
        ),
    ] = ""
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False

    def act(self, work: Callable[[Admin], Awaitable[T]], *, makes: bool = False) -> T:
        """Do something as an operator: through a front-end, or on the metadata of a configuration.

        ``makes``: if there is no file of the metadata yet, it is made.

        Raises:
            InvalidArgument: neither is named, both are, or the configuration has no metadata engine.
            MezzoError: what came of it.
        """
        config, admin = self.config, self.admin
        if config is not None and admin:
            config, admin = _the_one_said(config, admin)
        if config is not None:
            return asyncio.run(_in_place(config, work, makes=makes))
        if admin:
            return asyncio.run(_remotely(admin, work))
        raise InvalidArgument(
            "say which metadata: --config mezzo.toml (a file that you may write), or --admin HOST:PORT with an "
            "operator's token in MEZZO_TOKEN"
        )


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


async def _in_place(config: Path, work: Callable[[Admin], Awaitable[T]], *, makes: bool) -> T:
    node = load_with_origins(config, os.environ).config
    configure_logs(node.log, PROCESS)
    return await on_metadata(node, work, makes=makes)


async def _remotely(admin: str, work: Callable[[Admin], Awaitable[T]]) -> T:
    from mezzo_server.admin.remote import Channel, RemoteAdmin

    address, tls = _address(admin), TLS.from_environment()
    # The token is where `--token` and `--token-file` put it: in the variable.
    bearer = Bearer(None, time.monotonic)
    bearer.check_way(address)
    remote = RemoteAdmin(Channel(address, tls=tls, bearer=bearer, timeout_s=TIMEOUT_S))
    try:
        return await work(remote)
    finally:
        await remote.close()


def takes_way(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a `Way`, which is made of them and given to it as ``way``, and of a token."""
    options = inspect.signature(Way, eval_str=True).parameters
    kind = inspect.Parameter.KEYWORD_ONLY
    credential = (
        inspect.Parameter("token", kind, default=None, annotation=opt.Token),
        inspect.Parameter("token_file", kind, default=None, annotation=opt.TokenFile),
    )

    @functools.wraps(command)
    def run(**given: Any) -> None:
        way = Way(**{name: given.pop(name) for name in options})
        for option in credential:
            given.pop(option.name)  # its callback has put it into the environment
        command(way=way, **given)

    taken = inspect.signature(command, eval_str=True).parameters.values()
    own = [parameter for parameter in taken if parameter.name != "way"]
    return signed(run, [*own, *options.values(), *credential])


async def on_metadata(
    node: NodeConfig, work: Callable[[LocalAdmin], Awaitable[T]], *, makes: bool = False
) -> T:
    """Do something on the metadata of a node's settings.

    Raises:
        InvalidArgument: it has none of its own; or its file is not there, and is not made: what was moved away
            must not be taken for new by the processes that follow it.
    """
    from mezzo_server.admin.local import LocalAdmin
    from mezzo_server.tenancy.registry import Registry

    engine = engine_of(node, makes=makes)
    try:
        admin = LocalAdmin(
            Registry(engine, time.time, os.urandom),
            audit_of(node),
            local_actor(),
            now=time.time,
            new_key=tenant_keys_of(node),
        )
        return await work(admin)
    finally:
        await engine.close()


def engine_of(node: NodeConfig, *, makes: bool = False) -> Engine:
    """The metadata engine of a node's settings. Raises InvalidArgument as `on_metadata`."""
    from mezzo_server.metadata.opening import make_engine
    from mezzo_server.metadata.urls import MEMORY, SQLITE

    url = node.metadata.engine
    if not url or url == MEMORY:
        raise InvalidArgument(
            "the configuration has no metadata to act on: without an engine there is one tenant and no "
            'credential. Set [metadata] engine = "sqlite:///var/lib/mezzo/metadata.db"'
        )
    if not makes and url.startswith(SQLITE):
        _check_there(url.removeprefix(SQLITE))
    return make_engine(url, create=makes)


def local_actor() -> Actor:
    """Whoever gives the command on this machine, for the audit log."""
    return Actor(_user(), "local")


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


def limit(option: str, text: str, parse_one: Callable[[str], int]) -> Limit:
    """A limit: ``HARD``, ``SOFT:HARD``, or ``none``.

    Raises:
        InvalidArgument: it is none; names the option.
    """
    soft, colon, hard = text.partition(":")
    if not colon:
        soft, hard = "", text

    def one(number: str) -> int:
        return 0 if number == NONE else parse_one(number)

    try:
        return Limit(one(soft) if soft else 0, one(hard) if hard or not colon else 0)
    except InvalidArgument as error:
        raise InvalidArgument(f"{option} is HARD, SOFT:HARD or {NONE}: {error}") from None


def seconds(option: str, text: str | None) -> int | None:
    """Whole seconds of a time, 0 for ``none``; None if it was not given.

    Raises:
        InvalidArgument: it is no time; names the option.
    """
    if text is None:
        return None
    if text == NONE:
        return 0
    try:
        value = parse_duration(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{option}: {error}") from None
    if value != int(value) or value < 1:
        raise InvalidArgument(f"{option} {text}: times are whole seconds, from 1 on, or {NONE}")
    return int(value)


def lifetime(ttl: str | None, ttl_max: str | None) -> LifetimeChange:
    """What ``--ttl`` and ``--ttl-max`` change. Raises InvalidArgument as `seconds` does."""
    return LifetimeChange(seconds("--ttl", ttl), seconds("--ttl-max", ttl_max))


def expiry(option: str, text: str | None) -> int:
    """Unix time so long from now; 0 for none. Raises InvalidArgument as `seconds` does."""
    after_s = seconds(option, text)
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


def count(text: str) -> int:
    """A number as people write it: ``1000``, ``1,000``, ``1_000``. Raises InvalidArgument."""
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
