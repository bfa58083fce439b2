"""Static tokens, ``mz_<id>_<secret>``: how they are recognised. No I/O, no clock.

How they are made, and what is kept of them, is in `mezzo_server.tenancy.tokens`.  A secret is compared
in constant time, with that of nobody if the id is unknown, so that neither ids nor secrets are found
by timing.
"""

from __future__ import annotations

import re

from mezzo_server.access.principal import NEVER, NO_TENANT, Principal, Reason, Refused, scopes_of
from mezzo_server.access.tickets import SKEW_S
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Credential
from mezzo_server.tenancy.tokens import PREFIX, proves, split_token

_ID = re.compile(r"[0-9a-f]{16}")
_NOBODY = bytes(32)
"""a hash that no secret has, as far as anybody knows"""


def is_token(text: str) -> bool:
    """Whether a bearer's text is meant to be a static token, well-formed or not."""
    return text.startswith(f"{PREFIX}_")


def is_token_id(text: str) -> bool:
    """Whether this is the id of a static token."""
    return _ID.fullmatch(text) is not None


def check_token(text: str, catalog: Catalog, now_s: float) -> Principal:
    """Whom a token stands for.

    Raises:
        Refused: for nobody.
    """
    split = split_token(text)
    token_id, secret = split or ("", b"")
    credential = catalog.credentials.get(token_id)
    # Always hashed and compared, so that an unknown id takes as long as a known one.
    right = proves(secret, _NOBODY if credential is None else credential.hash)
    if split is None:
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


def unwelcome(tenant_id: bytes, credential_id: str, catalog: Catalog, now_s: float) -> Reason | None:
    """Why somebody with this tenant and this credential is not welcome; None: he is."""
    if tenant_id != NO_TENANT and catalog.tenant(tenant_id) is None:
        return Reason.TENANT
    if not is_token_id(credential_id):
        return None  # of somebody else's making: its ticket ends soon, and is all that we know
    credential = catalog.credentials.get(credential_id)
    if credential is None:
        return Reason.UNKNOWN
    if credential.revoked or credential.tenant_id != tenant_id:
        return Reason.REVOKED
    if credential.expires_s and now_s >= credential.expires_s + SKEW_S:
        return Reason.EXPIRED
    return None
