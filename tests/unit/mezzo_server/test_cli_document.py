"""docs/cli.md names every command and every option, and none that is not there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer import rich_utils
from typer.main import get_command

from mezzo.cli.app import PANELS, make_app, run
from mezzo.cli.events import EventReport
from mezzo.cli.get import GetReport, GotChunk
from mezzo.cli.kvsize import SizeReport, SizeTerm
from mezzo.cli.lookup import LookupReport
from mezzo.cli.put import PutChunk, PutReport
from mezzo.cli.rm import RemovedChunk, RemoveReport
from mezzo.cli.stat import StatChunk, StatReport
from mezzo_server.commands.admin_reports import (
    CredentialReport,
    NamespaceReport,
    NewTenantReport,
    TenantReport,
)
from mezzo_server.commands.pod_reports import LocateReport, PodReport, ShardReport
from mezzo_server.doctor import Examination, Finding
from mezzo_server.doctor.examine import Section
from mezzo_server.setup.proposal import Choice, DeviceSeen, MachineSeen, Proposal

DOCUMENT = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^### mezzo ([\w -]+)\n(.*?)(?=^##|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def commands(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str], set[str]]]:
    """Name, options that are shown, and all spellings of every command."""
    inner = getattr(command, "commands", None)
    if inner is not None:
        for name, below in inner.items():
            yield from commands(below, (*path, name))
        return
    shown, spelled = set(), {"--help"}
    for parameter in command.params:  # type: ignore[attr-defined]
        options = [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--")]
        spelled.update(options)
        if options and not parameter.hidden and "--help" not in options:
            shown.add(options[0])
    yield " ".join(path), shown, spelled


COMMAND = get_command(make_app())
COMMANDS = {name: (shown, spelled) for name, shown, spelled in commands(COMMAND)}


def test_every_command_is_named_and_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)


def test_headings_are_those_of_the_help() -> None:
    headings = re.findall(r"^## (\w+)$", DOCUMENT, re.MULTILINE)
    assert headings == list(PANELS)
    assert {name.partition(" ")[0] for name in COMMANDS} <= {
        name for names in PANELS.values() for name in names
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_named_and_no_other(name: str) -> None:
    shown, spelled = COMMANDS[name]
    prose = [line for line in SECTIONS[name].splitlines() if not line.startswith("    ")]
    named = set(OPTION.findall("\n".join(prose)))
    assert shown - named == set()
    assert named - spelled == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    examples = [line.strip() for line in SECTIONS[name].splitlines() if line.startswith("    ")]
    assert examples
    for part in re.split(r"&&|\||<\(|\)", "\n".join(examples)):
        for line in part.splitlines():
            words = shlex.split(line.strip().partition(">")[0])
            if words[:1] != ["mezzo"]:
                continue
            context = COMMAND.make_context("mezzo", words[1:], resilient_parsing=True)
            assert not context.resilient_parsing or words[1] in {
                known.partition(" ")[0] for known in COMMANDS
            }
            for word in words:
                if word.startswith("--"):
                    called = (
                        " ".join(words[1:3])
                        if words[1] in {name.partition(" ")[0] for name in COMMANDS if " " in name}
                        else words[1]
                    )
                    assert word in COMMANDS[called][1], f"{line}: {word}"


FIELDS = {
    "put": (PutReport, PutChunk), "get": (GetReport, GotChunk), "lookup": (LookupReport,),
    "events": (EventReport,), "rm": (RemoveReport, RemovedChunk), "stat": (StatReport, StatChunk), "doctor": (Examination, Section, Finding),
    "kvsize": (SizeReport, SizeTerm),
    "tenant create": (NewTenantReport,), "tenant show": (TenantReport,), "namespace show": (NamespaceReport,),
    "credential issue": (CredentialReport,),
    "pod status": (PodReport, ShardReport), "locate": (LocateReport,),
    "setup": (Proposal, MachineSeen, DeviceSeen, Choice),
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_the_json_is_named(name: str) -> None:
    told = SECTIONS[name].partition("`--json`")[2] or SECTIONS[name]
    for struct in FIELDS[name]:
        for field in msgspec.structs.fields(struct):
            assert f"`{field.encode_name}`" in told, f"{struct.__name__}.{field.name}"


def test_every_command_for_scripts_speaks_json() -> None:
    assert {name for name, (shown, _) in COMMANDS.items() if "--json" not in shown} == {
        "config docs",
        "device cancel",
    }


def test_help_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 80)
    for arguments in ([], *([*name.split(), "--help"] for name in COMMANDS)):
        run(lambda: COMMAND, [*arguments])
        shown = capsys.readouterr()
        assert max(map(len, (shown.out + shown.err).splitlines())) <= 80
