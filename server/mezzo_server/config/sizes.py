"""Sizes as people write them."""

from __future__ import annotations

import re

from mezzo.errors import InvalidArgument


def parse_size(text: str) -> int:
    """Bytes of ``"512MiB"``, ``"4 GiB"``, ``"1e6"`` or ``"4096"``; decimal units (kB, MB, ...) too.

    Raises:
        InvalidArgument: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([kKMGT]?)(i?)[bB]?\s*", text)
    if match is None:
        raise InvalidArgument(f"{text!r} is no size; write for example 512MiB, 4GiB or a number of bytes")
    number, unit, binary = match.groups()
    power = " kMGT".index(unit.replace("K", "k") or " ")
    # K, M, G alone mean powers of 1024, as in dd, fio and qemu; MB and GB are decimal.
    decimal = unit and not binary and text.strip()[-1] in "bB"
    return int(float(number.replace("_", "")) * (1000 if decimal else 1024) ** power)
