"""Every key of the schema, with what is known of it: type, unit, default, range, meaning, variable.

What loads settings, the options of commands and docs/configuration.md are all made from this list.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as shape

from mezzo.sizes import format_size
from mezzo_server.config.schema import NodeConfig

ENV_PREFIX = "MEZZO_"

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    path: Path
    """tables and name, from the outermost on"""
    annotation: Any
    """its type in the schema, with the range"""
    type: shape.Type
    """what msgspec makes of that"""
    choices: tuple[str, ...]
    """the texts that it may be, in the order of the schema; empty: not that kind"""
    default: object
    meaning: str
    """in one paragraph"""

    @property
    def name(self) -> str:
        """As written in messages and documents: ``shard.limits.keys_max``."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + "_".join(self.path).upper()

    @property
    def unit(self) -> str:
        """What a number counts, by the words of its name; empty: nothing but itself."""
        words = self.path[-1].split("_")
        if not self.is_number:
            return ""
        if "bytes" in words:
            return "bytes per second" if "per" in words else "bytes"
        if "ms" in words:
            return "milliseconds"
        if "per" in words:
            return ""
        return "seconds" if "s" in words else ""

    @property
    def is_number(self) -> bool:
        """Whether it is a number, whole or not."""
        return isinstance(self.type, shape.IntType | shape.FloatType)

    @property
    def is_list(self) -> bool:
        """Whether it has several values."""
        return isinstance(self.type, shape.ListType)

    @property
    def is_bool(self) -> bool:
        """Whether it is true or false."""
        return isinstance(self.type, shape.BoolType)

    @property
    def expected(self) -> str:
        """What would be right, in words that follow a colon."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.is_list:
            return "a list of texts"
        if self.is_bool:
            return "true or false"
        if not self.is_number:
            return "a text"
        words = {
            "bytes": 'bytes, a whole number or a text such as "64MiB"',
            "bytes per second": 'bytes per second, a whole number or a text such as "16MiB"',
            "seconds": 'seconds, a number or a text such as "500ms" or "5min"',
            "milliseconds": 'milliseconds, a whole number or a text such as "5min"',
        }
        bare = "a whole number" if isinstance(self.type, shape.IntType) else "a number"
        return words.get(self.unit, bare) + self.bounds

    @property
    def bounds(self) -> str:
        """The range of a number, beginning with a comma; empty: there is none."""
        if not isinstance(self.type, shape.IntType | shape.FloatType):
            return ""
        kind, low, high = self.type, "", ""
        if kind.ge is not None:
            low = f"at least {self.shown(kind.ge)}"
        elif kind.gt is not None:
            low = f"more than {self.shown(kind.gt)}"
        if kind.le is not None:
            high = f"at most {self.shown(kind.le)}"
        return "".join(f", {part}" for part in (low, high) if part)

    def shown(self, value: object) -> str:
        """A value of this key as people would write it into the file, without quotes."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int) and self.unit.startswith("bytes"):
            return format_size(value)
        if isinstance(value, int | float):
            return f"{value:g}" if isinstance(value, float) else str(value)
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@cache
def keys() -> dict[str, Key]:
    """All keys by name, in the order of the schema."""
    return {key.name: key for key in _walk(NodeConfig, ())}


@cache
def tables() -> dict[Path, type[Struct]]:
    """All tables by path; the empty path is the file itself."""
    return dict(_tables(NodeConfig, ()))


@cache
def meanings(schema: type[Struct]) -> dict[str, str]:
    """The docstring below each field of a table, as one line of text."""
    found: dict[str, str] = {}
    for field, after in itertools.pairwise(_bodies(schema.__module__).get(schema.__name__, [])):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[field.target.id] = " ".join(after.value.value.split())
    return found


@cache
def _bodies(module: str) -> dict[str, list[ast.stmt]]:
    """What stands in each class of a module. Its source is parsed once: every command of ours waits for it."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def table_type(annotation: object) -> type[Struct] | None:
    """The schema of a field that is a table; None: it is a value."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    return None


def _tables(schema: type[Struct], path: Path) -> Iterator[tuple[Path, type[Struct]]]:
    yield path, schema
    for field in msgspec.structs.fields(schema):
        if (inner := table_type(field.type)) is not None:
            yield from _tables(inner, (*path, field.name))


def _walk(schema: type[Struct], path: Path) -> Iterator[Key]:
    told = meanings(schema)
    for field in msgspec.structs.fields(schema):
        inner = table_type(field.type)
        if inner is not None:
            yield from _walk(inner, (*path, field.name))
            continue
        choices = typing.get_args(field.type) if typing.get_origin(field.type) is typing.Literal else ()
        yield Key(
            path=(*path, field.name),
            annotation=field.type,
            type=shape.type_info(field.type),
            choices=choices,
            default=field.default if field.default is not msgspec.NODEFAULT else field.default_factory(),
            meaning=told.get(field.name, ""),
        )
