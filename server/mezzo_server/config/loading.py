"""Settings of a node from a TOML file, the environment and flags.

Later wins: built-in defaults, the file, ``MEZZO_<TABLE>_...`` variables, flags.  A key that is not
in the schema is refused, with where it belongs or the nearest one that is.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mezzo.errors import InvalidArgument
from mezzo_server.config.keys import ENV_PREFIX, Key, keys, tables
from mezzo_server.config.rules import check_together
from mezzo_server.config.schema import NodeConfig
from mezzo_server.config.values import from_text, from_toml

FILE_BYTES_MAX = 1024 * 1024

# Kubernetes tells every pod of a namespace about services by such variables; a service that is named
# mezzo-shard must not keep its own pods from starting.
_SERVICE_LINK = re.compile(
    r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each came from."""

    config: NodeConfig
    origins: Mapping[str, str]
    """by the name of a key: ``default``, the file, the variable, or ``flag``"""


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Settings from a TOML file, the environment and flags (nested as the file; ``None``: not given).

    Raises:
        InvalidArgument: unreadable file, unknown key, wrong type or value; the message names it.
    """
    return load_with_origins(path, environ, flags).config


def load_with_origins(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    flag_names: Mapping[str, str] | None = None,
    process: str = "supervisor",
) -> Loaded:
    """As `load`, with where each setting came from.

    ``flag_names`` tells what a key's flag is called; ``process`` which one they are for (`check_together`).
    """
    values: dict[str, object] = {}
    origins = dict.fromkeys(keys(), "default")
    if path is not None:
        for key, value in _flat(read_toml(path), str(path)):
            values[key.name] = _judged(str(path), from_toml, key, value)
            origins[key.name] = str(path)
    for key, variable, text in _from_environ(environ or {}):
        values[key.name] = _judged(variable, from_text, key, text)
        origins[key.name] = variable
    named = {key: f"flag {flag}" for key, flag in (flag_names or {}).items()}
    for key, value in _flat(flags or {}, "flags"):
        if value is not None:
            judge = from_text if isinstance(value, str) and not key.is_list else from_toml
            values[key.name] = _judged(named.get(key.name, "flag"), judge, key, value)
            origins[key.name] = named.get(key.name, "flag")
    config = msgspec.convert(nested(values), NodeConfig)
    check_together(config, process)
    return Loaded(config, origins)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InvalidArgument: it cannot be read, or is no TOML; the message says where.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InvalidArgument(f"cannot read {path}: {error}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise InvalidArgument(f"{path} is over {FILE_BYTES_MAX} bytes: that is no file of settings")
    try:
        return tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidArgument(f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at line {line}") from None
    except RecursionError:
        raise InvalidArgument(f"{path} is not valid TOML: nested too deeply") from None
    except ValueError as error:
        told = str(error)
        if told.startswith(("Cannot overwrite a value", "Cannot declare", "Cannot mutate")):
            told = f"a key or table is there twice: {told}"
        raise InvalidArgument(f"{path} is not valid TOML: {told}") from None


def env_names() -> dict[str, tuple[str, ...]]:
    """Each environment variable and the path of the key that it sets."""
    return {key.variable: key.path for key in keys().values()}


def _judged(where: str, judge: Any, key: Key, value: object) -> object:
    try:
        return judge(key, value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {error}") from None


def _flat(table: Mapping[str, Any], where: str, path: tuple[str, ...] = ()) -> list[tuple[Key, object]]:
    """The keys of a table and of those in it, with their values."""
    found: list[tuple[Key, object]] = []
    for name, value in table.items():
        inner = (*path, name)
        key = keys().get(".".join(inner)) if "." not in name else None
        if key is not None:
            if isinstance(value, Mapping):
                raise InvalidArgument(f"{where}: {key.name} is a value, not a table: {key.expected}")
            if key.is_list and isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
                raise InvalidArgument(f"{where}: {key.name} is a list of texts, not of tables")
            found.append((key, value))
        elif inner in tables():
            if not isinstance(value, Mapping):
                raise InvalidArgument(f"{where}: {'.'.join(inner)} is a table: write [{'.'.join(inner)}]")
            found += _flat(value, where, inner)
        else:
            raise InvalidArgument(f"{where}: {_unknown(inner, is_table=isinstance(value, Mapping))}")
    return found


def _unknown(path: tuple[str, ...], *, is_table: bool) -> str:
    """What to say about a name that the schema does not have there."""
    name = path[-1]
    if is_table:
        homes = [f"[{'.'.join(table)}]" for table in tables() if table and table[-1] == name]
        if homes:
            return f"the table [{'.'.join(path)}] is {' or '.join(homes)}"
    homes = [f"[{'.'.join(key.path[:-1])}]" for key in keys().values() if key.path[-1] == name]
    if homes:
        place = f"not into [{'.'.join(path[:-1])}]" if len(path) > 1 else "not before the first table"
        return f"{name!r} belongs into {' or '.join(homes)}, {place}"
    here = [field.name for field in msgspec.structs.fields(tables()[path[:-1]])]
    close = difflib.get_close_matches(name, here, n=1)
    if not close:
        # Nothing like it here; perhaps it is elsewhere, slightly misspelt.
        known = {key.path[-1]: key.name for key in keys().values()}
        close = [known[near] for near in difflib.get_close_matches(name, known, n=1, cutoff=0.75)]
    if not close:
        close = difflib.get_close_matches(name, here, n=1, cutoff=0.0)
    place = f" in [{'.'.join(path[:-1])}]" if len(path) > 1 else ""
    return f"unknown key {name!r}{place}" + (f"; did you mean {close[0]!r}?" if close else "")


def _from_environ(environ: Mapping[str, str]) -> list[tuple[Key, str, str]]:
    by_variable = {key.variable: key for key in keys().values()}
    # Other variables begin with MEZZO_ too (MEZZO_DISABLE of the SDK); those of a table are ours to judge.
    prefixes = tuple(f"{ENV_PREFIX}{path[0].upper()}_" for path in tables() if path)
    found = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(prefixes):
            continue
        key = by_variable.get(variable)
        if key is not None:
            found.append((key, variable, text))
        elif not _SERVICE_LINK.search(variable):
            near = difflib.get_close_matches(variable, by_variable, n=1, cutoff=0.0)[0]
            raise InvalidArgument(f"environment: unknown variable {variable!r}; did you mean {near!r}?")
    return found


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Values by the names of their keys, as tables within tables."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        table = result
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return result
