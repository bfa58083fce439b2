"""What operators see and ask for, as messages of gRPC and back. No I/O."""

from __future__ import annotations

from mezzo.errors import InvalidArgument, ProtocolError
from mezzo.frontend.naming import identity_message, identity_of
from mezzo.v1 import admin_pb2
from mezzo_server.admin.api import (
    CredentialInfo,
    IssuedCredential,
    LifetimeChange,
    NamespaceChange,
    NamespaceUsage,
    TenantChange,
    Usage,
)
from mezzo_server.tenancy.model import Lifetime, Limit, Namespace, Quota, Tenant

ADMIN_SERVICE = "mezzo.v1.AdminService"
QUOTAS = Quota.__struct_fields__
U63_MAX = 2**63 - 1


def quota_message(quota: Quota) -> admin_pb2.Quota:
    """A quota."""
    return changed_quota_message({field: getattr(quota, field) for field in QUOTAS})


def changed_quota_message(limits: dict[str, Limit]) -> admin_pb2.Quota:
    """Some limits of a quota, by its fields."""
    return admin_pb2.Quota(
        **{field: admin_pb2.QuotaLimit(soft=limit.soft, hard=limit.hard) for field, limit in limits.items()}
    )


def limits_of(message: admin_pb2.Quota) -> dict[str, Limit]:
    """The limits that are in a message. InvalidArgument for one that is out of range."""
    found = {}
    for field in QUOTAS:
        if message.HasField(field):  # type: ignore[arg-type]
            limit = getattr(message, field)
            if max(limit.soft, limit.hard) > U63_MAX:
                raise InvalidArgument(f"{field} is over {U63_MAX}")
            found[field] = Limit(limit.soft, limit.hard)
    return found


def quota_of(message: admin_pb2.Quota) -> Quota:
    """A quota."""
    return Quota(**limits_of(message))


def lifetime_message(lifetime: Lifetime | LifetimeChange) -> admin_pb2.Lifetime:
    """A lifetime, or what of one is to be different."""
    return admin_pb2.Lifetime(ttl_s_default=lifetime.ttl_s_default, ttl_s_max=lifetime.ttl_s_max)


def lifetime_change_of(message: admin_pb2.Lifetime) -> LifetimeChange:
    """What of a lifetime is to be different. InvalidArgument for what is out of range."""
    given = {
        name: getattr(message, name) for name in ("ttl_s_default", "ttl_s_max") if message.HasField(name)
    }
    for name, value in given.items():
        if value > U63_MAX:
            raise InvalidArgument(f"{name} is over {U63_MAX}")
    return LifetimeChange(**given)


def lifetime_of(message: admin_pb2.Lifetime) -> Lifetime:
    """A lifetime."""
    return lifetime_change_of(message).of(Lifetime())


def tenant_change_of(request: admin_pb2.SetTenantRequest) -> TenantChange:
    """What of a tenant is to be different."""
    return TenantChange(
        weight=request.weight or None,
        quota=limits_of(request.quota),
        lifetime=lifetime_change_of(request.lifetime),
        copies=request.copies or None,
    )


def namespace_change_of(request: admin_pb2.SetNamespaceRequest) -> NamespaceChange:
    """What of a namespace is to be different."""
    return NamespaceChange(
        lifetime=lifetime_change_of(request.lifetime),
        copies=request.copies if request.HasField("copies") else None,
    )


def usage_message(usage: Usage) -> admin_pb2.Usage:
    """What is used."""
    return admin_pb2.Usage(
        chunks=usage.chunks, bytes=usage.bytes, hot_bytes=usage.hot_bytes, leased_bytes=usage.leased_bytes
    )


def usage_of(message: admin_pb2.Usage) -> Usage:
    """What is used."""
    return Usage(message.chunks, message.bytes, message.hot_bytes, message.leased_bytes)


def tenant_message(tenant: Tenant, usage: Usage | None = None) -> admin_pb2.Tenant:
    """A tenant."""
    return admin_pb2.Tenant(
        id=tenant.id,
        name=tenant.name,
        generation=tenant.generation,
        weight=tenant.weight,
        quota=quota_message(tenant.quota),
        lifetime=lifetime_message(tenant.lifetime),
        encrypted=tenant.encrypted,
        created_s=tenant.created_s,
        deleted=tenant.deleted,
        usage=None if usage is None else usage_message(usage),
        copies=tenant.copies,
    )


def tenant_of(message: admin_pb2.Tenant) -> Tenant:
    """A tenant. ProtocolError if it cannot be one."""
    return Tenant(
        id=_checked_id(message.id),
        name=message.name,
        generation=message.generation,
        weight=message.weight,
        quota=quota_of(message.quota),
        lifetime=lifetime_of(message.lifetime),
        encrypted=message.encrypted,
        created_s=message.created_s,
        deleted=message.deleted,
        copies=message.copies or 1,  # a front-end of an earlier release says nothing of it
    )


def namespace_usage_of(message: admin_pb2.NamespaceUsage) -> NamespaceUsage:
    """What a namespace uses."""
    return NamespaceUsage(message.chunks, message.bytes)


def namespace_message(
    namespace: Namespace, tenant: str, usage: NamespaceUsage | None = None
) -> admin_pb2.Namespace:
    """A namespace."""
    return admin_pb2.Namespace(
        id=namespace.id,
        tenant=tenant,
        name=namespace.name,
        identity=None if namespace.identity is None else identity_message(namespace.identity),
        generation=namespace.generation,
        lifetime=lifetime_message(namespace.lifetime),
        created_s=namespace.created_s,
        deleted=namespace.deleted,
        usage=None if usage is None else admin_pb2.NamespaceUsage(chunks=usage.chunks, bytes=usage.bytes),
        copies=namespace.copies,
    )


def namespace_of(message: admin_pb2.Namespace) -> Namespace:
    """A namespace; the id of its tenant is not told. ProtocolError if it cannot be one."""
    return Namespace(
        id=_checked_id(message.id),
        tenant_id=bytes(16),
        name=message.name,
        identity=identity_of(message.identity) if message.HasField("identity") else None,
        generation=message.generation,
        lifetime=lifetime_of(message.lifetime),
        created_s=message.created_s,
        deleted=message.deleted,
        copies=message.copies,
    )


def credential_message(credential: CredentialInfo) -> admin_pb2.Credential:
    """A credential."""
    return admin_pb2.Credential(
        id=credential.id,
        tenant=credential.tenant,
        scopes=credential.scopes,
        created_s=credential.created_s,
        expires_s=credential.expires_s,
        revoked=credential.revoked,
        note=credential.note,
    )


def credential_of(message: admin_pb2.Credential) -> CredentialInfo:
    """A credential."""
    return CredentialInfo(
        id=message.id,
        tenant=message.tenant,
        scopes=list(message.scopes),
        created_s=message.created_s,
        expires_s=message.expires_s,
        revoked=message.revoked,
        note=message.note,
    )


def issued_message(issued: IssuedCredential) -> admin_pb2.IssuedCredential:
    """A new credential with its token."""
    return admin_pb2.IssuedCredential(credential=credential_message(issued.credential), token=issued.token)


def issued_of(message: admin_pb2.IssuedCredential) -> IssuedCredential:
    """A new credential with its token."""
    return IssuedCredential(credential_of(message.credential), message.token)


def _checked_id(value: bytes) -> bytes:
    if len(value) != 16:
        raise ProtocolError(f"an id of {len(value)} bytes, not 16")
    return value
