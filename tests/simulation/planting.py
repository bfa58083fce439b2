"""Bugs that are planted into the product while it is imported, to see that the simulator finds them. Never in the product.

    python -m tests.simulation.planting                          # what there is
    python -m tests.simulation.planting epoch_ignored            # the first seed that finds it
    python -m tests.simulation.planting epoch_ignored --seed 3   # that seed, with its trace

A bug is a file in `planted/`: a title, the number of seeds within which it is found, with which faults if not with any (`seeds: 300
faults=24 kinds=join,drain`), and a unified diff.  Nothing on the
disk is changed: modules that a diff names are compiled from the changed text.  A diff whose old lines are not there any
more, or are there twice, is an error that says so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PLANTED = Path(__file__).parent / "planted"
SOURCES = ("client/", "server/")


@dataclass(frozen=True)
class Hunk:
    """Lines that take the place of others."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Bug:
    """One file of `planted/`."""

    name: str
    title: str
    seeds: int
    """within which it is found"""
    options: dict[str, Any]
    """of `Options`, with which that is so; none: those of any run"""
    hunks: dict[str, list[Hunk]]
    """by the path of the file that they change"""


def names() -> list[str]:
    """Of all bugs that there are."""
    return sorted(path.stem for path in PLANTED.glob("*.patch"))


def read(name: str) -> Bug:
    """One of them."""
    title, seeds, *lines = (PLANTED / f"{name}.patch").read_text().splitlines()
    hunks: dict[str, list[Hunk]] = {}
    path, old, new = "", [], []

    def end() -> None:
        if old or new:
            hunks[path].append(Hunk(tuple(old), tuple(new)))
            old.clear()
            new.clear()

    for line in lines:
        if line.startswith("--- "):
            end()
        elif line.startswith("+++ b/"):
            path = line.removeprefix("+++ b/")
            hunks[path] = []
        elif line.startswith("@@"):
            end()
        elif path:
            if line[:1] in " -":
                old.append(line[1:])
            if line[:1] in " +":
                new.append(line[1:])
    end()
    if not hunks or not all(hunks.values()):
        raise ValueError(f"{name}.patch is no unified diff")
    number, *words = seeds.removeprefix("seeds: ").split()
    told = dict(word.split("=") for word in words)
    options: dict[str, Any] = {}
    if "faults" in told:
        options["faults"] = int(told["faults"])
    if "kinds" in told:
        options["kinds"] = tuple(told["kinds"].split(","))
    return Bug(name, title, int(number), options, hunks)


def applied(bug: Bug, path: str) -> str:
    """The text of a file with the bug in it. LookupError: the diff does not fit any more."""
    lines = (ROOT / path).read_text().splitlines()
    for hunk in bug.hunks[path]:
        count = len(hunk.old)
        places = [at for at in range(len(lines) - count + 1) if tuple(lines[at : at + count]) == hunk.old]
        if len(places) != 1:
            raise LookupError(
                f"{bug.name}.patch: its lines are in {path} {len(places)} times, not once; make it anew: "
                + " / ".join(hunk.old)[:200]
            )
        lines[places[0] : places[0] + count] = hunk.new
    return "\n".join(lines) + "\n"


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module from other text than its file's. Nothing is cached."""

    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        text = self._texts.get(fullname)
        if text is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.origin is None:
            raise ImportError(f"{fullname} is not there")
        spec.loader = _Loader(fullname, spec.origin, text)
        return spec


def module_of(path: str) -> str:
    """The module that a file is."""
    for folder in SOURCES:
        path = path.removeprefix(folder)
    return path.removesuffix(".py").replace("/", ".")


def plant(bug: Bug) -> None:
    """From now on the modules that it concerns are imported with it in them; none may have been before."""
    texts = {module_of(path): applied(bug, path) for path in bug.hunks}
    there = [name for name in texts if name in sys.modules]
    if there:
        raise ImportError(f"{', '.join(there)} was imported before the bug could be planted")
    sys.meta_path.insert(0, _Finder(texts))


def main(arguments: list[str]) -> int:
    """The command line: 0 if the bug was found."""
    if not arguments:
        for name in names():
            bug = read(name)
            sys.stdout.write(f"{name:32} within {bug.seeds:4} seeds  {bug.title}\n")
        return 0
    bug = read(arguments[0])
    plant(bug)
    from mezzo_server.testing.simulation import Options, simulate
    from mezzo_server.testing.simulation.many import play_alone

    options = Options(**bug.options)
    if arguments[1:2] == ["--seed"]:
        outcome = simulate(int(arguments[2]), options)
        sys.stdout.write("\n".join(outcome.lines) + "\n")
        return 0 if outcome.failure else 1
    for outcome in play_alone(range(bug.seeds), options):
        if outcome.failure is not None:
            sys.stdout.write(f"{bug.name}: found by seed {outcome.seed}: {outcome.failure}\n")
            return 0
    sys.stdout.write(f"{bug.name}: not found within {bug.seeds} seeds\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
