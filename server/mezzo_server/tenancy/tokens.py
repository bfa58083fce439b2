"""The text of a static token: ``mz_<id>_<secret>``. Only a hash of the secret is kept."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable

PREFIX = "mz"
ID_BYTES = 8
SECRET_BYTES = 32
_TOKEN = re.compile(r"mz_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


def new_token(random: Callable[[int], bytes]) -> tuple[str, str, bytes]:
    """A token's text, its id, and the hash to keep. ``random`` gives so many bytes that nobody can guess."""
    token_id, secret = random(ID_BYTES).hex(), random(SECRET_BYTES)
    text = base64.urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
    return f"{PREFIX}_{token_id}_{text}", token_id, hash_of(secret)


def split_token(text: str) -> tuple[str, bytes] | None:
    """A token's id and secret; None: it is no token."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    try:
        return match[1], base64.urlsafe_b64decode(match[2] + "=")
    except binascii.Error:
        return None


def hash_of(secret: bytes) -> bytes:
    """What is kept of a secret. It is 256 random bits, which no slow hash would make harder to guess."""
    return hashlib.sha256(secret).digest()


def proves(secret: bytes, kept: bytes) -> bool:
    """Whether ``secret`` is the one of which ``kept`` is the hash, in time that does not depend on it."""
    return hmac.compare_digest(hash_of(secret), kept)
