"""Collects the commands, runs one, and turns errors into one line and an exit status.

Exit status: 0 done; 1 done, and what was checked is wrong (wrong bytes, say); 2 the command could
not do what it was asked to; 130 interrupted; 141 nobody reads its output any more.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo, TyperInfo

from mezzo.cli import overview
from mezzo.cli.output import complain, remark
from mezzo.errors import MezzoError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "mezzo.commands"
SERVER = "server"
"""the entry point of our own server; it takes the wanted command as well"""

EXIT_WRONG = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
"""what a shell reports of a program that SIGPIPE ended"""

# Which extra brings a module. A node that only reads and writes chunks needs none of them.
EXTRA_OF_MODULE = {
    "matplotlib": "replay",
    "numpy": "replay",
    "google": "server",
    "grpc": "server",
    "prometheus_client": "server",
    "structlog": "server",
    "uvloop": "server",
}
# What `mezzo --help` shows together, in this order; commands of other packages come last.
PANELS = {
    "Serve": ("setup", "serve", "shard", "frontend", "key", "meta"),
    "Pod": ("pod", "locate"),
    "Tenants": ("tenant", "namespace", "credential"),
    "Use": ("put", "get", "lookup", "rm"),
    "Inspect": ("stat", "events", "top", "doctor", "check", "device", "config"),
    "Measure": ("kvsize", "demo", "demo-pod", "bench", "replay", "workload", "simulate"),
    "Shell": ("completion",),
}
PANEL_OF_OTHERS = "More"
# Where each of our own is.
OWN_COMMANDS = {
    "put": "mezzo.cli.put",
    "get": "mezzo.cli.get",
    "lookup": "mezzo.cli.lookup",
    "rm": "mezzo.cli.rm",
    "events": "mezzo.cli.events",
    "stat": "mezzo.cli.stat",
    "top": "mezzo.cli.top",
    "device": "mezzo.cli.device",
    "kvsize": "mezzo.cli.kvsize",
    "demo": "mezzo.cli.demo",
    "demo-pod": "mezzo.cli.demo_pod",
    "bench": "mezzo.cli.bench",
    "replay": "mezzo.cli.replay",
    "workload": "mezzo.cli.workload",
    "completion": "mezzo.cli.completion",
}
# The server's commands, so that they can say what they need where its extra is not installed.
SERVER_COMMANDS = {
    "serve": "Run a node: a shard and its front-end.",
    "shard": "Run one shard.",
    "frontend": "Run one front-end.",
    "setup": "Write a configuration for this machine.",
    "doctor": "Say what this machine offers a node.",
    "check": "Verify a device, offline.",
    "config": "Show, check and document settings.",
    "tenant": "Make, list, change and delete tenants.",
    "namespace": "Open, list, change, purge and delete namespaces.",
    "credential": "Issue, list and revoke tokens.",
    "key": "Make and change the master key of encryption at rest.",
    "meta": "Look after the metadata engine.",
    "pod": "Look at a pod; empty a shard, and take it back.",
    "locate": "Tell which shard has a chunk.",
    "simulate": "Play policies, or a whole pod with faults, without a node.",
}

PLACES = {name: (panel, rank) for panel, names in PANELS.items() for rank, name in enumerate(names)}


def _place(name: str | None) -> tuple[str, int]:
    return PLACES.get(name or "", (PANEL_OF_OTHERS, 0))


class _InOrder(TyperGroup):
    """Tells commands in the order of `PANELS`: typer by itself puts those with commands below them last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        order = [*PANELS, PANEL_OF_OTHERS]

        def rank(name: str) -> tuple[int, int]:
            panel, within = _place(name)
            return order.index(panel), within

        return sorted(super().list_commands(ctx), key=rank)


def make_app(entry_points: Iterable[EntryPoint] | None = None, wanted: str = "") -> typer.Typer:
    """The application with our own commands and those of installed packages.

    ``wanted``: the command that is about to run.  If it is one of our own, or of the server's, there are no others: to
    import them all takes longer than most of them.
    """
    app = _make_empty()
    alone = wanted in OWN_COMMANDS
    of_server = wanted in SERVER_COMMANDS
    for name in [wanted] if alone else () if of_server else OWN_COMMANDS:
        import_module(OWN_COMMANDS[name]).register(app)
    if alone:
        return app
    if entry_points is None:
        # Late: what it imports takes a while, and most commands do without.
        entry_points = entry_points_of(ENTRY_POINT_GROUP)
    for entry_point in entry_points:
        if entry_point.name == SERVER or not of_server:
            _register_installed(app, entry_point, wanted)
    if of_server and not app.registered_commands and not app.registered_groups:
        return make_app(entry_points)
    _arrange(app)
    return app


