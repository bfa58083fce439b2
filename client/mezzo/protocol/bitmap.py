"""Bitmaps of the protocol: bit i (least significant first) speaks of ``keys[i]``."""

from __future__ import annotations

from collections.abc import Iterable

from mezzo.errors import ProtocolError


def pack(flags: Iterable[bool]) -> bytes:
    """One bit for each flag, in ``ceil(n / 8)`` bytes."""
    # int() of a string of binary digits runs in C; a loop over bits does not.
    digits = "".join(["1" if flag else "0" for flag in flags])
    return int(digits[::-1] or "0", 2).to_bytes((len(digits) + 7) // 8, "little")


def unpack(bitmap: bytes, count: int) -> tuple[bool, ...]:
    """The first ``count`` flags. Trailing zero bytes may have been left out.

    Raises:
        ProtocolError: a bit beyond ``count`` is set, or there are too many bytes.
    """
    value = int.from_bytes(bitmap, "little")
    if len(bitmap) > (count + 7) // 8 or value >> count:
        raise ProtocolError(f"a bitmap of {len(bitmap)} bytes speaks of more than {count} keys")
    # All or none, as nearly always: without a digit for each.
    if not value:
        return (False,) * count
    if value + 1 == 1 << count:
        return (True,) * count
    # Backwards, and no digit at all for no key (zero is still written "0").
    return tuple([digit == "1" for digit in f"{value:0{count}b}"[: -count - 1 : -1]])
