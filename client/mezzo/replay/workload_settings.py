"""Reads workload parameters from a preset, a TOML file and ``name=value`` pairs, and lists them all.

What is wrong is told with the parameter's dotted name and what would be right.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo.replay import workload_config
from mezzo.replay.presets import PRESETS
from mezzo.replay.workload_config import Amount, WorkloadConfig, check

FILE_BYTES_MAX = 1024**2
VALUE_CHARACTERS_MAX = 1000


class Parameter(Struct, frozen=True):
    """One parameter, as documentation shows it."""

    name: str
    """dotted: ``conversations.think_s``"""
    value: str
    """as TOML writes it"""
    meaning: str
    bounds: str
    """what its values are limited to"""


def load_config(
    preset: str = "chat", path: Path | None = None, changes: Sequence[str] = (), name: str = "--set"
) -> WorkloadConfig:
    """The preset, changed by the file, changed by ``changes`` (``dotted.name=value``, values as TOML).

    In both, an amount that is given as a number is always that number, one that is given with its
    median is given anew, and of any other only what is named changes. A file's key ``preset`` takes
    the place of ``preset``. Raises `InvalidArgument`.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(path)
        preset = values.pop("preset", preset)
    if preset not in tuple(PRESETS):
        raise InvalidArgument(f"preset {preset!r}: there is none; there are {', '.join(PRESETS)}")
    made = msgspec.to_builtins(PRESETS[preset])
    _merge(made, values, f"{path}: " if path is not None else "", "")
    for change in changes:
        _merge(made, _nested(change, name), f"{name} {change}: ", "")
    try:
        config = msgspec.convert(made, WorkloadConfig)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        raise InvalidArgument(f"workload: {place.strip('`').lstrip('.')}: {problem}") from error
    check(config)
    return config


def parameters(config: WorkloadConfig | None = None) -> tuple[Parameter, ...]:
    """Every parameter but the fields of amounts, in the order of the schema.

    With the values of ``config``, or else with their defaults.
    """
    return tuple(_parameters(config if config is not None else WorkloadConfig(), ""))


def commented_toml(config: WorkloadConfig) -> str:
    """Every parameter as a file that `load_config` reads, with limits and meanings as comments."""
    lines: list[str] = []
    table = ""
    for one in parameters(config):
        above, _, name = one.name.rpartition(".")
        if above != table:
            table = above
            lines += ["", f"[{table}]"]
        lines += textwrap.wrap(
            f"{one.meaning} ({one.bounds})", 100, initial_indent="# ", subsequent_indent="# "
        )
        lines.append(f"{name} = {one.value}")
    return "\n".join(lines) + "\n"


def amount_fields() -> tuple[Parameter, ...]:
    """The fields that every amount has."""
    return tuple(_parameters(Amount(median=0), ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise InvalidArgument(
                f"{path}: over {FILE_BYTES_MAX} bytes: this is no file of workload parameters"
            )
        return tomllib.loads(content.decode())
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: not TOML: {error}") from error


def _nested(change: str, name: str) -> dict[str, Any]:
    dotted, equals, text = change.partition("=")
    if not equals or not dotted.strip() or len(change) > VALUE_CHARACTERS_MAX:
        raise InvalidArgument(f"{name} {change[:80]}: write name=value, conversations.go_on=0.5 for example")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(
            f"{name} {change}: {text.strip()!r} is no value: a number such as 0.5, or "
            "{median = 60, sigma = 1.0} for an amount"
        ) from error
    for part in reversed(dotted.strip().split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _merge(target: dict[str, Any], changes: dict[str, Any], where: str, above: str) -> None:
    """Write ``changes`` over ``target``, which has every name that there is."""
    for name, value in changes.items():
        dotted = f"{above}{name}"
        if name not in target:
            near = difflib.get_close_matches(name, target, n=1)
            hint = f"did you mean {above}{near[0]}?" if near else f"there are {', '.join(target)}"
            raise InvalidArgument(f"{where}{dotted}: no such parameter; {hint}")
        present = target[name]
        if not isinstance(present, dict):
            target[name] = value
        elif isinstance(value, dict):
            if "median" in present and "median" in value:
                present.update(msgspec.to_builtins(Amount(median=0)))
            _merge(present, value, where, f"{dotted}.")
        elif "median" in present and isinstance(value, int | float) and not isinstance(value, bool):
            target[name] = {"median": value}
        else:
            raise InvalidArgument(f"{where}{dotted}: {value!r} is no table; it has {', '.join(present)}")


def _parameters(values: Struct, above: str) -> Iterator[Parameter]:
    kind = type(values)
    meanings = _field_docstrings(kind)
    hints = get_type_hints(kind, include_extras=True)
    for name in kind.__struct_fields__:
        value = getattr(values, name)
        if isinstance(value, Struct) and not isinstance(value, Amount):
            yield from _parameters(value, f"{above}{name}.")
        else:
            yield Parameter(f"{above}{name}", _as_toml(value), meanings[name], _bounds(hints[name]))


def _as_toml(value: object) -> str:
    if not isinstance(value, Amount):
        return f"{value:g}" if isinstance(value, float) else str(value)
    plain = Amount(median=value.median)
    shown = [
        f"{field} = {getattr(value, field):g}"
        for field in Amount.__struct_fields__
        if field == "median" or getattr(value, field) != getattr(plain, field)
    ]
    return f"{{{', '.join(shown)}}}" if len(shown) > 1 else f"{value.median:g}"


def _bounds(hint: Any) -> str:
    for meta in get_args(hint)[1:]:
        if isinstance(meta, msgspec.Meta):
            low = f"{meta.ge:,}" if meta.ge is not None else f"over {meta.gt:,}"
            high = f"{meta.le:,}" if meta.le is not None else f"under {meta.lt:,}"
            return f"{low} to {high}"
    return "an amount, 0 or more"


def _field_docstrings(kind: type[Struct]) -> dict[str, str]:
    """The string below each field of a class of the schema."""
    tree = ast.parse(inspect.getsource(workload_config))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    found: dict[str, str] = {}
    field = ""
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            field = statement.target.id
        elif (
            field
            and isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ):
            found[field] = " ".join(statement.value.value.split())
            field = ""
    return found
