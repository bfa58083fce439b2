"""The secrets by which the processes of a pod know one another: a file of lines, each a secret. No I/O."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from mezzo.errors import InvalidArgument

CHARACTERS_MIN, CHARACTERS_MAX = 32, 512
SECRETS_MAX = 16
"""in a file: one, or its successor beside it while it is changed everywhere"""


def parse_secrets(data: bytes) -> tuple[str, ...]:
    """The secrets of a file, in order.

    Raises:
        InvalidArgument: there are none, too many, or one that could be guessed or sent in no header.
    """
    try:
        lines = [line.strip() for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise InvalidArgument("a secret has ASCII letters and digits only") from None
    if not 1 <= len(lines) <= SECRETS_MAX:
        raise InvalidArgument(f"it has {len(lines)} lines, each a secret: 1 to {SECRETS_MAX}")
    for line in lines:
        if not CHARACTERS_MIN <= len(line) <= CHARACTERS_MAX or not line.isprintable() or " " in line:
            raise InvalidArgument(
                f"a secret has {CHARACTERS_MIN} to {CHARACTERS_MAX} characters and no spaces, as `openssl rand -hex 32` "
                "makes them"
            )
    return tuple(lines)


def first_secret(data: bytes) -> str:
    """The one that is shown. Raises InvalidArgument as `parse_secrets`."""
    return parse_secrets(data)[0]


def digest(secret: str) -> bytes:
    """What is kept of a secret by who compares it."""
    return hashlib.sha256(secret.encode()).digest()


def is_one_of(secret: str, digests: Iterable[bytes]) -> bool:
    """Whether it is one of these; takes as long whichever it is, or none."""
    shown, found = digest(secret), False
    for each in digests:
        found |= hmac.compare_digest(shown, each)
    return found
