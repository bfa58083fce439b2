"""Sizes as people write them, everywhere: ``64KiB``, ``4 GiB``, ``1.5GB``, ``4096``, ``1_000``. No I/O."""

from __future__ import annotations

import re

from mezzo.errors import InvalidArgument

UNITS = {
    "": 1,
    "b": 1,
    "k": 2**10,  # bare letters are powers of 1024, as in fio, dd and qemu
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
SIZE_BYTES_MAX = 2**63 - 1

_SIZE = re.compile(r"\s*([0-9](?:_?[0-9]){0,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]{0,3})\s*")


def parse_size(text: str) -> int:
    """Bytes. Raises `InvalidArgument` for what is no size, or no whole number of bytes."""
    match = _SIZE.fullmatch(text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise InvalidArgument(f"{text!r} is no size; write for example 64KiB, 4GiB or a number of bytes")
    nbytes = float(match[1]) * unit if "." in match[1] else int(match[1]) * unit
    if nbytes != int(nbytes) or nbytes > SIZE_BYTES_MAX:
        raise InvalidArgument(f"{text!r} is no whole number of bytes up to {SIZE_BYTES_MAX}")
    return int(nbytes)


def format_size(nbytes: int) -> str:
    """The shortest of the binary units that loses nothing: ``64KiB``, ``4GiB``, ``1000``."""
    for name, unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes and nbytes % unit == 0:
            return f"{nbytes // unit}{name}"
    return str(nbytes)


def about_size(nbytes: float) -> str:
    """A size to be read, rounded to three digits: ``0 B``, ``1000 B``, ``1.46 MiB``, ``248 GiB``."""
    for name, unit in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(nbytes) >= unit:
            value = nbytes / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
    return f"{nbytes:.0f} B"
