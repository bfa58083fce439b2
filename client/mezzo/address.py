"""Addresses of shards, ``unix:///run/mezzo.sock`` and ``tcp://host:port``, and front-ends, ``grpc://host:port``.

``tcps`` and ``grpcs`` are the same over TLS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from mezzo.errors import InvalidArgument

UNIX_PATH_BYTES_MAX = 107  # sun_path of struct sockaddr_un, less the closing zero


class Address(NamedTuple):
    """Where a shard or front-end listens. ``host`` is the path for ``unix``, and ``port`` is 0 then."""

    scheme: str
    host: str
    port: int = 0

    @property
    def is_frontend(self) -> bool:
        """Whether a front-end listens there."""
        return self.scheme in ("grpc", "grpcs")

    @property
    def is_encrypted(self) -> bool:
        """Whether it is reached over TLS."""
        return self.scheme in ("tcps", "grpcs")

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this host, as far as the address itself tells."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def target(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        return str(self).partition("://")[2]

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> Address:
    """The address that ``text`` names.

    Raises:
        InvalidArgument: it is none of ``unix:///path``, ``tcp[s]://host:port`` and ``grpc[s]://host:port``.
    """
    if text.startswith("unix://"):
        path = text.removeprefix("unix://")
        if not path.startswith("/") or "\0" in path:
            raise InvalidArgument(
                f"address {text!r}: a Unix socket needs a full path, unix:///run/mezzo.sock"
            )
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise InvalidArgument(f"address {text!r}: the path is over {UNIX_PATH_BYTES_MAX} bytes")
        return Address("unix", path)
    scheme = text.partition("://")[0]
    if scheme in ("tcp", "tcps", "grpc", "grpcs"):
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InvalidArgument(f"address {text!r}: {error}") from None
        rest = parts.path or parts.query or parts.fragment
        if not host or not port or rest or parts.username is not None or not _may_be_host(host):
            raise InvalidArgument(f"address {text!r}: expected {scheme}://host:port")
        return Address(scheme, host, port)
    raise InvalidArgument(
        f"address {text!r}: expected unix:///path, tcp://host:port, grpc://host:port, or tcps:// and grpcs:// "
        "for TLS"
    )


def parse_all(given: str | Sequence[str]) -> tuple[Address, ...]:
    """The address of a shard, or those of one or more front-ends: ``grpc://a:7710,b:7710``, or a list of them.

    What follows a comma is of the scheme before it, unless it says its own.

    Raises:
        InvalidArgument: one of them is no address, or there are several and not all are front-ends'.
    """
    texts = [given] if isinstance(given, str) else list(given)
    found: list[Address] = []
    for text in texts:
        scheme = ""
        # A path may have commas; only front-ends can be several.
        for part in text.split(",") if text.startswith(("grpc://", "grpcs://")) else [text]:
            part = part.strip()
            scheme = f"{part.partition('://')[0]}://" if "://" in part else scheme
            found.append(parse(part if "://" in part else scheme + part))
    if not found:
        raise InvalidArgument("no address")
    if len(found) > 1 and not all(address.is_frontend for address in found):
        raise InvalidArgument(
            "several addresses are those of front-ends, grpc:// or grpcs://; a shard has one"
        )
    return tuple(dict.fromkeys(found))


def _may_be_host(host: str) -> bool:
    """Whether it can be looked up at all: what it is made of is only seen then, and told as an error of its own."""
    try:
        host.partition("%")[0].encode("idna")
    except UnicodeError:
        return False
    return True
