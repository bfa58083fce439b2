"""What a client has done so far."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Totals since the client was made."""

    connections: int = 0
    """connections made (1 without any loss)"""
    connections_lost: int = 0
    """connections that ended other than by ``close``"""
    connect_failures: int = 0
    """attempts to connect that failed"""
    requests: int = 0
    """requests sent"""
    bytes_got: int = 0
    """chunk bytes delivered by gets"""
    bytes_put: int = 0
    """chunk bytes of puts that were stored"""
    bytes_copied: int = 0
    """bytes copied through staging because their memory was foreign"""
    checksum_mismatches: int = 0
    """chunks received by TCP whose bytes did not match their checksums; answered as misses"""
    timeouts: int = 0
    """requests given up because their time was over"""
    retries: int = 0
    """calls made again on a new connection"""


class Counters:
    """The mutable side of `ClientStatistics`. Its fields have the same names.

    Adding is not atomic between threads without the client's lock; a lost count is accepted where
    that is not held.
    """

    __slots__ = tuple(field.name for field in dataclasses.fields(ClientStatistics))

    connections: int
    connections_lost: int
    connect_failures: int
    requests: int
    bytes_got: int
    bytes_put: int
    bytes_copied: int
    checksum_mismatches: int
    timeouts: int
    retries: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def snapshot(self) -> ClientStatistics:
        """The totals now."""
        return ClientStatistics(**{name: getattr(self, name) for name in self.__slots__})
