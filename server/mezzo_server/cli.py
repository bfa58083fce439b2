"""The server's commands of ``mezzo``."""

from __future__ import annotations

import sys

import typer

from mezzo_server.doctor.command import doctor
from mezzo_server.setup.command import setup


def register(app: typer.Typer) -> None:
    """Add the server's commands to the command line (entry point group ``mezzo.commands``).

    Raises:
        ImportError: the server extra is not installed; what helps then is there nevertheless.
    """
    app.command("setup")(setup)
    app.command("doctor")(doctor)
    from mezzo_server.commands.check import check
    from mezzo_server.commands.config import register_config
    from mezzo_server.commands.credential import register_credential
    from mezzo_server.commands.frontend import frontend
    from mezzo_server.commands.key import register_key
    from mezzo_server.commands.meta import register_meta
    from mezzo_server.commands.namespace import register_namespace
    from mezzo_server.commands.pod import register_pod
    from mezzo_server.commands.serve import serve
    from mezzo_server.commands.shard import shard
    from mezzo_server.commands.simulate import register_simulate
    from mezzo_server.commands.tenant import register_tenant

    app.command("serve")(serve)
    app.command("shard")(shard)
    app.command("frontend")(frontend)
    app.command("check")(check)
    register_config(app)
    register_tenant(app)
    register_namespace(app)
    register_credential(app)
    register_key(app)
    register_meta(app)
    register_pod(app)
    register_simulate(app)


def main() -> None:
    """``python -m mezzo_server``: the server's commands alone."""
    from mezzo.cli.app import run

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
        register(app)
        return app

    sys.exit(run(make, sys.argv[1:]))


__all__ = ["main", "register"]
