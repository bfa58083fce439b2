"""Certificates of who calls the metadata: read, and looked at again while he does.

As with a server's (`mezzo_server.tls.certificates`) files are compared by their bytes, and while a certificate and its key
do not fit each other, in the middle of a replacement, what was read before stays in force.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import structlog

from mezzo.errors import Unavailable

log = structlog.get_logger("mezzo.metadata")

LOOK_S = 10.0
"""Between two looks, as ``tls.reload_s`` has it for servers."""
LOOK_AGAIN_S = 1.0
"""Sooner where nobody answers: that may be why."""


class Refused(Unavailable):
    """We are not let in, or may not do this: another member would say the same."""


class Trust(NamedTuple):
    """Files of PEM; empty: the system's authorities, and no certificate of our own."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class Pem(NamedTuple):
    """What they hold; None: no file is named."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None


class TrustFiles:
    """What is in force of them. Owner of that. Not to be used by two threads at a time."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._pem: Pem | None = None
        self._looked_at = 0.0
        self._told = ""

    @property
    def pem(self) -> Pem:
        """In force. Raises Refused: a file could not be read, and nothing was read before."""
        if self._pem is None:
            self._pem = _read(self._trust)
        return self._pem

    def due(self, now: float, *, sooner: bool = False) -> bool:
        """Whether it is time to look, which it then is not for a while; ``sooner``: nobody answers."""
        if self._pem is None or now - self._looked_at < (LOOK_AGAIN_S if sooner else LOOK_S):
            return False
        self._looked_at = now
        return True

    def look(self) -> bool:
        """Take the files in if they have changed and are good; whether they were."""
        trust, wrong = self._trust, ""
        try:
            pem = _read(trust)
            if pem == self._pem:
                return False
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if pem.ca is not None:
                if not pem.ca.strip():
                    raise Refused(f"{trust.ca} is empty")
                context.load_verify_locations(cadata=pem.ca.decode("ascii"))
            if trust.certificate:
                # It says whether they fit; it reads files, which are those that were read just now if they still are.
                context.load_cert_chain(trust.certificate, trust.key, password="")
            if _read(trust) != pem:
                return False  # in the middle of a replacement: the next look sees the end of it
        except (OSError, ValueError, Refused) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            if wrong != self._told:
                log.warning("certificates of the metadata's caller not replaced", error=wrong)
            self._told = wrong
            return False
        self._pem, self._told = pem, ""
        log.info("certificates of the metadata's caller replaced", ca=trust.ca, certificate=trust.certificate)
        return True


def contents(path: str) -> bytes | None:
    """What a file holds; None: no file is named. Raises Refused: it cannot be read."""
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None


def _read(trust: Trust) -> Pem:
    return Pem(contents(trust.ca), contents(trust.certificate), contents(trust.key))
