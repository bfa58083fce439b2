"""An operator's actions through a front-end's admin port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from mezzo.address import Address
from mezzo.credentials import Bearer
from mezzo.errors import ConnectionLost, MezzoError, ProtocolError, Unsupported
from mezzo.frontend.link import channel_credentials
from mezzo.frontend.naming import identity_message
from mezzo.frontend.opened import tls_advice
from mezzo.frontend.options import channel_options, name_options
from mezzo.frontend.status import understand
from mezzo.identity import Identity
from mezzo.tls import TLS
from mezzo.v1 import admin_pb2 as pb
from mezzo_server.admin.api import (
    Admin,
    CredentialInfo,
    IssuedCredential,
    NamespaceChange,
    NamespaceUsage,
    TenantChange,
    Usage,
)
from mezzo_server.admin.messages import (
    ADMIN_SERVICE,
    changed_quota_message,
    credential_of,
    issued_of,
    lifetime_message,
    namespace_of,
    namespace_usage_of,
    quota_message,
    tenant_of,
    usage_of,
)
from mezzo_server.tenancy.model import Lifetime, Namespace, Quota, Tenant


class Transport(Protocol):
    """Brings a call to a front-end."""

    async def call(self, method: str, request: bytes) -> bytes:
        """The answer to a request. Raises MezzoError."""

    async def close(self) -> None:
        """Let go of the connection."""


class Channel:
    """A connection to the admin port of a front-end."""

    def __init__(self, address: Address, *, tls: TLS, bearer: Bearer, timeout_s: float) -> None:
        """``address``: ``grpc`` or ``grpcs``. InvalidArgument for a file of ``tls`` that cannot be read."""
        options: list[tuple[str, Any]] = [*channel_options()]
        if address.is_encrypted:
            options += name_options(address, tls)
            self._channel = grpc.aio.secure_channel(address.target, channel_credentials(tls), options)
        else:
            self._channel = grpc.aio.insecure_channel(address.target, options)
        self._address = address
        self._metadata = bearer.metadata()
        self._timeout_s = timeout_s

    async def call(self, method: str, request: bytes) -> bytes:
        """See `Transport`."""
        call: Any = self._channel.unary_unary(f"/{ADMIN_SERVICE}/{method}")
        try:
            return bytes(await call(request, timeout=self._timeout_s, metadata=self._metadata))
        except grpc.aio.AioRpcError as error:
            metadata = tuple(error.trailing_metadata() or ())
            raise self._advised(understand(error.code().value[0], error.details() or "", metadata)) from None

    async def close(self) -> None:
        """See `Transport`."""
        await self._channel.close()

    def _advised(self, error: MezzoError) -> MezzoError:
        """The error, with what to look at if the way itself is wrong."""
        if isinstance(error, ConnectionLost):
            return ConnectionLost(f"{error}{tls_advice(self._address, str(error))}")
        if isinstance(error, Unsupported):
            return Unsupported(
                f"{self._address} does not administer: the admin port of a front-end is another than that for "
                "clients, by default the next (frontend.admin_listen)"
            )
        return error


class RemoteAdmin(Admin):
    """Asks a front-end. Owner of its transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create_tenant(
        self, name: str, *, weight: int, quota: Quota, lifetime: Lifetime, encrypted: bool, copies: int = 1
    ) -> Tenant:
        request = pb.CreateTenantRequest(
            name=name,
            weight=weight,
            quota=quota_message(quota),
            lifetime=lifetime_message(lifetime),
            encrypted=encrypted,
            copies=copies,
        )
        return tenant_of((await self._call("CreateTenant", request, pb.CreateTenantResponse)).tenant)

    async def tenants(self, *, deleted: bool = False) -> list[Tenant]:
        request = pb.ListTenantsRequest(deleted=deleted)
        return [
            tenant_of(one)
            for one in (await self._call("ListTenants", request, pb.ListTenantsResponse)).tenants
        ]

    async def tenant(self, name: str) -> tuple[Tenant, Usage | None]:
        found = (await self._call("GetTenant", pb.GetTenantRequest(name=name), pb.GetTenantResponse)).tenant
        return tenant_of(found), usage_of(found.usage) if found.HasField("usage") else None

    async def set_tenant(self, name: str, change: TenantChange) -> Tenant:
        request = pb.SetTenantRequest(
            name=name,
            weight=change.weight or 0,
            quota=changed_quota_message(dict(change.quota)),
            lifetime=lifetime_message(change.lifetime),
            copies=change.copies or 0,
        )
        return tenant_of((await self._call("SetTenant", request, pb.SetTenantResponse)).tenant)

    async def rotate_tenant(self, name: str, overlap_s: int) -> list[IssuedCredential]:
        request = pb.RotateTenantRequest(name=name, overlap_s=overlap_s)
        answer = await self._call("RotateTenant", request, pb.RotateTenantResponse)
        return [issued_of(one) for one in answer.issued]

    async def delete_tenant(self, name: str) -> Tenant:
        request = pb.DeleteTenantRequest(name=name)
        return tenant_of((await self._call("DeleteTenant", request, pb.DeleteTenantResponse)).tenant)

    async def issue_credential(
        self, tenant: str, scopes: Sequence[str], *, expires_s: int = 0, note: str = ""
    ) -> IssuedCredential:
        request = pb.IssueCredentialRequest(tenant=tenant, scopes=scopes, expires_s=expires_s, note=note)
        return issued_of((await self._call("IssueCredential", request, pb.IssueCredentialResponse)).issued)

    async def credentials(self, tenant: str | None = None) -> list[CredentialInfo]:
        request = pb.ListCredentialsRequest(tenant=tenant)
        answer = await self._call("ListCredentials", request, pb.ListCredentialsResponse)
        return [credential_of(one) for one in answer.credentials]

    async def revoke_credential(self, credential_id: str) -> CredentialInfo:
        request = pb.RevokeCredentialRequest(id=credential_id)
        answer = await self._call("RevokeCredential", request, pb.RevokeCredentialResponse)
        return credential_of(answer.credential)

    async def add_namespace(self, tenant: str, name: str, identity: Identity | None) -> Namespace:
        request = pb.AddNamespaceRequest(
            tenant=tenant, name=name, identity=None if identity is None else identity_message(identity)
        )
        return namespace_of((await self._call("AddNamespace", request, pb.AddNamespaceResponse)).namespace)

    async def namespaces(self, tenant: str, *, deleted: bool = False) -> list[Namespace]:
        request = pb.ListNamespacesRequest(tenant=tenant, deleted=deleted)
        answer = await self._call("ListNamespaces", request, pb.ListNamespacesResponse)
        return [namespace_of(one) for one in answer.namespaces]

    async def namespace(self, tenant: str, name: str) -> tuple[Namespace, NamespaceUsage | None]:
        request = pb.GetNamespaceRequest(tenant=tenant, name=name)
        found = (await self._call("GetNamespace", request, pb.GetNamespaceResponse)).namespace
        return namespace_of(found), namespace_usage_of(found.usage) if found.HasField("usage") else None

    async def set_namespace(self, tenant: str, name: str, change: NamespaceChange) -> Namespace:
        request = pb.SetNamespaceRequest(
            tenant=tenant, name=name, lifetime=lifetime_message(change.lifetime), copies=change.copies
        )
        return namespace_of((await self._call("SetNamespace", request, pb.SetNamespaceResponse)).namespace)

    async def purge_namespace(self, tenant: str, name: str) -> Namespace:
        request = pb.PurgeNamespaceRequest(tenant=tenant, name=name)
        return namespace_of(
            (await self._call("PurgeNamespace", request, pb.PurgeNamespaceResponse)).namespace
        )

    async def delete_namespace(self, tenant: str, name: str) -> Namespace:
        request = pb.DeleteNamespaceRequest(tenant=tenant, name=name)
        return namespace_of(
            (await self._call("DeleteNamespace", request, pb.DeleteNamespaceResponse)).namespace
        )

    async def close(self) -> None:
        await self._transport.close()

    async def _call(self, method: str, request: Message, answer: type[Any]) -> Any:
        data = await self._transport.call(method, request.SerializeToString())
        try:
            return answer.FromString(data)
        except DecodeError as error:
            raise ProtocolError(f"the answer is no {answer.__name__}: {error}") from None
