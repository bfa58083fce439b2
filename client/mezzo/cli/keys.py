"""Keys as they are typed: text as it is, bytes as ``hex:...``. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mezzo.errors import InvalidArgument
from mezzo.protocol.messages import KEY_BYTES_MAX

HEX_PREFIX = "hex:"


def parse_key(text: str) -> bytes:
    """The key that ``text`` names: its UTF-8 bytes, or those that follow ``hex:``.

    Raises:
        InvalidArgument: it is empty, longer than a key may be, or no hexadecimal number.
    """
    if text.startswith(HEX_PREFIX):
        try:
            key = bytes.fromhex(text.removeprefix(HEX_PREFIX))
        except ValueError:
            raise InvalidArgument(
                f"key {text!r}: after {HEX_PREFIX} come two hexadecimal digits for each byte"
            ) from None
    else:
        try:
            key = text.encode()
        except UnicodeEncodeError:  # an argument that is not UTF-8 arrives with surrogates
            raise InvalidArgument(
                f"key {text!r} is not UTF-8; write its bytes as {HEX_PREFIX}{text.encode(errors='surrogateescape').hex()}"
            ) from None
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidArgument(f"key {text!r} has {len(key)} bytes; a key has 1 to {KEY_BYTES_MAX}")
    return key


def parse_keys(texts: Iterable[str]) -> list[bytes]:
    """The keys that ``texts`` name. Raises InvalidArgument, see `parse_key`."""
    return [parse_key(text) for text in texts]


def format_key(key: bytes) -> str:
    """What `parse_key` reads back: text where that shows all of it, ``hex:...`` otherwise."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return HEX_PREFIX + key.hex()
    return text if text.isprintable() and not text.startswith(HEX_PREFIX) else HEX_PREFIX + key.hex()


def count_of(keys: Sequence[object], noun: str = "chunk") -> str:
    """``1 chunk``, ``3 chunks``."""
    return f"{len(keys)} {noun}{'' if len(keys) == 1 else 's'}"
