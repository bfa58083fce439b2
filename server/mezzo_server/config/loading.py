"""Settings of a node from a TOML file, the environment and flags.

Later wins: built-in defaults, the file, ``MEZZO_<TABLE>_...`` variables, flags.  A key that is not
in the schema is refused, with the nearest one that is.  Sizes may be numbers of bytes or text such as
``"4GiB"``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo.sizes import parse_size
from mezzo_server.config.schema import NodeConfig

ENV_PREFIX = "MEZZO_"


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Settings from a TOML file, the environment and flags (``None`` values are not set).

    Raises:
        InvalidArgument: unreadable file, unknown key, wrong type or value; the message names it.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"{path} is not valid TOML: {error}") from None
    _check_keys(merged, NodeConfig, str(path))
    _merge(merged, _from_environ(environ or {}))
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _check_keys(given, NodeConfig, "flags")
    _merge(merged, given)
    _parse_sizes(merged, NodeConfig, "")
    try:
        config = msgspec.convert(merged, NodeConfig, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"configuration: {error}") from None
    _check_together(config)
    return config


def env_names() -> dict[str, tuple[str, ...]]:
    """Each environment variable and the path of the key that it sets."""
    return {ENV_PREFIX + "_".join(path).upper(): path for path in _paths(NodeConfig)}


def _paths(schema: type[Struct], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(schema):
        path = (*prefix, field.name)
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _paths(field.type, path)
        else:
            yield path


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    names = env_names()
    # Other variables begin with MEZZO_ too (MEZZO_DISABLE of the SDK); those of a table are ours to judge.
    tables = tuple(f"{ENV_PREFIX}{field.name.upper()}_" for field in msgspec.structs.fields(NodeConfig))
    result: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(tables):
            continue
        if name not in names:
            raise InvalidArgument(f"environment: {_unknown(name, names)}")
        path = names[name]
        table = result
        for part in path[:-1]:
            table = table.setdefault(part, {})
        is_list = path in (("shard", "listen"), ("shard", "devices"))
        table[path[-1]] = [item for item in text.split(",") if item] if is_list else text
    return result


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for name, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = dict(value) if isinstance(value, Mapping) else value


def _check_keys(table: Mapping[str, Any], schema: type[Struct], where: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(schema)}
    for name, value in table.items():
        if name not in fields:
            raise InvalidArgument(f"{where}: {_unknown(name, fields)}")
        inner = fields[name]
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, Struct):
            _check_keys(value, inner, f"{where}, [{name}]")


def _unknown(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _parse_sizes(table: dict[str, Any], schema: type[Struct], prefix: str) -> None:
    """Turn texts of keys with ``bytes`` in their name into numbers."""
    for name, value in table.items():
        if isinstance(value, dict):
            _parse_sizes(value, schema, f"{prefix}{name}.")
        elif "bytes" in name and isinstance(value, str):
            try:
                table[name] = parse_size(value)
            except InvalidArgument as error:
                raise InvalidArgument(f"{prefix}{name}: {error}") from None


def _check_together(config: NodeConfig) -> None:
    """Rules between keys."""
    if not config.shard.listen:
        raise InvalidArgument("shard.listen: at least one address is needed")
    limits = config.shard.limits
    if limits.staging_connection_bytes_max > limits.staging_bytes:
        raise InvalidArgument(
            f"shard.limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}) is over "
            f"shard.limits.staging_bytes ({limits.staging_bytes})"
        )
    if limits.chunk_bytes_max > limits.staging_connection_bytes_max:
        raise InvalidArgument(
            f"shard.limits.chunk_bytes_max ({limits.chunk_bytes_max}) is over "
            f"shard.limits.staging_connection_bytes_max ({limits.staging_connection_bytes_max}): "
            "such a chunk could never be put over tcp"
        )
