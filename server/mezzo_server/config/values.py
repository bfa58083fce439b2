"""One value at a time: from TOML, or from a text of the environment or of a flag, to what the schema says."""

from __future__ import annotations

import math

import msgspec
from msgspec import inspect as shape

from mezzo.durations import parse_duration
from mezzo.errors import InvalidArgument
from mezzo.sizes import SIZE_BYTES_MAX, parse_size
from mezzo_server.config.keys import Key

SHOWN_LETTERS_MAX = 60

TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")


def from_toml(key: Key, value: object) -> object:
    """The value of a key as it stood in a file, or as a program gave it.

    Raises:
        InvalidArgument: wrong type, or out of range; names the key, the value and what is right.
    """
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, str) and "\0" in text for text in texts):
        raise refused(key, value)
    if isinstance(value, str) and key.unit:
        return from_text(key, value)
    if isinstance(value, bool) != key.is_bool or (isinstance(value, float) and not math.isfinite(value)):
        raise refused(key, value)
    if isinstance(value, int) and abs(value) > SIZE_BYTES_MAX:
        raise refused(key, value)
    try:
        return msgspec.convert(value, key.annotation, strict=True)
    except msgspec.ValidationError:
        raise refused(key, value) from None


def from_text(key: Key, text: str) -> object:
    """The value of a key as it stands in a variable or a flag; lists are separated by commas.

    Raises:
        InvalidArgument: as `from_toml`.
    """
    if "\0" in text:
        raise refused(key, text)
    if key.is_list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if key.is_bool:
        if text.lower() not in (*TRUE, *FALSE):
            raise refused(key, text)
        return text.lower() in TRUE
    if not isinstance(key.type, shape.IntType | shape.FloatType):
        return from_toml(key, text)
    return from_toml(key, _number(key, text))


def refused(key: Key, value: object) -> InvalidArgument:
    """The error for a value that a key cannot have."""
    try:
        shown = repr(value) if isinstance(value, str) else key.shown(value)
    except (TypeError, ValueError):
        shown = str(type(value).__name__)
    if len(shown) > SHOWN_LETTERS_MAX:
        shown = shown[:SHOWN_LETTERS_MAX] + "..."
    return InvalidArgument(f"{key.name}: {shown} is not allowed: {key.expected}")


def _number(key: Key, text: str) -> int | float:
    try:
        if key.unit.startswith("bytes"):
            return parse_size(text)
        if key.unit == "seconds":
            seconds = parse_duration(text)
            return int(seconds) if isinstance(key.type, shape.IntType) else seconds
        if key.unit == "milliseconds":
            ms = round(parse_duration(text, "ms") * 1000, 6)
            if isinstance(key.type, shape.IntType) and ms != int(ms):
                raise refused(key, text)
            return int(ms) if isinstance(key.type, shape.IntType) else ms
        return int(text) if isinstance(key.type, shape.IntType) else float(text)
    except (ValueError, OverflowError):
        raise refused(key, text) from None
