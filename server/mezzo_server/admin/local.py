"""An operator's actions on the metadata themselves, each told to the audit log.

Whoever may write the file of the metadata is an operator; that is how the first token is made.  A
front-end does the same on behalf of operators who come with a token (`service`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import asdict

from mezzo.errors import Busy, CallerError, InvalidArgument, MezzoError, Unavailable
from mezzo.identity import Identity, derived_name
from mezzo_server.admin.api import (
    OPERATORS,
    Admin,
    CredentialInfo,
    IssuedCredential,
    LifetimeChange,
    NamespaceChange,
    NamespaceUsage,
    TenantChange,
    TenantUsage,
    Usage,
)
from mezzo_server.admin.audit import Actor, Audit, Outcome
from mezzo_server.tenancy.credentials import Issued
from mezzo_server.tenancy.keys import MasterKeys
from mezzo_server.tenancy.model import Credential, Lifetime, Limit, Namespace, Quota, Tenant, TenantKey
from mezzo_server.tenancy.registry import Registry

T = TypeVar("T")

OVERLAP_S_MAX = 30 * 24 * 3600
"""how long a token that was replaced may be good for"""

UsageOf = Callable[[bytes], Awaitable[TenantUsage | None]]
"""What a tenant (its id) uses; None: nobody can tell."""


class LocalAdmin(Admin):
    """Acts for one operator. It closes nothing of what it was given."""

    def __init__(
        self,
        registry: Registry,
        audit: Audit,
        actor: Actor,
        *,
        now: Callable[[], float],
        usage: UsageOf | None = None,
        new_key: Callable[[bytes], TenantKey] | None = None,
    ) -> None:
        """``new_key`` makes a tenant's key, given its id; None: there is no master key. ``now``: Unix time."""
        self._registry = registry
        self._audit = audit
        self._actor = actor
        self._now = now
        self._usage = usage
        self._new_key = new_key

    # -- tenants

    async def create_tenant(
        self, name: str, *, weight: int, quota: Quota, lifetime: Lifetime, encrypted: bool, copies: int = 1
    ) -> Tenant:
        about = {"tenant": name, "weight": weight, "encrypted": encrypted, "copies": copies}

        async def create() -> Tenant:
            if encrypted and self._new_key is None:
                raise InvalidArgument(
                    "no chunks can be encrypted without a master key (docs/encryption.md says how to make one)"
                )
            return await self._registry.create_tenant(
                name,
                weight=weight,
                quota=quota,
                lifetime=lifetime,
                key=self._new_key if encrypted else None,
                copies=copies,
            )

        return await self._change(
            "tenant.create", create, **about, quota=_limits(quota), lifetime=asdict(lifetime)
        )

    async def rewrap_keys(self, keys: MasterKeys, entropy: Callable[[int], bytes]) -> list[bytes]:
        """Wrap the tenants' keys that a former master key wrapped with the current one; whose they are.

        Raises:
            InvalidArgument: a key can be unwrapped by none of them: nothing was changed, and the master key
                that wrapped it must not be thrown away.
        """

        async def rewrap() -> list[bytes]:
            current = keys.current
            kept = await self._registry.tenant_keys()
            opened, closed = keys.unwrap_all(kept)
            if closed:
                raise InvalidArgument(
                    f"the keys of {len(closed)} tenants were wrapped with another master key than these "
                    f"(the first: tenant {closed[0].hex()}); name it in encryption.former_master_keys"
                )
            due = [one.tenant_id for one in kept if one.master_id != current.id]
            return await self._rewrapped([current.wrap(one, opened[one], entropy) for one in due])

        return await self._change("key.rewrap", rewrap)

    async def tenants(self, *, deleted: bool = False) -> list[Tenant]:
        return await self._registry.tenants(deleted=deleted)

    async def tenant(self, name: str) -> tuple[Tenant, Usage | None]:
        tenant = await self._registry.tenant(name)
        usage = await self._used(tenant.id)
        return tenant, None if usage is None else usage.total

    async def set_tenant(self, name: str, change: TenantChange) -> Tenant:
        return await self._change(
            "tenant.set",
            lambda: self._registry.set_tenant(name, change.of),
            tenant=name,
            weight=change.weight,
            quota={field: asdict(limit) for field, limit in change.quota.items()} or None,
            lifetime=_lifetime(change.lifetime),
            copies=change.copies,
        )

    async def rotate_tenant(self, name: str, overlap_s: int) -> list[IssuedCredential]:
        async def rotate() -> list[Issued]:
            _check_overlap(overlap_s)
            tenant = await self._registry.tenant(name)
            held = await self._registry.credentials.all(tenant.id)
            now = self._now()
            due = [one.id for one in held if not one.revoked and not 0 < one.expires_s <= now]
            issued = await self._registry.credentials.rotate(due, overlap_s)
            if not issued:
                raise InvalidArgument(f"tenant {name!r} has no credential to replace; issue one")
            return issued

        issued = await self._change("tenant.rotate", rotate, tenant=name, overlap_s=overlap_s)
        return [_issued(one, name) for one in issued]

    async def delete_tenant(self, name: str) -> Tenant:
        return await self._change("tenant.delete", lambda: self._registry.delete_tenant(name), tenant=name)

    # -- credentials

    async def issue_credential(
        self, tenant: str, scopes: Sequence[str], *, expires_s: int = 0, note: str = ""
    ) -> IssuedCredential:
        async def issue() -> Issued:
            if 0 < expires_s <= self._now():
                raise InvalidArgument("the credential would have expired already")
            if tenant == OPERATORS and list(scopes) != ["admin"]:
                raise InvalidArgument("an operator's credential has the scope admin, and no other")
            owner = b"" if tenant == OPERATORS else (await self._registry.tenant(tenant)).id
            return await self._registry.credentials.issue(owner, scopes, expires_s=expires_s, note=note)

        issued = await self._change(
            "credential.issue", issue, tenant=tenant, scopes=list(scopes), expires_s=expires_s, note=note
        )
        return _issued(issued, tenant)

    async def credentials(self, tenant: str | None = None) -> list[CredentialInfo]:
        if tenant is None:
            names = {one.id: one.name for one in await self._registry.tenants()}
            found = await self._registry.credentials.all()
            # Those of tenants that were deleted meanwhile are void, and on their way out.
            kept = [one for one in found if not one.tenant_id or one.tenant_id in names]
            return [_info(one, names.get(one.tenant_id, OPERATORS)) for one in kept]
        owner = b"" if tenant == OPERATORS else (await self._registry.tenant(tenant)).id
        return [_info(one, tenant) for one in await self._registry.credentials.all(owner)]

    async def revoke_credential(self, credential_id: str) -> CredentialInfo:
        gone = await self._change(
            "credential.revoke",
            lambda: self._registry.credentials.revoke(credential_id),
            credential=credential_id,
        )
        names = {one.id: one.name for one in await self._registry.tenants()}
        return _info(gone, names.get(gone.tenant_id, OPERATORS))

    # -- namespaces

    async def add_namespace(self, tenant: str, name: str, identity: Identity | None) -> Namespace:
        async def add() -> Namespace:
            called = name or (derived_name(identity) if identity is not None else "")
            owner = await self._registry.tenant(tenant)
            return await self._registry.open_namespace(owner.id, called, identity)

        told = None if identity is None else asdict(identity)
        return await self._change("namespace.open", add, tenant=tenant, namespace=name, identity=told)

    async def namespaces(self, tenant: str, *, deleted: bool = False) -> list[Namespace]:
        owner = await self._registry.tenant(tenant)
        return await self._registry.namespaces(owner.id, deleted=deleted)

    async def namespace(self, tenant: str, name: str) -> tuple[Namespace, NamespaceUsage | None]:
        owner = await self._registry.tenant(tenant)
        namespace = await self._registry.namespace(owner.id, name)
        usage = await self._used(owner.id)
        if usage is None:
            return namespace, None
        return namespace, usage.namespaces.get(namespace.id, NamespaceUsage(0, 0))

    async def set_namespace(self, tenant: str, name: str, change: NamespaceChange) -> Namespace:
        async def work() -> Namespace:
            owner = await self._registry.tenant(tenant)
            return await self._registry.set_namespace(owner.id, name, change.of)

        return await self._change(
            "namespace.set",
            work,
            tenant=tenant,
            namespace=name,
            lifetime=_lifetime(change.lifetime),
            copies=change.copies,
        )

    async def purge_namespace(self, tenant: str, name: str) -> Namespace:
        async def work() -> Namespace:
            owner = await self._registry.tenant(tenant)
            return await self._registry.purge_namespace(owner.id, name)

        return await self._change("namespace.purge", work, tenant=tenant, namespace=name)

    async def delete_namespace(self, tenant: str, name: str) -> Namespace:
        async def work() -> Namespace:
            owner = await self._registry.tenant(tenant)
            return await self._registry.delete_namespace(owner.id, name)

        return await self._change("namespace.delete", work, tenant=tenant, namespace=name)

    async def close(self) -> None:
        """Nothing is its own."""

    # -- below

    async def _rewrapped(self, keys: Sequence[TenantKey]) -> list[bytes]:
        """Keep these in the place of those that are kept; whose they are."""
        done: list[bytes] = []
        for key in keys:
            try:
                await self._registry.set_tenant_key(key)
            except CallerError:
                continue  # the tenant was deleted meanwhile, and its key with it
            except MezzoError as error:
                if not done:
                    raise
                raise Unavailable(
                    f"{len(done)} of {len(keys)} keys were wrapped anew, and then: {error}; begin again"
                ) from error
            done.append(key.tenant_id)
        return done

    async def _used(self, tenant_id: bytes) -> TenantUsage | None:
        return None if self._usage is None else await self._usage(tenant_id)

    async def _change(self, action: str, work: Callable[[], Awaitable[T]], **about: object) -> T:
        return await audited(self._audit, self._actor, action, work, _made, **about)


