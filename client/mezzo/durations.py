"""Durations as people write them."""

from __future__ import annotations

import re

from mezzo.errors import InvalidArgument

SECONDS_OF_UNIT = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_DURATION = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*([a-z]{0,3})\s*")


def parse_duration(text: str, unit: str = "s") -> float:
    """Seconds of ``"500ms"``, ``"5 min"``, ``"1.5h"``; a bare number is in ``unit``.

    Raises:
        InvalidArgument: it is no duration.
    """
    match = _DURATION.fullmatch(text)
    factor = SECONDS_OF_UNIT.get(match[2] or unit) if match else None
    if match is None or factor is None:
        raise InvalidArgument(
            f"{text!r} is no duration; write for example 500ms, 5s, 10min, or a number of "
            f"{'milliseconds' if unit == 'ms' else 'seconds'}"
        )
    return float(match[1]) * factor
