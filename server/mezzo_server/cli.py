"""The server's commands of ``mezzo``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

COMMANDS = {
    "setup": "mezzo_server.setup.command:setup",
    "doctor": "mezzo_server.doctor.command:doctor",
    "serve": "mezzo_server.commands.serve:serve",
    "shard": "mezzo_server.commands.shard:shard",
    "frontend": "mezzo_server.commands.frontend:frontend",
    "check": "mezzo_server.commands.check:check",
}
"""Where each is."""
GROUPS = {
    "config": "mezzo_server.commands.config:register_config",
    "tenant": "mezzo_server.commands.tenant:register_tenant",
    "namespace": "mezzo_server.commands.namespace:register_namespace",
    "credential": "mezzo_server.commands.credential:register_credential",
    "key": "mezzo_server.commands.key:register_key",
    "meta": "mezzo_server.commands.meta:register_meta",
    "pod": "mezzo_server.commands.pod:register_pod",
    "simulate": "mezzo_server.commands.simulate:register_simulate",
}
"""What adds those that have commands below them (and `mezzo locate`, which is with `pod`)."""
WITH = {"locate": "pod"}


def register(app: typer.Typer, wanted: str = "") -> None:
    """Add the server's commands to the command line (entry point group ``mezzo.commands``).

    ``wanted``: the command that is about to run; if it is one of these there is no other, since to import them all
    takes longer than most of them.

    Raises:
        ImportError: the server extra is not installed; what helps then is there nevertheless.
    """
    wanted = WITH.get(wanted, wanted)
    alone = wanted in COMMANDS or wanted in GROUPS
    for name, place in COMMANDS.items():
        if name == wanted or not alone:
            app.command(name)(_at(place))
    for name, place in GROUPS.items():
        if name == wanted or not alone:
            _at(place)(app)


def _at(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def main() -> None:
    """``python -m mezzo_server``: the server's commands alone."""
    from mezzo.cli.app import run

    arguments = sys.argv[1:]

    def make() -> typer.Typer:
        app = typer.Typer(
            name="mezzo_server",
            help="Mezzo's server.",
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        app.callback()(lambda: None)
        register(app, arguments[0] if arguments else "")
        return app

    sys.exit(run(make, arguments))


__all__ = ["main", "register"]
