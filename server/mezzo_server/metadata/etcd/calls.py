"""Calls of etcd's gRPC API: as whom they are made, and what its errors mean."""

from __future__ import annotations

import grpc

from mezzo.errors import Busy, InvalidArgument, Unavailable
from mezzo_server.metadata.calling import (
    ATTEMPT_S,
    AWAY,
    NOTHING,
    Member,
    MemberCalls,
    Metadata,
    Method,
    details,
)
from mezzo_server.metadata.etcd import etcd_pb2 as api
from mezzo_server.metadata.etcd.place import EtcdPlace
from mezzo_server.metadata.trust import Refused, Trust, contents

SAYS_EXPIRED = "invalid auth token"
NO_USER = "user name is empty"
WITH_LEADER = ("hasleader", "true")
"""A member that has no leader ends a stream with this, instead of keeping silent."""

RANGE = Method("/etcdserverpb.KV/Range", api.RangeRequest, api.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", api.TxnRequest, api.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", api.CompactionRequest, api.CompactionResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", api.LeaseGrantRequest, api.LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", api.LeaseRevokeRequest, api.LeaseRevokeResponse)
KEEP = Method("/etcdserverpb.Lease/LeaseKeepAlive", api.LeaseKeepAliveRequest, api.LeaseKeepAliveResponse)
LEASES = Method("/etcdserverpb.Lease/LeaseLeases", api.LeaseLeasesRequest, api.LeaseLeasesResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", api.WatchRequest, api.WatchResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", api.AuthenticateRequest, api.AuthenticateResponse)


class EtcdCalls(MemberCalls):
    """The connections to one etcd. Owner of the token."""

    of_streams = (WITH_LEADER,)

    def __init__(self, place: EtcdPlace, call_s: float) -> None:
        """``call_s``: how long a call may take, all its attempts together."""
        trust = Trust(place.ca, place.certificate, place.key) if place.tls else None
        super().__init__("etcd", place.endpoints, trust, call_s)
        self._place = place
        self._token = ""

    def meaning(self, error: grpc.RpcError, endpoint: str) -> Exception:
        return meaning(error, endpoint)

    async def question(self, member: Member, timeout_s: float) -> None:
        await self.ask(member, RANGE, api.RangeRequest(key=b"\0", limit=1, keys_only=True), timeout_s)

    def forget(self, error: grpc.RpcError) -> bool:
        if not self._token or SAYS_EXPIRED not in details(error):
            return False
        self._token = ""
        return True

    async def credential(self, member: Member) -> Metadata:
        place = self._place
        if not place.user:
            return NOTHING
        if not self._token:
            password = (contents(place.password_file) or b"").decode().strip("\n")
            request = api.AuthenticateRequest(name=place.user, password=password)
            try:
                self._token = (await self.ask(member, AUTHENTICATE, request, ATTEMPT_S)).token
            except grpc.RpcError as error:
                if error.code() in AWAY:
                    raise meaning(error, member.endpoint) from error
                raise Refused(f"etcd does not let {place.user!r} in: {details(error)}") from None
        return (("token", self._token),)


def meaning(error: grpc.RpcError, endpoint: str) -> Exception:
    """The error of ours that an error of etcd's is; the error itself if the caller has to know what it asked."""
    code, told = error.code(), details(error)
    said = f"etcd at {endpoint}: {told}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "too many requests" in told:
            return Busy(said, 1.0)
        return Unavailable(f"{said} (compact and defragment it, then disarm its alarm)")
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in told:
        return InvalidArgument(said)
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE):
        return error
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED) or NO_USER in told:
        return Refused(said)
    return Unavailable(said)
