"""Rules of ``[access]``: what could not work, and what would let in more than was meant. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from mezzo.errors import InvalidArgument
from mezzo_server.config.addresses import is_loopback
from mezzo_server.config.schema import AccessConfig, NodeConfig
from mezzo_server.tenancy.model import NAME_FORM

NAME = re.compile(NAME_FORM)
MODE = re.compile(r"0?[0-7]{3}")


def check_access(config: NodeConfig) -> None:
    """
    Raises:
        InvalidArgument: names the key, its value and what would be right.
    """
    access = config.access
    for key, name in (("anonymous", access.anonymous), ("pod", access.pod)):
        if (name or key == "pod") and not NAME.fullmatch(name):
            raise InvalidArgument(
                f"access.{key}: {name!r} is no name: letters, digits, '.', '_' and '-', 128 at most"
            )
    if not config.metadata.engine:
        _check_without_metadata(access)
    _check_scopes("access.anonymous_scopes", access.anonymous_scopes, ("read", "write"))
    _check_scopes("access.mtls.scopes", access.mtls.scopes, ("read", "write", "admin"))
    if access.key_s < 4 * config.frontend.session_s:
        raise InvalidArgument(
            f"access.key_s ({access.key_s:g}) must be at least four times frontend.session_s "
            f"({config.frontend.session_s:g}): a key outlives the tickets that it signed"
        )
    unix_mode(access)
    unix_users(access)
    _check_jwt(access)
    if access.mtls.tenant:
        from mezzo_server.access.mtls import CertificateRule

        try:
            CertificateRule(access.mtls.tenant)
        except InvalidArgument as error:
            raise InvalidArgument(f"access.mtls.tenant: {error}") from None
        if config.tls.client_certificates != "required":
            raise InvalidArgument(
                'access.mtls.tenant needs tls.client_certificates = "required": nobody else verifies them'
            )


def _check_without_metadata(access: AccessConfig) -> None:
    """What looks as if it kept somebody out, and would not."""
    unused = {
        "access.anonymous is empty": not access.anonymous,
        "access.jwt.keys is set": bool(access.jwt.keys),
        "access.mtls.tenant is set": bool(access.mtls.tenant),
    }
    for what, is_so in unused.items():
        if is_so:
            raise InvalidArgument(
                f"{what}, and there is no metadata engine: without metadata.engine there are no tenants and no "
                "credentials, and everybody who can connect is let in"
            )


def unix_mode(access: AccessConfig) -> int:
    """Permissions of Unix sockets. Raises InvalidArgument."""
    if not MODE.fullmatch(access.unix_mode):
        raise InvalidArgument(
            f"access.unix_mode: {access.unix_mode!r} is no octal number such as 0600 or 0660"
        )
    return int(access.unix_mode, 8)


def unix_users(access: AccessConfig) -> frozenset[int]:
    """User ids that may connect to Unix sockets; empty: any. Raises InvalidArgument."""
    wrong = [text for text in access.unix_users if not (text.isascii() and text.isdecimal())]
    if wrong:
        raise InvalidArgument(f"access.unix_users: {wrong[0]!r} is no number of a user")
    return frozenset(map(int, access.unix_users))


def is_url(source: str) -> bool:
    """Whether keys come from an address, and not from a file."""
    return "://" in source


def _check_scopes(key: str, scopes: Sequence[str], allowed: Sequence[str]) -> None:
    wrong = [scope for scope in scopes if scope not in allowed]
    if wrong:
        raise InvalidArgument(f"{key}: {wrong[0]!r} is none of {', '.join(allowed)}")


def _check_jwt(access: AccessConfig) -> None:
    jwt = access.jwt
    if not jwt.keys:
        return
    if not jwt.issuer or not jwt.audience:
        raise InvalidArgument(
            "access.jwt.keys needs access.jwt.issuer and access.jwt.audience: without them tokens that were "
            "made for others would be taken"
        )
    from mezzo_server.access.keysets import ALGORITHMS

    wrong = [name for name in jwt.algorithms if name not in ALGORITHMS]
    if wrong or not jwt.algorithms:
        raise InvalidArgument(
            f"access.jwt.algorithms: {wrong[0] if wrong else 'nothing'!r} is not allowed: one or more of "
            f"{', '.join(ALGORITHMS)}"
        )
    if not is_url(jwt.keys):
        return
    parts = urlsplit(jwt.keys)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not is_loopback(parts.hostname or ""):
        raise InvalidArgument(
            f"access.jwt.keys: {jwt.keys} must be https://, or a file: whoever changes the keys on their way can "
            "make tokens"
        )