async def audited(
    audit: Audit,
    actor: Actor,
    action: str,
    work: Callable[[], Awaitable[T]],
    made: Callable[[T], Mapping[str, object]],
    **about: object,
) -> T:
    """Do it, and tell how it ended, whatever happens. ``made``: what the result adds to what is told."""

    async def tell(outcome: Outcome, **more: object) -> None:
        # A caller who went away must not take the record with him.
        await asyncio.shield(asyncio.to_thread(audit.record, actor, action, outcome, **more, **about))

    await asyncio.to_thread(audit.check)
    try:
        result = await work()
    except (CallerError, Busy) as error:
        await tell(Outcome.REFUSED, error=error.code.name, why=str(error))
        raise
    except BaseException as error:
        await tell(Outcome.FAILED, error=type(error).__name__, why=str(error))
        raise
    await tell(Outcome.DONE, **made(result))
    return result


def _made(result: object) -> dict[str, object]:
    """Ids of what an action made or changed."""
    if isinstance(result, Tenant):
        return {"tenant_id": result.id, "generation": result.generation}
    if isinstance(result, Namespace):
        return {"namespace_id": result.id, "generation": result.generation}
    if isinstance(result, Issued):
        return {"credential": result.credential.id}
    if isinstance(result, list):
        return {"credentials": [one.credential.id for one in result if isinstance(one, Issued)]}
    return {}


def _limits(quota: Quota) -> dict[str, object]:
    return {
        field: asdict(getattr(quota, field))
        for field in Quota.__struct_fields__
        if getattr(quota, field) != Limit()
    }


def _lifetime(change: LifetimeChange) -> dict[str, int] | None:
    given = {"ttl_s_default": change.ttl_s_default, "ttl_s_max": change.ttl_s_max}
    return {name: value for name, value in given.items() if value is not None} or None


def _info(credential: Credential, tenant: str) -> CredentialInfo:
    return CredentialInfo(
        id=credential.id,
        tenant=tenant,
        scopes=list(credential.scopes),
        created_s=credential.created_s,
        expires_s=credential.expires_s,
        revoked=credential.revoked,
        note=credential.note,
    )


def _issued(issued: Issued, tenant: str) -> IssuedCredential:
    return IssuedCredential(_info(issued.credential, tenant), issued.token)


def _check_overlap(overlap_s: int) -> None:
    if not 0 <= overlap_s <= OVERLAP_S_MAX:
        raise InvalidArgument(f"overlap is from 0 to {OVERLAP_S_MAX} seconds, not {overlap_s}")
