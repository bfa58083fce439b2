"""What review should not have to look for: banned calls, dead files, leaks of a private place.

Each check reads the tree as it is tracked, so that the tests of a checkout judge that checkout.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "client" / "mezzo", ROOT / "server" / "mezzo_server")

LINES_MAX = 500

# What is banned, and what to do instead.
BANNED_IMPORTS = {
    "pickle": "msgspec",
    "marshal": "msgspec",
    "shelve": "the block store, or a file of msgspec",
    "dill": "msgspec",
    "yaml": "TOML through msgspec",
}
BANNED_CALLS = {
    "eval": "a parser",
    "exec": "a function",
    "os.system": "subprocess with a list of arguments",
    "os.popen": "subprocess with a list of arguments",
    "datetime.utcnow": "datetime.now(UTC)",
    "print": "mezzo.cli.output, or the logger",
    "breakpoint": "nothing",
}
# Modules that decide: time and randomness are handed to them. What they may import is in pyproject.toml.
DECIDING = (
    "client/mezzo/identity.py",
    "client/mezzo/kvsize/",
    "client/mezzo/protocol/",
    "client/mezzo/operations.py",
    "client/mezzo/routing.py",
    "client/mezzo/session.py",
    "client/mezzo/spread.py",
    "server/mezzo_server/access/authentication.py",
    "server/mezzo_server/access/jwt.py",
    "server/mezzo_server/access/keyring.py",
    "server/mezzo_server/access/keysets.py",
    "server/mezzo_server/access/mtls.py",
    "server/mezzo_server/access/principal.py",
    "server/mezzo_server/access/tickets.py",
    "server/mezzo_server/access/tokens.py",
    "server/mezzo_server/blockstore/",
    "server/mezzo_server/events/",
    "server/mezzo_server/hot/arenas.py",
    "server/mezzo_server/hot/policy.py",
    "server/mezzo_server/hot/slots.py",
    "server/mezzo_server/hot/tier.py",
    "server/mezzo_server/pod/membership.py",
    "server/mezzo_server/pod/plan.py",
    "server/mezzo_server/pod/plan_format.py",
    "server/mezzo_server/pod/planning.py",
    "server/mezzo_server/pod/records.py",
    "server/mezzo_server/pod/standing.py",
    "server/mezzo_server/pod/steps.py",
    "server/mezzo_server/pod/table.py",
    "server/mezzo_server/pod/tuning.py",
    "server/mezzo_server/pod/view.py",
    "server/mezzo_server/quota/",
    "server/mezzo_server/shard/admission.py",
    "server/mezzo_server/shard/directory.py",
    "server/mezzo_server/shard/hello.py",
    "server/mezzo_server/shard/leases.py",
    "server/mezzo_server/shard/naming.py",
    "server/mezzo_server/shard/service.py",
    "server/mezzo_server/shard/turns.py",
    "server/mezzo_server/pod/local.py",
    "server/mezzo_server/pod/plan.py",
    "server/mezzo_server/supervisor/cores.py",
    "server/mezzo_server/supervisor/devices.py",
    "server/mezzo_server/supervisor/pinning.py",
    "server/mezzo_server/supervisor/plan.py",
    "server/mezzo_server/supervisor/settings.py",
    "server/mezzo_server/tenancy/catalog.py",
    "server/mezzo_server/tenancy/credentials.py",
    "server/mezzo_server/tenancy/entries.py",
    "server/mezzo_server/tenancy/following.py",
    "server/mezzo_server/tenancy/lifetime.py",
    "server/mezzo_server/tenancy/loading.py",
    "server/mezzo_server/tenancy/model.py",
    "server/mezzo_server/tenancy/records.py",
    "server/mezzo_server/tenancy/registry.py",
    "server/mezzo_server/tenancy/standing.py",
    "server/mezzo_server/tenancy/tokens.py",
)
NOT_DECIDING = ("server/mezzo_server/blockstore/devices/", "server/mezzo_server/blockstore/sync.py")
PURE_CALLS = {"os.strerror"}


def tracked() -> list[Path]:
    """Files of the checkout; in an unpacked source release, all of its files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not set(path.parts) & {".venv", ".git"}]


