"""Sets of public keys (JWKS, RFC 7517) with which JSON Web Tokens are checked. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from mezzo.errors import InvalidArgument

KEY_SET_BYTES_MAX = 256 * 1024
KEYS_MAX = 128
RSA_BITS_MIN = 2048
ALGORITHMS = (
    "EdDSA",
    "ES256",
    "ES384",
    "ES512",
    "PS256",
    "PS384",
    "PS512",
    "RS256",
    "RS384",
    "RS512",
)
"""All that may be configured: signatures with a key pair. With a shared secret whoever can check a token can
make one, and a public key would do as the secret."""

_CURVES = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
_RSA = tuple(name for name in ALGORITHMS if name[:2] in ("RS", "PS"))


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key, and the algorithms that it may be used with."""

    id: str
    """``kid``; empty: it has none"""
    algorithms: tuple[str, ...]
    key: Any
    """a public key of `cryptography`"""


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse_key_set(data: bytes) -> tuple[PublicKey, ...]:
    """The keys of a set that can be of use; private ones, secrets and kinds that we do not know are left out.

    Raises:
        InvalidArgument: it is no key set, too large, or has nothing that is of use.
    """
    if len(data) > KEY_SET_BYTES_MAX:
        raise InvalidArgument(f"a key set of over {KEY_SET_BYTES_MAX} bytes")
    try:
        entries = msgspec.json.decode(data, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument("this is no key set (JWKS)") from None
    if len(entries) > KEYS_MAX:
        raise InvalidArgument(f"a key set of over {KEYS_MAX} keys")
    found = [key for key in map(_usable, entries) if key is not None]
    if not found:
        raise InvalidArgument("the key set has no public key for signatures that is of use")
    return tuple(found)


def candidates(keys: Iterable[PublicKey], key_id: str, algorithm: str) -> Sequence[PublicKey]:
    """The keys that a token with this header may be signed with; without a key id, only an unambiguous one."""
    fitting = [key for key in keys if algorithm in key.algorithms]
    if key_id:
        return [key for key in fitting if key.id == key_id]
    return fitting if len(fitting) == 1 else ()


def _usable(entry: dict[str, Any]) -> PublicKey | None:
    kind, curve = entry.get("kty"), entry.get("crv")
    allowed: tuple[str, ...] = ()
    if kind == "RSA":
        allowed = _RSA
    elif kind == "EC" and isinstance(curve, str):
        allowed = _CURVES.get(curve, ())
    elif kind == "OKP" and curve == "Ed25519":
        allowed = ("EdDSA",)
    if "alg" in entry:
        allowed = tuple(name for name in allowed if name == entry["alg"])
    key_id = entry.get("kid", "")
    if not allowed or "d" in entry or not _is_for_signatures(entry) or not isinstance(key_id, str):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=allowed[0]).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None
    if getattr(key, "key_size", RSA_BITS_MIN) < RSA_BITS_MIN and kind == "RSA":
        return None
    return PublicKey(key_id, allowed, key)


def _is_for_signatures(entry: dict[str, Any]) -> bool:
    """RFC 7517, 4.2 and 4.3: what a key is for, if its entry says so."""
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
