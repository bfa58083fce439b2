"""Calls of the metadata service: which there are, who we say that we are, and what its errors mean."""

from __future__ import annotations

from typing import Any

import grpc

from mezzo.errors import (
    Busy,
    Denied,
    InvalidArgument,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from mezzo.frontend.status import understand
from mezzo.v1 import metadata_pb2 as api
from mezzo_server.metadata.calling import (
    NOTHING,
    Member,
    MemberCalls,
    Metadata,
    Method,
    details,
)
from mezzo_server.metadata.remote.place import ServicePlace
from mezzo_server.metadata.remote.secrets import first_secret
from mezzo_server.metadata.trust import Refused, Trust, contents

SERVICE = api.DESCRIPTOR.services_by_name["MetadataService"].full_name
_PATH = f"/{SERVICE}/"

GET = Method(_PATH + "GetEntry", api.GetEntryRequest, api.GetEntryResponse)
SCAN = Method(_PATH + "ScanEntries", api.ScanEntriesRequest, api.ScanEntriesResponse, asks_once=True)
TRANSACT = Method(_PATH + "Transact", api.TransactRequest, api.TransactResponse)
GRANT = Method(_PATH + "GrantLease", api.GrantLeaseRequest, api.GrantLeaseResponse)
KEEP = Method(_PATH + "KeepLease", api.KeepLeaseRequest, api.KeepLeaseResponse)
REVOKE = Method(_PATH + "RevokeLease", api.RevokeLeaseRequest, api.RevokeLeaseResponse)
WATCH = Method(_PATH + "WatchEntries", api.WatchEntriesRequest, api.WatchEntriesResponse, asks_once=True)

PROBE = "probe"
"""a key that nobody writes"""
REFUSALS = (Unauthenticated, Denied, Unsupported)
WHAT = "the metadata service"


class ServiceCalls(MemberCalls):
    """The connections to all replicas. Owner of the secret that they are shown."""

    each = "replica"
    # A replica asks an engine, of which a member may just have gone.
    attempt_s = 3.0
    probe_s = 2.0
    # A watch tells every second that its replica and the engine are there: who has one need not ask besides.
    fresh_s = 1.5
    beats = True

    def __init__(self, place: ServicePlace, call_s: float, first: int) -> None:
        """``call_s``: how long a call may take, all its attempts together; ``first``: which replica is asked first."""
        trust = Trust(place.ca, place.certificate, place.key) if place.tls else None
        super().__init__(WHAT, place.endpoints, trust, call_s, first)
        self._secret_file = place.secret_file
        self._secret = ""

    def meaning(self, error: grpc.RpcError, endpoint: str) -> Exception:
        trailing: Any = error.trailing_metadata() or ()
        told = understand(error.code().value[0], details(error), trailing)
        said = f"{WHAT} at {endpoint}: {told}"
        if isinstance(told, InvalidArgument | TooLarge):
            return InvalidArgument(str(told))
        if isinstance(told, Busy):
            return Busy(said, told.retry_after_s)
        return Refused(said) if isinstance(told, REFUSALS) else Unavailable(said)

    async def question(self, member: Member, timeout_s: float) -> None:
        await self.ask(member, GET, api.GetEntryRequest(key=PROBE), timeout_s, await self.credential(member))

    async def credential(self, member: Member) -> Metadata:
        if not self._secret_file:
            return NOTHING
        if not self._secret:
            self._secret = self._read()
        return (("authorization", f"Bearer {self._secret}"),)

    def forget(self, error: grpc.RpcError) -> bool:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED or not self._secret_file:
            return False
        before, self._secret = self._secret, ""
        try:
            self._secret = self._read()
        except Refused:
            return False  # it is told with the next call
        return self._secret != before

    def _read(self) -> str:
        try:
            return first_secret(contents(self._secret_file) or b"")
        except InvalidArgument as error:
            raise Refused(f"{self._secret_file}: {error}") from None
