"""From what a caller brought to who he is: the one way, for every call of a front-end. No I/O, no clock.

In this order, and what is there decides; nobody who brings something wrong becomes anybody else:
an ``authorization`` header (a static token or a JSON Web Token), a client certificate, if there is a
rule for them, and the tenant of those who bring nothing, if there is one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mezzo.errors import Unavailable
from mezzo_server.access.mtls import CertificateRule
from mezzo_server.access.principal import (
    ALL_SCOPES,
    MAY_BE_NEW,
    NO_TENANT,
    Principal,
    Reason,
    Refused,
    Scopes,
    UnknownKey,
)
from mezzo_server.access.tokens import check_token, is_token
from mezzo_server.tenancy.catalog import Catalog

if TYPE_CHECKING:
    from mezzo_server.access.jwt import JwtRules
    from mezzo_server.access.keysets import PublicKey

SCHEME = "bearer "
LOOKERS_MAX = 32
"""Callers that wait for a look at what may be new, at a time: strangers with made-up credentials must not hold
all the calls that a front-end takes. One more is refused at once."""
KINDS = ("token", "jwt", "certificate", "anonymous")
EVERYBODY = Principal(tenant=NO_TENANT, tenant_name="default", scopes=ALL_SCOPES, credential="")
"""Who calls a node without a metadata engine: there is one tenant, and no credential."""


class KeySets(Protocol):
    """Where the keys of JSON Web Tokens come from."""

    @property
    def keys(self) -> Sequence[PublicKey]:
        """Those that are known now; none as long as the set could never be had."""

    async def look(self) -> bool:
        """Look for newer ones, if that was not done a moment ago. Whether it was done now."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Who callers are that bring no credential."""

    tenant: str
    """name"""
    scopes: Scopes


@dataclass(frozen=True, slots=True)
class Certificates:
    """Whose client certificates are, and what they are good for."""

    rule: CertificateRule
    scopes: Scopes


class Authentication:
    """Recognises callers. Owner of the counts of how that went."""

    def __init__(
        self,
        catalog: Callable[[], Catalog | None],
        *,
        now_s: Callable[[], float],
        anonymous: Anonymous | None = None,
        jwt_rules: JwtRules | None = None,
        key_sets: KeySets | None = None,
        certificates: Certificates | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``catalog``: None as long as it could not be loaded; ``now_s``: Unix time; ``look`` returns when the
        catalog is as the metadata are, and lets many who ask at a time wait for one look: strangers can send any
        number of unknown credentials.
        """
        self._catalog = catalog
        self._look = look
        self._lookers = 0
        self._now_s = now_s
        self._anonymous = anonymous
        self._jwt_rules = jwt_rules
        self._key_sets = key_sets
        self._certificates = certificates
        self.counts: dict[tuple[str, ...], int] = {(kind, "ok"): 0 for kind in KINDS}
        """by kind of credential and outcome: ``ok``, or the reason why not"""

    async def principal(self, authorization: Sequence[str], certificate: bytes | None) -> Principal:
        """Who this is; ``authorization``: all headers of that name.

        Raises:
            Refused: nobody.
            Unavailable: what is needed to tell is not there now.
        """
        kind = "anonymous"
        if authorization:
            kind = "token" if is_token(_bearer(authorization, quiet=True)) else "jwt"
        elif certificate is not None and self._certificates is not None:
            kind = "certificate"
        outcome = Reason.UNAVAILABLE.value
        try:
            try:
                found = await self._recognised(kind, authorization, certificate)
            except Refused as refused:
                look = self._look
                if refused.reason not in MAY_BE_NEW or isinstance(refused, UnknownKey) or look is None:
                    raise
                if not await self._waited(look):
                    raise
                found = await self._recognised(kind, authorization, certificate)
            outcome = "ok"
            return found
        except Refused as refused:
            outcome = refused.reason.value
            raise
        finally:
            self.counts[kind, outcome] = self.counts.get((kind, outcome), 0) + 1

    async def _recognised(
        self, kind: str, authorization: Sequence[str], certificate: bytes | None
    ) -> Principal:
        catalog = self._catalog()
        if catalog is None:
            raise Unavailable("who may do what is not known yet: the metadata could not be read")
        if kind == "anonymous":
            return self._as_anonymous(catalog)
        if kind == "certificate":
            return self._by_certificate(certificate or b"", catalog)
        text = _bearer(authorization)
        if kind == "token":
            found = check_token(text, catalog, self._now_s())
        else:
            found = await self._by_jwt(text, catalog)
        self._check_certificate(found, certificate)
        return found

    async def _waited(self, look: Callable[[], Awaitable[bool | None]]) -> bool:
        """Wait for a look. False: it was not made, or too many wait already."""
        if self._lookers >= LOOKERS_MAX:
            return False
        self._lookers += 1
        try:
            return await look() is not False
        finally:
            self._lookers -= 1

    def _as_anonymous(self, catalog: Catalog) -> Principal:
        anonymous = self._anonymous
        if anonymous is None:
            raise Refused(Reason.MISSING)
        return _of_tenant(catalog, anonymous.tenant, anonymous.scopes, "anonymous")

    def _by_certificate(self, certificate: bytes, catalog: Catalog) -> Principal:
        ours = self._certificates
        if ours is None:
            raise Refused(Reason.MISSING)
        return _of_tenant(catalog, ours.rule.tenant(certificate), ours.scopes, "certificate")

    async def _by_jwt(self, text: str, catalog: Catalog) -> Principal:
        rules, sets = self._jwt_rules, self._key_sets
        if rules is None or sets is None:
            raise Refused(Reason.MALFORMED)
        # Only who has rules for them needs what reads them: it takes as long to import as a small server.
        from mezzo_server.access.jwt import check_jwt

        try:
            return check_jwt(text, rules, sets.keys, catalog, self._now_s())
        except UnknownKey:
            looked = await self._waited(sets.look)
            if not sets.keys:
                raise Unavailable("the keys of JSON Web Tokens could not be had yet") from None
            if not looked:
                raise
        return check_jwt(text, rules, sets.keys, catalog, self._now_s())

    def _check_certificate(self, found: Principal, certificate: bytes | None) -> None:
        """A token of one tenant is no good over a connection whose certificate names another."""
        if certificate is None or self._certificates is None or found.is_operator:
            return
        if self._certificates.rule.tenant(certificate) != found.tenant_name:
            raise Refused(Reason.OTHER_TENANT)


def _bearer(authorization: Sequence[str], *, quiet: bool = False) -> str:
    """The token in the header. Refused if there is none, or if there are several headers."""
    text = authorization[0] if len(authorization) == 1 else ""
    if text[: len(SCHEME)].lower() != SCHEME:
        if quiet:
            return ""
        raise Refused(Reason.MALFORMED)
    return text[len(SCHEME) :].strip()


def _of_tenant(catalog: Catalog, name: str, scopes: Scopes, credential: str) -> Principal:
    tenant = catalog.tenant_named(name)
    if tenant is None:
        raise Refused(Reason.TENANT)
    return Principal(tenant.id, tenant.name, scopes, credential)
