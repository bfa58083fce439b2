"""Addresses as settings name them, and whether other hosts can reach them. No I/O."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from mezzo.address import UNIX_PATH_BYTES_MAX
from mezzo.errors import InvalidArgument

PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a path, or a host and port."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        return f"{'tcps' if self.tls else 'tcp'}://{host_and_port(self.host, self.port)}"

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it."""
        return self.path is not None or is_loopback(self.host)

    @property
    def is_wildcard(self) -> bool:
        """Whether it takes its port on every address of the host."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def collides(self, other: Address) -> bool:
        """Whether both cannot be listened on at a time. Port 0 takes a free one, so never."""
        if self.path is not None or other.path is not None:
            return self.path == other.path
        if self.port == 0 or self.port != other.port:
            return False
        return self.host == other.host or self.is_wildcard or other.is_wildcard


def parse_address(text: str) -> Address:
    """Of ``unix:///path``, ``tcp://host:port`` or ``tcps://host:port``. InvalidArgument if it is none of them."""
    if text.startswith("unix:///"):
        # All that follows is the path: what would be a query in another address is a letter here.
        path = text.removeprefix("unix://")
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            raise InvalidArgument(f"{text!r}: a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
        return Address(path=path)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"{text!r}: {error}") from None
    more = parts.path.removeprefix("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme in {"tcp", "tcps"} and parts.hostname and port is not None and not more:
        return Address(host=parts.hostname, port=port, tls=parts.scheme == "tcps")
    raise InvalidArgument(f"{text!r} is no address; write unix:///path, tcp://host:port or tcps://host:port")


def parse_host_port(text: str) -> Address:
    """Of ``host:port`` or ``[address]:port``. InvalidArgument if it is neither."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidArgument(f"{text!r}: {error}") from None
    if not host or port is None or parts.path or parts.query or parts.fragment or "@" in text or "/" in text:
        raise InvalidArgument(f"{text!r} is no address; write host:port, such as 127.0.0.1:7710")
    return Address(host=host, port=port)


def is_loopback(host: str) -> bool:
    """Whether this is an address of this host's, or the name of one, that no other host can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
