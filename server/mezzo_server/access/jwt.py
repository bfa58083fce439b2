"""JSON Web Tokens (RFC 7519) of callers: whom they stand for. No I/O, no clock.

What a token may say of how it is checked ends here: the algorithm is one of those that are
configured *and* fits the kind of the key, the key is one of the configured set, and nothing in the
header (``jwk``, ``jku``, ``x5u``) is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from mezzo.errors import InvalidArgument
from mezzo_server.access.keysets import ALGORITHMS, PublicKey, candidates
from mezzo_server.access.principal import NEVER, Principal, Reason, Refused, Scopes, UnknownKey, scopes_of
from mezzo_server.access.tickets import SKEW_S
from mezzo_server.tenancy.catalog import Catalog

TOKEN_CHARACTERS_MAX = 8192
SUBJECT_CHARACTERS_MAX = 128


@dataclass(frozen=True, slots=True)
class JwtRules:
    """What a token must be."""

    algorithms: tuple[str, ...]
    audience: str
    issuer: str
    tenant_claim: str = "tenant"
    scopes_claim: str = "scope"
    scopes_prefix: str = ""
    """before the names of our scopes"""

    def __post_init__(self) -> None:
        wrong = [name for name in self.algorithms if name not in ALGORITHMS]
        if wrong or not self.algorithms:
            raise InvalidArgument(
                f"algorithms of tokens: {', '.join(wrong) or 'none'}; allowed are {', '.join(ALGORITHMS)}"
            )
        if not self.audience or not self.issuer:
            raise InvalidArgument("tokens need an audience and an issuer: without, those of others are taken")


def check_jwt(
    text: str, rules: JwtRules, keys: Sequence[PublicKey], catalog: Catalog, now_s: float
) -> Principal:
    """Whom a token stands for.

    Raises:
        UnknownKey: none of ``keys`` is its own; look whether there are newer ones.
        Refused: for nobody.
    """
    claims = _verified(text, rules, keys)
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise Refused(Reason.CLAIMS)
    if now_s >= expires_s + SKEW_S:
        raise Refused(Reason.EXPIRED)
    for name in ("nbf", "iat"):
        begins_s = _time(claims, name)
        if begins_s is not None and now_s < begins_s - SKEW_S:
            raise Refused(Reason.NOT_YET)
    tenant_name = claims.get(rules.tenant_claim)
    if not isinstance(tenant_name, str):
        raise Refused(Reason.CLAIMS)
    tenant = catalog.tenant_named(tenant_name)
    if tenant is None:
        raise Refused(Reason.TENANT)
    subject = claims.get("sub")
    told = f":{subject[:SUBJECT_CHARACTERS_MAX]}" if isinstance(subject, str) else ""
    return Principal(
        tenant=tenant.id,
        tenant_name=tenant.name,
        scopes=_scopes(claims.get(rules.scopes_claim), rules.scopes_prefix),
        credential=f"jwt{told}",
        expires_s=min(int(expires_s) + SKEW_S, NEVER),
    )


def _verified(text: str, rules: JwtRules, keys: Sequence[PublicKey]) -> dict[str, Any]:
    """The claims of a token whose signature, audience and issuer are right."""
    if len(text) > TOKEN_CHARACTERS_MAX:
        raise Refused(Reason.MALFORMED)
    try:
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Refused(Reason.MALFORMED) from None
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(key_id, str) or "crit" in header:
        raise Refused(Reason.MALFORMED)
    if algorithm not in rules.algorithms:
        raise Refused(Reason.SIGNATURE)
    fitting = candidates(keys, key_id, algorithm)
    if not fitting:
        raise UnknownKey
    refusal = Refused(Reason.SIGNATURE)
    for key in fitting:
        try:
            # Times are checked by our clock, which is given, and not by that of the library; who the subject
            # is, and whether a token is used twice, is not asked.
            claims: dict[str, Any] = jwt.decode(
                text,
                key.key,
                algorithms=[algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                options={
                    "require": ["exp", "aud", "iss"],
                    "verify_signature": True,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidAudienceError:
            refusal = Refused(Reason.AUDIENCE)
        except jwt.InvalidIssuerError:
            refusal = Refused(Reason.ISSUER)
        except jwt.MissingRequiredClaimError:
            refusal = Refused(Reason.CLAIMS)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
        else:
            return claims
    raise refusal


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A claim that is a time; None: it is not there. Refused if it is something else."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < NEVER:
        raise Refused(Reason.CLAIMS)
    return float(value)


def _scopes(claim: object, prefix: str) -> Scopes:
    """A text with spaces between the names (RFC 8693), or a list of names."""
    names = claim.split() if isinstance(claim, str) else claim
    if not isinstance(names, list):
        raise Refused(Reason.CLAIMS)
    told = [name for name in names if isinstance(name, str) and name.startswith(prefix)]
    return scopes_of(name.removeprefix(prefix) for name in told)
