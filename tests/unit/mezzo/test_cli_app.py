"""The command line: which commands there are, and what errors look like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest
import typer

from mezzo.cli.app import (
    ENTRY_POINT_GROUP,
    OWN_COMMANDS,
    PANELS,
    SERVER_COMMANDS,
    entry_points_of,
    make_app,
    make_overview,
    missing,
    run,
)
from mezzo.errors import Busy, InvalidArgument, MezzoError, Unavailable


class Entry(EntryPoint):
    """An entry point whose loading does what the test wants."""

    def load(self) -> object:
        return LOADS[self.name]()


LOADS: dict[str, Callable[[], object]] = {}


def installed(name: str, load: Callable[[], object]) -> Entry:
    LOADS[name] = load
    return Entry(name=name, value=f"{name}.cli:register", group="mezzo.commands")


def fail(error: Exception) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(make_app, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("mezzo ")


@pytest.mark.parametrize(
    "command",
    ["put", "get", "lookup", "rm", "stat", "top", "replay", "demo", "bench", "workload", "completion"],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: make_app([]), [command, "--help"]) == 0
    assert f"mezzo {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", OWN_COMMANDS)
def test_a_command_of_ours_needs_no_other(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = make_app([installed("other", lambda: pytest.fail("not wanted"))], wanted=command)
    assert len(alone.registered_commands) + len(alone.registered_groups) == 1
    assert run(lambda: alone, [command, "--help"]) == 0
    assert f"mezzo {command}" in capsys.readouterr().out


def test_whatever_else_is_wanted_brings_all(capsys: pytest.CaptureFixture[str]) -> None:
    # Of the server's, "tenant", nothing is installed here.
    for wanted in ("", "--help", "nothing", "tenant"):
        app = make_app([], wanted=wanted)
        assert len(app.registered_commands) + len(app.registered_groups) == len(OWN_COMMANDS)


@pytest.mark.parametrize("command", SERVER_COMMANDS)
def test_a_command_of_the_servers_needs_no_other(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    alone = make_app(wanted=command)
    names = {one.name for one in [*alone.registered_commands, *alone.registered_groups]}
    assert names in ({command}, {"pod", "locate"})
    assert run(lambda: alone, [command, "--help"]) == 0
    assert f"mezzo {command}" in capsys.readouterr().out


def test_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    run(lambda: make_app([]), [])
    shown = capsys.readouterr()
    assert "replay" in shown.out + shown.err


def test_what_is_shown_without_a_command_is_what_the_commands_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no sentence is cut
    server = tuple(entry_points_of(ENTRY_POINT_GROUP))
    for there in ((), server):
        shown = []
        for make in (make_overview, make_app):
            assert run(lambda: make(there), ["--help"]) == 0  # noqa: B023
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]
        assert (" tenant " in shown[0]) is bool(there)


def test_without_the_server_extra_what_is_shown_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mezzo.cli.overview.find_spec", lambda name: None)
    absent = installed("server", fail(ModuleNotFoundError("No module named 'uvloop'", name="uvloop")))
    run(lambda: make_overview([absent]), ["--help"])
    assert "(Not installed.)" in capsys.readouterr().out


def test_to_show_what_commands_there_are_imports_none_of_them() -> None:
    """Nor what they need: that is most of the time that it would take."""
    script = (
        "import sys\n"
        "from mezzo.cli.app import main\n"
        "sys.argv = ['mezzo', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    code = done.code\n"
        "print(code, *sys.modules, file=sys.stderr)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert " put " in done.stdout
    packages = {name.partition(".")[0] for name in modules}
    assert packages.isdisjoint(
        {"mezzo_server", "grpc", "google", "numpy", "asyncio", "cryptography", "structlog"}
    )
    ours = {
        name for name in modules if name.startswith("mezzo.") and name not in ("mezzo.cli", "mezzo.errors")
    }
    assert ours <= {"mezzo.cli.app", "mezzo.cli.output", "mezzo.cli.overview"}


def test_headings_have_an_order_whatever_has_commands_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    run(make_app, ["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert shown.index(" key ") < shown.index(" tenant ") < shown.index(" put ")


def test_commands_of_other_packages(capsys: pytest.CaptureFixture[str]) -> None:
    def register(app: typer.Typer) -> None:
        @app.command("hello")
        def hello() -> None:
            sys.stdout.write("hello yourself\n")

    assert run(lambda: make_app([installed("other", lambda: register)]), ["hello"]) == 0
    assert capsys.readouterr().out == "hello yourself\n"


@pytest.mark.parametrize("command", ["shard", "check"])
def test_without_the_server_extra_its_commands_say_what_to_install(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = installed("server", fail(ModuleNotFoundError("No module named 'uvloop'", name="uvloop")))
    assert run(lambda: make_app([absent]), [command, "--device", "x", "--capacity", "1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        f"mezzo: mezzo {command}: this needs the Python module uvloop: pip install 'mezzo[server]'"
    ]


def test_what_registered_before_an_import_failed_stays(capsys: pytest.CaptureFixture[str]) -> None:
    def register(app: typer.Typer, wanted: str) -> None:
        @app.command("doctor")
        def doctor() -> None:
            sys.stdout.write("here\n")

        raise ModuleNotFoundError("No module named 'structlog'", name="structlog")

    def make() -> typer.Typer:
        return make_app([installed("server", lambda: register)])

    assert run(make, ["doctor"]) == 0
    assert capsys.readouterr().out == "here\n"
    assert run(make, ["serve"]) == 2
    assert "pip install" in capsys.readouterr().err


def test_commands_have_headings(capsys: pytest.CaptureFixture[str]) -> None:
    def register(app: typer.Typer) -> None:
        app.command("zebra")(lambda: None)

    run(lambda: make_app([installed("other", lambda: register)]), ["--help"])
    shown = capsys.readouterr().out
    places = [
        shown.index(word)
        for word in (" Use ", " put ", " Inspect ", " stat ", " Shell ", " More ", " zebra ")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("error", [ImportError("no part of it"), RuntimeError("broken")])
def test_a_broken_extension_takes_nothing_else_away(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: make_app([installed("other", fail(error))]), ["--version"]) == 0
    shown = capsys.readouterr()
    assert "the commands of other.cli:register are left out" in shown.err
    assert str(error) in shown.err
    assert shown.out.startswith("mezzo ")


def raising(error: BaseException) -> Callable[[], typer.Typer]:
    def make() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def command() -> None:
            raise error

        return app

    return make


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InvalidArgument("salt: too long"), "mezzo: salt: too long"),
        (Unavailable("cannot reach\n unix:///x"), "mezzo: cannot reach unix:///x"),
        (Busy(), "mezzo: busy"),
        (MezzoError(), "mezzo: MezzoError"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "mezzo: /x: No such file or directory"),
        (ModuleNotFoundError("x", name="numpy.linalg"), "mezzo: this needs the Python module numpy: pip install 'mezzo[replay]'"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_status_2(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error), []) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == told + "\n"


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()), [])


def test_exit_status_of_a_command() -> None:
    assert run(raising(typer.Exit(1)), []) == 1
    assert run(raising(typer.Exit()), []) == 0


def test_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(KeyboardInterrupt()), []) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_unknown_modules_are_reported_as_they_are() -> None:
    assert (
        missing(ImportError("cannot import name 'x' from 'y'"))
        == "cannot import: cannot import name 'x' from 'y'"
    )


def test_usage_errors_have_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: make_app([]), ["replay", "--block", "64Q"]) == 2
    assert "is no size" in capsys.readouterr().err
    assert run(lambda: make_app([]), ["nothing"]) == 2


def test_no_colours_where_none_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    run(raising(InvalidArgument("wrong")), [])
    run(lambda: make_app([]), ["--help"])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