FILES = tracked()
SOURCES = [
    path
    for path in FILES
    if path.suffix == ".py"
    and any(root in path.parents for root in PACKAGES)
    and not path.name.endswith("_pb2.py")  # generated from proto/
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def seen(path: Path) -> tuple[list[str], set[str]]:
    """What is wrong in a file, and what it calls. No tree is kept: many of them make the collector slow."""
    tree = ast.parse(path.read_text())
    return list(offences(tree)), {dotted(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Assert):
            yield f"line {line}: assert is stripped by -O: raise an error that says what is wrong"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (name := alias.name.partition(".")[0]) in BANNED_IMPORTS:
                    yield f"line {line}: {name}: use {BANNED_IMPORTS[name]}"
        if (
            isinstance(node, ast.ImportFrom)
            and (name := (node.module or "").partition(".")[0]) in BANNED_IMPORTS
        ):
            yield f"line {line}: {name}: use {BANNED_IMPORTS[name]}"
        if isinstance(node, ast.Call):
            if (name := dotted(node.func)) in BANNED_CALLS:
                yield f"line {line}: {name}: use {BANNED_CALLS[name]}"
            if any(k.arg == "shell" and getattr(k.value, "value", True) for k in node.keywords):
                yield f"line {line}: shell=: use a list of arguments"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"line {line}: a bare except: name what is caught"


def test_a_file_is_one_idea() -> None:
    texts = {named(path): path.read_text() for path in SOURCES}
    counts = {name: text.count("\n") for name, text in texts.items()}
    long = {name: count for name, count in counts.items() if count > LINES_MAX}
    assert long == {}, "a file that needs sections is two files"
    silent = [name for name, text in texts.items() if text and not text.startswith('"""')]
    assert silent == [], "it opens with a docstring that says what it is"


def test_nothing_banned() -> None:
    found = {named(path): seen(path)[0] for path in SOURCES}
    assert {name: told for name, told in found.items() if told} == {}


def test_what_decides_looks_at_nothing() -> None:
    guilty = []
    for path in SOURCES:
        if not named(path).startswith(DECIDING) or named(path).startswith(NOT_DECIDING):
            continue
        called = seen(path)[1]
        looks = {name for name in called if name.startswith(("os.", "random.", "secrets.", "time."))}
        guilty += [f"{named(path)}: {name}" for name in (looks | called & {"open"}) - PURE_CALLS]
    assert guilty == []


def test_the_check_finds_what_it_is_for() -> None:
    guilty = "import pickle\nassert x\nprint(1)\nos.system('x')\nrun('x', shell=True)\ntry:\n  f()\nexcept:\n  pass\n"
    found = sorted(text.partition(":")[0] for text in offences(ast.parse(guilty)))
    assert found == ["line 1", "line 2", "line 3", "line 4", "line 5", "line 8"]
    assert list(offences(ast.parse("import msgspec\nrun(['x'], shell=False)\nprinter(1)\n"))) == []


def modules_named(text: str) -> set[str]:
    """All modules of ours that a text imports or names, and what it takes from them."""
    names = set(re.findall(r"\bmezzo(?:_server)?(?:\.\w+)+", text))
    for package, taken in re.findall(r"\bfrom (mezzo[\w.]*) import (\([^)]*\)|[^\n]*)", text):
        names |= {f"{package}.{name}" for name in re.findall(r"\w+", taken)}
    return {name.rsplit(".", cut)[0] for name in names for cut in range(name.count("."))}


def test_every_module_is_used() -> None:
    """A module that nothing imports, starts or names is dead."""
    used: set[str] = set()
    for path in FILES:
        if path.suffix in {".py", ".toml", ".pyx"}:
            used |= modules_named(path.read_text(errors="replace"))
    dead = []
    for path in SOURCES:
        root = next(root for root in PACKAGES if root in path.parents)
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if path.name not in {"__init__.py", "__main__.py"} and module not in used:
            dead.append(module)
    assert dead == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
    texts = (
        (path, path.read_text(errors="replace"))
        for path in FILES
        if path.suffix in {".py", ".pyx", ".c", ".h"}
    )
    assert [named(path) for path, text in texts if words.search(text)] == []


def test_no_private_place_is_named() -> None:
    """No path of the machine on which it was written, no address of an index of packages."""
    private = re.compile("/wo" + r"rk/(main|shared)|index-" + "url|find-" + "links")
    allowed = {"requirements/compile"}  # names the options that leave such addresses out
    guilty = []
    for path in FILES:
        if named(path) in allowed or path.suffix in {".png", ".gif", ".bin"}:
            continue
        if private.search(path.read_text(errors="replace")):
            guilty.append(named(path))
    assert guilty == []


def test_requirements_are_pinned_by_hash() -> None:
    compiled = [path for path in FILES if path.parent.name == "requirements" and path.suffix == ".txt"]
    assert compiled
    for path in compiled:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith((" ", "#"))]
        assert lines
        assert all("==" in line and line.endswith("\\") for line in lines), named(path)


def test_documents_link_to_what_is_there() -> None:
    broken = []
    for path in FILES:
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
                broken.append(f"{named(path)}: {target}")
    assert broken == []
