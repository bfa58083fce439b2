"""Static tokens, ``mz_<id>_<secret>``: how they are made, and how they are recognised. No I/O, no clock.

The secret has 256 random bits, so a plain hash of it is kept: nobody guesses it, however fast.  The
hash is compared in constant time, with that of nothing if the id is unknown, so that neither ids nor
secrets are found by timing.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from mezzo_server.access.principal import NEVER, Principal, Reason, Refused, scopes_of
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential

PREFIX = "mz_"
ID_BYTES = 8
SECRET_BYTES = 32
_TOKEN = re.compile(r"mz_([0-9a-f]{16})_([0-9a-f]{64})")
_NOBODY = bytes(32)
"""a hash that no secret has, as far as anybody knows"""


def make_token(random_bytes: Callable[[int], bytes]) -> tuple[str, str, bytes]:
    """A new token: its text, its id, and the hash to keep. The text is not kept anywhere."""
    token_id, secret = random_bytes(ID_BYTES).hex(), random_bytes(SECRET_BYTES).hex()
    return f"{PREFIX}{token_id}_{secret}", token_id, hash_of(secret)


def hash_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def is_token(text: str) -> bool:
    """Whether a bearer's text is meant to be a static token, well-formed or not."""
    return text.startswith(PREFIX)


def check_token(text: str, catalog: Catalog, now_s: float) -> Principal:
    """Whom a token stands for.

    Raises:
        Refused: for nobody.
    """
    match = _TOKEN.fullmatch(text)
    token_id, secret = match.groups() if match else ("", "")
    credential = catalog.credentials.get(token_id)
    # Always hashed and compared, so that an unknown id takes as long as a known one.
    kept = _NOBODY if credential is None else credential.hash
    right = hmac.compare_digest(hash_of(secret), kept)
    if match is None:
        raise Refused(Reason.MALFORMED)
    if credential is None or not right:
        raise Refused(Reason.UNKNOWN)
    return principal_of(credential, catalog, now_s)


def principal_of(credential: Credential, catalog: Catalog, now_s: float) -> Principal:
    """Whom a credential that was proved stands for.

    Raises:
        Refused: it is revoked, or expired, or its tenant is gone.
    """
    if credential.revoked:
        raise Refused(Reason.REVOKED)
    if credential.expires_s and now_s >= credential.expires_s:
        raise Refused(Reason.EXPIRED)
    name = ""
    if credential.tenant_id:
        tenant = catalog.tenant(credential.tenant_id)
        if tenant is None:
            raise Refused(Reason.TENANT)
        name = tenant.name
    return Principal(
        tenant=credential.tenant_id,
        tenant_name=name,
        scopes=scopes_of(credential.scopes),
        credential=credential.id,
        expires_s=credential.expires_s or NEVER,
    )
