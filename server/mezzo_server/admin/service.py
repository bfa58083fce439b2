"""``mezzo.v1.AdminService``: what operators do through a front-end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from mezzo.frontend.naming import identity_of
from mezzo.v1 import admin_pb2 as pb
from mezzo_server.admin.api import Admin
from mezzo_server.admin.messages import (
    credential_message,
    issued_message,
    lifetime_of,
    namespace_change_of,
    namespace_message,
    quota_of,
    tenant_change_of,
    tenant_message,
)

Handler = Callable[[Admin, Any], Awaitable[Message]]


async def _create_tenant(admin: Admin, request: pb.CreateTenantRequest) -> Message:
    tenant = await admin.create_tenant(
        request.name,
        weight=request.weight or 1,
        quota=quota_of(request.quota),
        lifetime=lifetime_of(request.lifetime),
        encrypted=request.encrypted,
        copies=request.copies or 1,
    )
    return pb.CreateTenantResponse(tenant=tenant_message(tenant))


async def _list_tenants(admin: Admin, request: pb.ListTenantsRequest) -> Message:
    found = await admin.tenants(deleted=request.deleted)
    return pb.ListTenantsResponse(tenants=[tenant_message(tenant) for tenant in found])


async def _get_tenant(admin: Admin, request: pb.GetTenantRequest) -> Message:
    return pb.GetTenantResponse(tenant=tenant_message(*await admin.tenant(request.name)))


async def _set_tenant(admin: Admin, request: pb.SetTenantRequest) -> Message:
    tenant = await admin.set_tenant(request.name, tenant_change_of(request))
    return pb.SetTenantResponse(tenant=tenant_message(tenant))


async def _rotate_tenant(admin: Admin, request: pb.RotateTenantRequest) -> Message:
    issued = await admin.rotate_tenant(request.name, request.overlap_s)
    return pb.RotateTenantResponse(issued=[issued_message(one) for one in issued])


async def _delete_tenant(admin: Admin, request: pb.DeleteTenantRequest) -> Message:
    return pb.DeleteTenantResponse(tenant=tenant_message(await admin.delete_tenant(request.name)))


async def _issue_credential(admin: Admin, request: pb.IssueCredentialRequest) -> Message:
    issued = await admin.issue_credential(
        request.tenant, list(request.scopes), expires_s=request.expires_s, note=request.note
    )
    return pb.IssueCredentialResponse(issued=issued_message(issued))


async def _list_credentials(admin: Admin, request: pb.ListCredentialsRequest) -> Message:
    found = await admin.credentials(request.tenant if request.HasField("tenant") else None)
    return pb.ListCredentialsResponse(credentials=[credential_message(one) for one in found])


async def _revoke_credential(admin: Admin, request: pb.RevokeCredentialRequest) -> Message:
    gone = await admin.revoke_credential(request.id)
    return pb.RevokeCredentialResponse(credential=credential_message(gone))


async def _add_namespace(admin: Admin, request: pb.AddNamespaceRequest) -> Message:
    identity = identity_of(request.identity) if request.HasField("identity") else None
    namespace = await admin.add_namespace(request.tenant, request.name, identity)
    return pb.AddNamespaceResponse(namespace=namespace_message(namespace, request.tenant))


async def _list_namespaces(admin: Admin, request: pb.ListNamespacesRequest) -> Message:
    found = await admin.namespaces(request.tenant, deleted=request.deleted)
    return pb.ListNamespacesResponse(namespaces=[namespace_message(one, request.tenant) for one in found])


async def _get_namespace(admin: Admin, request: pb.GetNamespaceRequest) -> Message:
    namespace, usage = await admin.namespace(request.tenant, request.name)
    return pb.GetNamespaceResponse(namespace=namespace_message(namespace, request.tenant, usage))


async def _set_namespace(admin: Admin, request: pb.SetNamespaceRequest) -> Message:
    namespace = await admin.set_namespace(request.tenant, request.name, namespace_change_of(request))
    return pb.SetNamespaceResponse(namespace=namespace_message(namespace, request.tenant))


async def _purge_namespace(admin: Admin, request: pb.PurgeNamespaceRequest) -> Message:
    namespace = await admin.purge_namespace(request.tenant, request.name)
    return pb.PurgeNamespaceResponse(namespace=namespace_message(namespace, request.tenant))


async def _delete_namespace(admin: Admin, request: pb.DeleteNamespaceRequest) -> Message:
    namespace = await admin.delete_namespace(request.tenant, request.name)
    return pb.DeleteNamespaceResponse(namespace=namespace_message(namespace, request.tenant))


HANDLERS: dict[str, tuple[type[Message], Handler]] = {
    "CreateTenant": (pb.CreateTenantRequest, _create_tenant),
    "ListTenants": (pb.ListTenantsRequest, _list_tenants),
    "GetTenant": (pb.GetTenantRequest, _get_tenant),
    "SetTenant": (pb.SetTenantRequest, _set_tenant),
    "RotateTenant": (pb.RotateTenantRequest, _rotate_tenant),
    "DeleteTenant": (pb.DeleteTenantRequest, _delete_tenant),
    "IssueCredential": (pb.IssueCredentialRequest, _issue_credential),
    "ListCredentials": (pb.ListCredentialsRequest, _list_credentials),
    "RevokeCredential": (pb.RevokeCredentialRequest, _revoke_credential),
    "AddNamespace": (pb.AddNamespaceRequest, _add_namespace),
    "ListNamespaces": (pb.ListNamespacesRequest, _list_namespaces),
    "GetNamespace": (pb.GetNamespaceRequest, _get_namespace),
    "SetNamespace": (pb.SetNamespaceRequest, _set_namespace),
    "PurgeNamespace": (pb.PurgeNamespaceRequest, _purge_namespace),
    "DeleteNamespace": (pb.DeleteNamespaceRequest, _delete_namespace),
}
"""By method: class of its request, and what answers it."""
