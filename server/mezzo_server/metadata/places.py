"""Texts that name several places which say the same: ``scheme://host:port,host:port/folder?ca=/file``. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from mezzo.errors import InvalidArgument

ENDPOINTS_MAX = 16
CALL_S = 6.0
"""A call has so long at all places together, unless the engine's maker says otherwise."""
TRUST = ("ca", "certificate", "key")
"""files that only TLS has a use for"""
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.%]{2,60}\]")
_FOLDER = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){0,7}")


class Parts(NamedTuple):
    """What such a text says."""

    endpoints: tuple[str, ...]
    """host:port of each"""
    tls: bool
    user: str
    """empty: none"""
    folder: str
    """without a slash at either end; empty: none"""
    files: Mapping[str, str]
    words: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of such texts."""

    what: str
    """that it names, in words"""
    plain: str
    """scheme"""
    encrypted: str
    """scheme of the same over TLS"""
    port: int
    """if none is named"""
    example: str
    files: tuple[str, ...]
    """that may be named behind the question mark"""
    words: Mapping[str, tuple[str, ...]]
    """what else may stand there, and which values it has"""

    def names(self, url: str) -> bool:
        """Whether a text says that it is of this kind."""
        return url.startswith((self.plain, self.encrypted))

    def wrong(self, url: str, why: str) -> InvalidArgument:
        """The error that says what is wrong with it."""
        return InvalidArgument(f"{url!r} names no {self.what}, as {self.example} does: {why}")

    def parse(self, url: str) -> Parts:
        """
        Raises:
            InvalidArgument: the message says what is wrong.
        """
        try:
            split = urlsplit(url)
            given = dict(parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query)))
        except ValueError as error:
            raise self.wrong(url, str(error)) from None
        if split.fragment or "#" in url:
            raise self.wrong(url, "it has a #")
        user, at, members = split.netloc.rpartition("@")
        if at and ":" in user:
            raise self.wrong(url, "it has a password, which belongs into a file")
        folder = split.path.removeprefix("/")
        if folder and not _FOLDER.fullmatch(folder):
            raise self.wrong(url, f"{folder!r} is no folder")
        return Parts(
            endpoints=self._endpoints(url, members),
            tls=url.startswith(self.encrypted),
            user=unquote(user),
            folder=folder,
            files=self._files(url, given),
            words={name: value for name, value in given.items() if name in self.words},
        )

    def _endpoints(self, url: str, members: str) -> tuple[str, ...]:
        names = members.split(",")
        if len(names) > ENDPOINTS_MAX:
            raise self.wrong(url, f"it has {len(names)} hosts, at most {ENDPOINTS_MAX} are used")
        endpoints = tuple(self._endpoint(url, name) for name in names)
        if len(set(endpoints)) < len(endpoints):
            raise self.wrong(url, "a host and port stand in it twice")
        return endpoints

    def _endpoint(self, url: str, name: str) -> str:
        host, colon, port = name.rpartition(":")
        if not colon or name.endswith("]"):
            host, port = name, str(self.port)
        if not _HOST.fullmatch(host) or not port.isdecimal() or not 0 < int(port) < 65536:
            raise self.wrong(url, f"{name!r} is no host and port")
        return f"{host}:{int(port)}"

    def _files(self, url: str, given: Mapping[str, str]) -> dict[str, str]:
        for name, value in given.items():
            if name in self.files:
                if not value.startswith("/"):
                    raise self.wrong(url, f"?{name}= is the whole path of a file")
            elif name not in self.words:
                raise self.wrong(url, f"there is no ?{name}=, only {', '.join((*self.files, *self.words))}")
            elif value not in self.words[name]:
                raise self.wrong(url, f"?{name}= is {' or '.join(self.words[name])}")
        if not url.startswith(self.encrypted) and given.keys() & set(TRUST):
            raise self.wrong(url, f"certificates are for {self.encrypted}")
        if ("certificate" in given) is not ("key" in given):
            raise self.wrong(url, "a certificate needs its key, and a key its certificate")
        return {name: value for name, value in given.items() if name in self.files}
