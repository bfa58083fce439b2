"""Where an etcd is and how it is reached: the texts ``etcd://`` and ``etcds://``. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from mezzo.errors import InvalidArgument

PLAIN = "etcd://"
TLS = "etcds://"
PORT = 2379
ENDPOINTS_MAX = 16
EXAMPLE = "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mezzo"
FILES = ("ca", "certificate", "key", "password_file")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.%]{2,60}\]")
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,7}")


@dataclass(frozen=True, slots=True)
class EtcdPlace:
    """What an address says."""

    endpoints: tuple[str, ...]
    """host:port of each member"""
    folder: str
    """all keys begin with this and a slash"""
    tls: bool
    ca: str = ""
    """file of the authorities that may have signed the members' certificates; empty: the system's"""
    certificate: str = ""
    """file of our own; empty: none"""
    key: str = ""
    user: str = ""
    """empty: etcd asks for none"""
    password_file: str = ""


def is_etcd(url: str) -> bool:
    """Whether ``url`` says that it names an etcd."""
    return url.startswith((PLAIN, TLS))


def parse_place(url: str) -> EtcdPlace:
    """What ``url`` says, as in `EXAMPLE`.

    Raises:
        InvalidArgument: it is not of that form; the message says what is wrong.
    """
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise _wrong(url, str(error)) from None
    if split.fragment or "#" in url:
        raise _wrong(url, "it has a #")
    user, at, members = split.netloc.rpartition("@")
    if at and ":" in user:
        raise _wrong(url, "it has a password: name a file with ?password_file=")
    names = members.split(",")
    if len(names) > ENDPOINTS_MAX:
        raise _wrong(url, f"it has {len(names)} members, at most {ENDPOINTS_MAX} are used")
    endpoints = tuple(_endpoint(url, name) for name in names)
    if len(set(endpoints)) < len(endpoints):
        raise _wrong(url, "a member stands in it twice")
    folder = split.path.removeprefix("/")
    if not _FOLDER.fullmatch(folder):
        raise _wrong(url, "after the members comes the folder of the keys, as in /mezzo")
    given = dict(parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query)))
    for name, value in given.items():
        if name not in FILES:
            raise _wrong(url, f"there is no ?{name}=, only {', '.join(FILES)}")
        if not value.startswith("/"):
            raise _wrong(url, f"?{name}= is the whole path of a file")
    tls = url.startswith(TLS)
    if not tls and given.keys() & {"ca", "certificate", "key"}:
        raise _wrong(url, "certificates are for etcds://")
    if ("certificate" in given) is not ("key" in given):
        raise _wrong(url, "a certificate needs its key, and a key its certificate")
    if bool(user) is not ("password_file" in given):
        raise _wrong(url, "a user needs a password_file, and a password_file a user")
    return EtcdPlace(endpoints=endpoints, folder=folder, tls=tls, user=unquote(user), **given)


def _endpoint(url: str, name: str) -> str:
    host, colon, port = name.rpartition(":")
    if not colon or name.endswith("]"):
        host, port = name, str(PORT)
    if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise _wrong(url, f"{name!r} is no host and port")
    return f"{host}:{int(port)}"


def _wrong(url: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"{url!r} names no etcd, as {EXAMPLE} does: {why}")
