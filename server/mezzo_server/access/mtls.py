"""The tenant that a client certificate names, by a rule. No I/O: the handshake has verified the chain.

A rule is a subject alternative name with ``{tenant}`` in it, once: a URI
(``spiffe://pod.example/tenant/{tenant}``) or a DNS name (``{tenant}.tenants.example``).  It is
matched as a whole, and only against names of its own kind.
"""

from __future__ import annotations

import re

from mezzo.errors import InvalidArgument
from mezzo_server.access.principal import Reason, Refused
from mezzo_server.tenancy.model import NAME_FORM

PLACEHOLDER = "{tenant}"
CERTIFICATE_BYTES_MAX = 64 * 1024
_NAME = f"(?P<tenant>{NAME_FORM})"
"""a tenant's name, which has no slash"""
_LABEL = r"(?P<tenant>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
"""one label of a DNS name: no dot, so that nobody puts a domain of his before ours"""


class CertificateRule:
    """Which tenant's a certificate is."""

    def __init__(self, rule: str) -> None:
        """
        Raises:
            InvalidArgument: it is no rule.
        """
        before, found, after = rule.partition(PLACEHOLDER)
        if not found or PLACEHOLDER in after or not (before + after).strip("./-"):
            raise InvalidArgument(
                f"{rule!r} is no rule: a URI or a DNS name with {PLACEHOLDER} in it, once, such as "
                f"spiffe://pod.example/tenant/{PLACEHOLDER}"
            )
        self._is_uri = "://" in rule
        if self._is_uri:
            if "://" not in before or (after and not after.startswith("/")):
                raise InvalidArgument(f"{rule!r}: {PLACEHOLDER} must be a whole part of the path")
            if not before.endswith("/"):
                raise InvalidArgument(f"{rule!r}: {PLACEHOLDER} must be a whole part of the path")
            if before.endswith("://"):
                raise InvalidArgument(f"{rule!r}: {PLACEHOLDER} must not stand for the host")
        elif (before and not before.endswith(".")) or not after.startswith("."):
            raise InvalidArgument(f"{rule!r}: {PLACEHOLDER} must be a whole label, and not the last one")
        name = _NAME if self._is_uri else _LABEL
        fixed = (before, after) if self._is_uri else (before.lower(), after.lower())
        self._pattern = re.compile(re.escape(fixed[0]) + name + re.escape(fixed[1]))

    def tenant(self, certificate: bytes) -> str:
        """The tenant's name in a certificate (PEM or DER).

        Raises:
            Refused: it names none, or more than one.
        """
        if len(certificate) > CERTIFICATE_BYTES_MAX:
            raise Refused(Reason.CERTIFICATE)
        found = {
            match.group("tenant")
            for name in self._names(certificate)
            if (match := self._pattern.fullmatch(name))
        }
        if len(found) != 1:
            raise Refused(Reason.CERTIFICATE)
        return found.pop()

    def _names(self, certificate: bytes) -> list[str]:
        from cryptography import x509

        # What it raises for certificates that an authority may well have signed.
        unreadable = (
            ValueError,
            x509.DuplicateExtension,
            x509.ExtensionNotFound,
            x509.InvalidVersion,
            x509.UnsupportedGeneralNameType,
        )
        try:
            if certificate.lstrip().startswith(b"-----"):
                parsed = x509.load_pem_x509_certificate(certificate)
            else:
                parsed = x509.load_der_x509_certificate(certificate)
            names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            if self._is_uri:
                return list(names.get_values_for_type(x509.UniformResourceIdentifier))
            return [name.lower() for name in names.get_values_for_type(x509.DNSName)]
        except unreadable:
            raise Refused(Reason.CERTIFICATE) from None
