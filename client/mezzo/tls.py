"""TLS of connections to shards and front-ends: whom they trust, who we are, and what went wrong.

Files are read for each new connection, so certificates may be replaced at any time: connections that are
open go on with the old ones.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mezzo.address import Address
from mezzo.errors import ConnectionLost, InvalidArgument, MezzoError, Unavailable

FILE_BYTES_MAX = 1 << 20

# X509_verify_cert_error_string(3)
_NOT_YET_VALID = 9
_EXPIRED = 10
_WRONG_NAME = (62, 64)  # host, address
_SERVER_REFUSES_US = (
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


@dataclass(frozen=True, slots=True)
class TLS:
    """How a client proves the server, and itself. Paths are of PEM files."""

    ca: str = ""
    """certificates of the authorities that the server's may be signed by; empty: those of the system"""
    certificate: str = ""
    """certificate that we show to servers that ask for one, with its intermediates; empty: none"""
    key: str = ""
    """private key of ``certificate``, without a passphrase"""
    server_name: str = ""
    """name that the server's certificate must have; empty: the host of the address"""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InvalidArgument(
                "a client certificate needs its key and the other way round (certificate=, key=)"
            )

    @classmethod
    def from_environment(cls) -> TLS:
        """By MEZZO_TLS_CA, MEZZO_TLS_CERTIFICATE, MEZZO_TLS_KEY and MEZZO_TLS_SERVER_NAME."""
        return cls(
            **{
                name: os.environ.get(f"MEZZO_TLS_{name.upper()}", "")
                for name in ("ca", "certificate", "key", "server_name")
            }
        )

    def name_for(self, address: Address) -> str:
        """The name that the certificate of the server at ``address`` must have."""
        return self.server_name or address.host

    def context(self) -> ssl.SSLContext:
        """For connections to shards: TLS 1.3 and nothing else. Raises InvalidArgument for a file that is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca:
            _load("ca", self.ca, lambda: context.load_verify_locations(cafile=self.ca))
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if self.certificate:
            _load(
                "certificate and key",
                f"{self.certificate}, {self.key}",
                lambda: context.load_cert_chain(self.certificate, self.key, _no_passphrase),
            )
        return context

    def pem(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Authorities, key and certificate as gRPC wants them. Raises InvalidArgument if one cannot be read."""
        return _read("ca", self.ca), _read("key", self.key), _read("certificate", self.certificate)


def explain(address: Address, error: OSError) -> MezzoError:
    """Why a connection over TLS could not be made, or was lost, in words that say what to do."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in (_EXPIRED, _NOT_YET_VALID):
            what = "has expired" if code == _EXPIRED else "is not valid yet"
            return Unavailable(
                f"the certificate of {address} {what}: it must be renewed, or a clock is wrong"
            )
        if code in _WRONG_NAME:
            return Unavailable(
                f"the certificate of {address} is for another name ({error.verify_message}); give the name "
                "that it has as server_name (MEZZO_TLS_SERVER_NAME) if that is the server you mean"
            )
        return Unavailable(
            f"the certificate of {address} is signed by nobody we trust ({error.verify_message}); give the "
            "authority's certificate as ca (MEZZO_TLS_CA)"
        )
    if reason in _NOT_TLS:
        plain = "tcp" if address.scheme == "tcps" else "grpc"
        return Unavailable(
            f"{address} does not speak TLS: is it {plain}://{str(address).partition('://')[2]}?"
        )
    if reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
        return Unavailable(
            f"{address} asks for a client certificate: give certificate and key "
            "(MEZZO_TLS_CERTIFICATE, MEZZO_TLS_KEY)"
        )
    if reason in _SERVER_REFUSES_US:
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return Unavailable(f"{address} does not accept our client certificate ({said})")
    if "PROTOCOL_VERSION" in reason:
        return Unavailable(f"{address} does not speak TLS 1.3")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return ConnectionLost(f"{address} closed the connection: {reason or error}")
    if isinstance(error, TimeoutError):
        return Unavailable(f"{address} did not end the TLS handshake in time")
    return ConnectionLost(f"TLS with {address} failed: {error}")


def _load(what: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        raise InvalidArgument(f"TLS: {what} ({path}) cannot be used: {told}") from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, and nobody is there to type it: store it without one")


def _read(what: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"TLS: {what} ({path}) cannot be read: {error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise InvalidArgument(f"TLS: {what} ({path}) has over {FILE_BYTES_MAX} bytes")
    return data


def receiver(sock: ssl.SSLSocket) -> Callable[[int, memoryview], int]:
    """``receive(size, room)``: `ssl.SSLSocket.recv_into` of one record, without its two calls in the interpreter.

    At 16 KiB a record they are a fortieth of all that a connection costs.  Unlike it this raises
    `ssl.SSLEOFError` where the stream ends without the end of TLS.  Not to be called once the socket is closed:
    it looks at the number of the descriptor only, and another may have that by then.
    """
    read: Callable[[int, memoryview], int] | None = getattr(_inner(sock), "read", None)
    return read or (lambda size, room: sock.recv_into(room, size))


def sender(sock: ssl.SSLSocket) -> Callable[[memoryview], int]:
    """``send(view)``: `ssl.SSLSocket.send` without its call in the interpreter; as `receiver`."""
    write: Callable[[memoryview], int] | None = getattr(_inner(sock), "write", None)
    return write or sock.send


def _inner(sock: ssl.SSLSocket) -> object:
    """What an SSLSocket wraps: there under this name since Python 3.2, though no part of what it promises."""
    return getattr(sock, "_sslobj", None)
