"""Reading a server's certificate and key, checking that they fit, and taking in new ones while it serves.

Files are compared by their bytes, so it does not matter how they are replaced (renamed over, written in
place, behind a symbolic link that moves).  While certificate and key do not fit each other, in the middle of
a replacement, the old ones stay in force.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mezzo.errors import InvalidArgument
from mezzo_server.config import TlsConfig

if TYPE_CHECKING:
    from cryptography import x509

log = structlog.get_logger("mezzo.tls")

FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key, and the authorities that clients are checked against."""

    chain: bytes
    """PEM"""
    key: bytes
    """PEM"""
    client_ca: bytes
    """PEM; empty: clients are not asked"""
    expires_s: float
    """Unix time when the first of the chain's certificates expires"""
    subject: str
    """names that it is for"""


def read_identity(config: TlsConfig, now_s: float) -> Identity:
    """What the files of ``config`` hold at the moment.

    Raises:
        InvalidArgument: a file cannot be read or is not what it should be, certificate and key do not fit,
            or the certificate has expired or is not valid yet; the message names the setting.
    """
    return _check(config, _read_all(config), now_s)


def server_context(config: TlsConfig, identity: Identity) -> ssl.SSLContext:
    """For the shard's listeners: TLS 1.3, nothing older.

    Raises:
        InvalidArgument: OpenSSL does not take the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A ticket would stand unread in the way of a client's first answer, and sessions are not resumed.
    context.num_tickets = 0
    try:
        # Python's ssl reads keys from files only; these are the ones whose bytes were checked, or newer ones
        # that the next look will check.
        context.load_cert_chain(config.certificate, config.key, password="")
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"tls.certificate and tls.key: OpenSSL does not take them: {error}") from None
    if identity.client_ca:
        try:
            context.load_verify_locations(cadata=identity.client_ca.decode("ascii"))
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"tls.client_ca: OpenSSL does not take it: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Certificates:
    """The identity in force, and the thread that looks for a new one. Owner of both."""

    def __init__(self, config: TlsConfig, now_s: Callable[[], float]) -> None:
        """Raises InvalidArgument as `read_identity` does."""
        self.config = config
        self._now_s = now_s
        self._files = _read_all(config)
        self.identity = _check(config, self._files, now_s())
        self.context = server_context(config, self.identity)
        """for new connections to a shard"""
        self.reloads = 0
        self.reload_failures = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look at the files every ``tls.reload_s`` from now on, in a thread."""
        self._thread = threading.Thread(target=self._watch, name="mezzo-certificates", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def look(self) -> bool:
        """Take the files in if they have changed and are good; whether they were."""
        try:
            files = _read_all(self.config)
            if files == self._files:
                return False
            identity = _check(self.config, files, self._now_s())
            context = server_context(self.config, identity)
            again = _read_all(self.config)
        except InvalidArgument as error:
            self._failed(str(error))
            return False
        if again != files:
            return False  # in the middle of a replacement: the next look sees the end of it
        self._files, self.identity, self.context = files, identity, context
        self.reloads += 1
        log.info("certificate replaced", subject=identity.subject, expires=_date(identity.expires_s))
        return True

    def _failed(self, error: str) -> None:
        self.reload_failures += 1
        log.warning("certificate not replaced: the old one stays in force", error=error)

    def _watch(self) -> None:
        while not self._stopping.wait(self.config.reload_s):
            try:
                self.look()
            except Exception:  # a fault of ours must not end the watch, and must be seen
                log.exception("fault while looking at certificates")


def opened(config: TlsConfig, now_s: Callable[[], float]) -> Certificates | None:
    """Certificates that are watched; None if none are configured. InvalidArgument as `read_identity`."""
    if not config.certificate:
        return None
    certificates = Certificates(config, now_s)
    certificates.start()
    return certificates


def certificate_numbers(certificates: Certificates | None) -> dict[str, int | float]:
    """For the metrics; zeros without TLS."""
    return {
        "tls_certificate_expires_s": 0.0 if certificates is None else certificates.identity.expires_s,
        "tls_certificate_reloads": 0 if certificates is None else certificates.reloads,
        "tls_certificate_reload_failures": 0 if certificates is None else certificates.reload_failures,
    }


def _read_all(config: TlsConfig) -> tuple[bytes, ...]:
    client_ca = b""
    if config.client_certificates == "required":
        client_ca = _read("tls.client_ca", config.client_ca)
    return _read("tls.certificate", config.certificate), _read("tls.key", config.key), client_ca


def _read(name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InvalidArgument(f"{name}: cannot read {path}: {told}") from None


def _check(config: TlsConfig, files: tuple[bytes, ...], now_s: float) -> Identity:
    # Who has no certificate (most shards) need not wait for what reads them.
    from cryptography.hazmat.primitives import serialization

    chain, key, client_ca = files
    certificates = _certificates("tls.certificate", config.certificate, chain)
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise InvalidArgument(f"tls.key: {config.key} has a passphrase: store the key without one") from None
    except Exception as error:  # the library raises its own, by kind of key
        raise InvalidArgument(f"tls.key: {config.key} is no private key in PEM: {error}") from None
    leaf = certificates[0]
    if _public(private.public_key()) != _public(leaf.public_key()):
        raise InvalidArgument(f"tls.key: {config.key} is not the key of {config.certificate}")
    expires_s = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
    if expires_s <= now_s:
        raise InvalidArgument(
            f"tls.certificate: {config.certificate} expired on {_date(expires_s)}: renew it"
        )
    begins_s = leaf.not_valid_before_utc.timestamp()
    if begins_s > now_s:
        raise InvalidArgument(
            f"tls.certificate: {config.certificate} is not valid before {_date(begins_s)}: is this host's clock right?"
        )
    if client_ca:
        _certificates("tls.client_ca", config.client_ca, client_ca)
    return Identity(
        chain, key, client_ca, expires_s, ", ".join(_names(leaf)) or leaf.subject.rfc4514_string()
    )


def _certificates(name: str, path: str, pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {path} has no certificate in PEM: {error}") from None


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _public(key: object) -> bytes:
    if not hasattr(key, "public_bytes"):
        return b""
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