def make_overview(entry_points: Iterable[EntryPoint] | None = None) -> typer.Typer:
    """The application as it is shown when no command is about to run: what commands there are, without their modules."""
    there = tuple(entry_points_of(ENTRY_POINT_GROUP) if entry_points is None else entry_points)
    of_server = any(entry_point.name == SERVER for entry_point in there)
    if of_server and not overview.are_there(
        [name for name, extra in EXTRA_OF_MODULE.items() if extra == SERVER]
    ):
        return make_app(there)  # which tells what is missing
    app = _make_empty()
    overview.register(app, (*OWN_COMMANDS, *(SERVER_COMMANDS if of_server else ())))
    for entry_point in there:
        if entry_point.name != SERVER:
            _register_installed(app, entry_point, "")
    _arrange(app)
    return app


def main() -> None:
    """Run the command line of this process and exit."""
    # What goes wrong is told in one line, by us.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = sys.argv[1:]
    if os.environ.get(overview.COMPLETION_VARIABLE):
        status = run(make_app, arguments)  # a shell asks what comes next
    elif arguments in overview.ALONE:
        status = run(make_overview, arguments)
    else:
        status = run(lambda: make_app(wanted=arguments[0]), arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = _unread()
    sys.exit(status)


def run(make: Callable[[], typer.Typer], arguments: list[str]) -> int:
    """Run one command; the exit status. What it says goes to the standard streams."""
    try:
        make()(args=arguments, prog_name="mezzo")
    except SystemExit as done:
        if isinstance(
            done.__context__, BrokenPipeError
        ):  # typer ends with 1 then, which is a miss to a script
            return _unread()
        return done.code if isinstance(done.code, int) else EXIT_ERROR * bool(done.code)
    except MezzoError as error:
        complain(str(error) or type(error).__name__)
    except ImportError as error:
        complain(missing(error))
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        named = error.filename is not None and error.strerror
        complain(f"{error.filename}: {error.strerror}" if named else str(error))
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    else:
        return 0
    return EXIT_ERROR


def _unread() -> int:
    """Nobody reads the output any more (``mezzo get a | head``): no reason to complain."""
    # What is still buffered must not fail again when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PIPE


def missing(error: ImportError) -> str:
    """What to install for a module that is not there, in one line."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF_MODULE.get(module)
    if extra is None:
        return f"cannot import: {error}"
    return f"this needs the Python module {module}: pip install 'mezzo[{extra}]'"


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"mezzo {installed_version()} (Python {platform.python_version()})\n")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True),
    ] = False,
    tls_ca: Annotated[
        str,
        typer.Option(metavar="FILE", help="Authorities that servers' certificates may be signed by, PEM."),
    ] = "",
    tls_certificate: Annotated[
        str, typer.Option(metavar="FILE", help="Certificate to show to servers that ask for one, PEM.")
    ] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="Private key of that certificate, PEM.")] = "",
    tls_server_name: Annotated[
        str, typer.Option(metavar="NAME", help="Name that the server's certificate must have.")
    ] = "",
) -> None:
    """Options that come before the command; `version` has done its work by now."""
    # Every client that a command makes reads them there.
    given = {"CA": tls_ca, "CERTIFICATE": tls_certificate, "KEY": tls_key, "SERVER_NAME": tls_server_name}
    os.environ.update({f"MEZZO_TLS_{name}": value for name, value in given.items() if value})


def entry_points_of(group: str) -> Iterable[EntryPoint]:
    """What installed packages offer."""
    from importlib import metadata

    return metadata.entry_points(group=group)


def installed_version() -> str:
    """Version of the distribution, or that it is not installed."""
    from importlib import metadata

    try:
        return metadata.version("mezzo")
    except metadata.PackageNotFoundError:
        return "(source tree, not installed)"


def _make_empty() -> typer.Typer:
    app = typer.Typer(
        name="mezzo",
        cls=_InOrder,
        help="A store for the KV cache of large language models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return app


def _arrange(app: typer.Typer) -> None:
    """Put the commands under headings; `_InOrder` says in which order."""
    both: list[CommandInfo | TyperInfo] = [*app.registered_commands, *app.registered_groups]
    for one in both:
        one.rich_help_panel = _place(one.name)[0]


def _register_installed(app: typer.Typer, entry_point: EntryPoint, wanted: str) -> None:
    try:
        register = entry_point.load()
        if entry_point.name == SERVER:
            register(app, wanted)
        else:
            register(app)
    except ImportError as error:
        if entry_point.name == SERVER:
            # What helps to find out what is missing registers itself before it imports what may be missing.
            there = {command.name for command in app.registered_commands}
            for name, help_text in SERVER_COMMANDS.items():
                if name not in there:
                    _register_absent(app, name, help_text, error)
        else:
            remark(f"the commands of {entry_point.value} are left out: {error}")
    except Exception as error:  # a broken extension must not take our commands away
        remark(f"the commands of {entry_point.value} are left out: {type(error).__name__}: {error}")


def _register_absent(app: typer.Typer, name: str, help_text: str, error: ImportError) -> None:
    """A command that is not installed: it says what to install."""
    problem = missing(error)

    def absent() -> None:
        complain(f"mezzo {name}: {problem}")
        raise typer.Exit(EXIT_ERROR)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(name, help=f"{help_text} (Not installed.)", context_settings=settings)(absent)
