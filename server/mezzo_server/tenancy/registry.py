"""Tenants and namespaces in a metadata engine: made, changed, purged, deleted. Credentials: `credentials`.

A deletion and a purge are one write, a generation raised: from then on nothing stored before can be read.
What is left over is cleared away afterwards.  Records of what was deleted stay, so that shards which were
away learn of it; of the oldest, over a limit, nothing is kept, and their chunks are found by nobody since
ids are never used again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec.structs import replace

from mezzo.errors import Conflict, InvalidArgument, OverQuota
from mezzo.identity import conflict_message
from mezzo.protocol.messages import TTL_S_MAX
from mezzo_server.metadata.engine import Check, Engine, Write
from mezzo_server.tenancy.credentials import Credentials
from mezzo_server.tenancy.entries import (
    NAMESPACES,
    TENANT_KEYS,
    TENANTS,
    namespace_key,
    namespace_name_key,
    namespace_names_prefix,
    namespaces_prefix,
    tenant_key,
    tenant_key_key,
    tenant_name_key,
)
from mezzo_server.tenancy.model import (
    DEFAULT_NAMESPACE,
    NAME_CHARACTERS_MAX,
    NAME_FORM,
    Identity,
    Lifetime,
    Limit,
    Namespace,
    Quota,
    Tenant,
    TenantKey,
)
from mezzo_server.tenancy.records import Found, Plan, Records

TENANTS_MAX = 4096
NAMESPACES_MAX = 1024
"""of one tenant"""
DELETED_TENANTS_MAX = 1024
DELETED_NAMESPACES_MAX = 256
"""of one tenant"""
ID_BYTES = 16


class Registry:
    """The operations. Every one checks what it was decided on, and is tried again when others were quicker.

    All may raise `Unavailable` (the engine), and `Busy`.
    """

    def __init__(self, engine: Engine, now: Callable[[], float], random: Callable[[int], bytes]) -> None:
        """``now``: Unix time, seconds; ``random``: so many bytes that nobody can guess."""
        self._records = Records(engine)
        self._engine = engine
        self._now = now
        self._random = random
        self.credentials = Credentials(self._records, now, random)

    # -- tenants

    async def create_tenant(
        self,
        name: str,
        *,
        weight: int = 1,
        quota: Quota = Quota(),  # noqa: B008 - immutable
        lifetime: Lifetime = Lifetime(),  # noqa: B008 - immutable
        key: Callable[[bytes], TenantKey] | None = None,
        copies: int = 1,
    ) -> Tenant:
        """A new tenant, and its namespace ``default``.

        ``key`` makes the key with which its chunks are encrypted, given its id; None: they are not.

        Raises:
            Conflict: the name is taken.
            InvalidArgument: a value is out of range.
            OverQuota: there are `TENANTS_MAX`.
        """
        _check_tenant_name(name)
        tenant = Tenant(
            id=self._random(ID_BYTES),
            name=name,
            weight=weight,
            quota=quota,
            lifetime=lifetime,
            encrypted=key is not None,
            created_s=int(self._now()),
            copies=copies,
        )
        _check_quota(quota)
        _check_lifetime(lifetime)
        kept = None if key is None else key(tenant.id)
        first = self._new_namespace(tenant.id, DEFAULT_NAMESPACE, None)

        async def think() -> Plan[Tenant]:
            if await self._records.named(tenant_name_key(name)) is not None:
                raise Conflict(f"there is a tenant {name!r} already")
            live = sum(not found.record.deleted for found in await self._records.all(Tenant, TENANTS))
            if live >= TENANTS_MAX:
                raise OverQuota(f"there are {TENANTS_MAX} tenants", 60.0)
            plan = Plan(tenant)
            plan.put(tenant, 0)
            plan.claim(tenant_name_key(name), tenant.id)
            plan.put(first, 0)
            plan.claim(namespace_name_key(tenant.id, first.name), first.id)
            if kept is not None:
                plan.put(kept, 0)
            return plan

        return await self._records.change(think)

    async def ensure_tenant(self, name: str) -> Tenant:
        """The tenant of this name; made if there is none."""
        found = await self._find_tenant(name)
        if found is not None:
            return found.record
        try:
            return await self.create_tenant(name)
        except Conflict:
            return await self.tenant(name)

    async def tenant(self, name: str) -> Tenant:
        """The tenant of this name. Raises InvalidArgument: there is none."""
        return (await self._tenant(name)).record

    async def tenants(self, *, deleted: bool = False) -> list[Tenant]:
        """All tenants by name; with ``deleted``, those that are known to have been as well."""
        found = [item.record for item in await self._records.all(Tenant, TENANTS)]
        return sorted(
            (t for t in found if deleted or not t.deleted), key=lambda t: (t.name, t.created_s, t.id)
        )

    async def set_tenant(self, name: str, change: Callable[[Tenant], Tenant]) -> Tenant:
        """The tenant, changed: weight, quota, lifetime and copies. ``change`` may be called more than once.

        Raises:
            InvalidArgument: there is none, a value is out of range, or something else would change.
        """

        async def think() -> Plan[Tenant]:
            found = await self._tenant(name)
            was, new = found.record, change(found.record)
            back = replace(new, weight=was.weight, quota=was.quota, lifetime=was.lifetime, copies=was.copies)
            if back != was:
                raise InvalidArgument("of a tenant only weight, quota, lifetime and copies can be changed")
            _check_quota(new.quota)
            _check_lifetime(new.lifetime)
            plan = Plan(new)
            if new != was:
                plan.put(new, found.revision)
            return plan

        return await self._records.change(think)

    async def tenant_keys(self) -> list[TenantKey]:
        """The wrapped keys of all tenants whose chunks are encrypted."""
        return [found.record for found in await self._records.all(TenantKey, TENANT_KEYS)]

    async def set_tenant_key(self, key: TenantKey) -> None:
        """Keep a tenant's key wrapped anew. Raises InvalidArgument: the tenant's chunks are not encrypted."""

        async def think() -> Plan[None]:
            found = await self._records.find(TenantKey, tenant_key_key(key.tenant_id))
            if found is None:
                raise InvalidArgument("the tenant's chunks are not encrypted, and cannot be from now on")
            plan = Plan(None)
            plan.put(replace(key, rest=found.record.rest), found.revision)
            return plan

        await self._records.change(think)

    async def delete_tenant(self, name: str) -> Tenant:
        """The tenant, deleted: its chunks cannot be read any more, its credentials are void, its key is destroyed."""

        async def think() -> Plan[Tenant]:
            found = await self._tenant(name)
            gone = replace(found.record, deleted=True, generation=found.record.generation + 1)
            plan = Plan(gone)
            plan.put(gone, found.revision)
            plan.writes.append(Write(tenant_name_key(name), None))
            plan.writes.append(Write(tenant_key_key(gone.id), None))
            return plan

        tenant = await self._records.change(think)
        await self._records.clear_up(self.tidy)
        return tenant

    # -- namespaces

    async def open_namespace(
        self, tenant_id: bytes, name: str, identity: Identity | None = None
    ) -> Namespace:
        """The tenant's namespace of this name; made with this identity if there is none.

        Without an identity, whatever is there is meant.

        Raises:
            Conflict: it has another identity; the message shows both.
            InvalidArgument: a value is out of range, or there is no such tenant.
            OverQuota: the tenant has `NAMESPACES_MAX`.
        """
        wanted = self._new_namespace(tenant_id, name, identity)

        async def think() -> Plan[Namespace]:
            found = await self._find_namespace(tenant_id, name)
            owner = await self._records.find(Tenant, tenant_key(tenant_id))
            if owner is None or owner.record.deleted:
                raise InvalidArgument("there is no such tenant")
            if found is not None:
                there = found.record
                if identity is not None and there.identity != identity:
                    raise Conflict(conflict_message(name, there.identity, identity))
                return Plan(there)
            live = await self.namespaces(tenant_id)
            if len(live) >= NAMESPACES_MAX:
                raise OverQuota(f"the tenant has {NAMESPACES_MAX} namespaces", 60.0)
            plan = Plan(wanted)
            plan.checks.append(Check(tenant_key(tenant_id), owner.revision))
            plan.put(wanted, 0)
            plan.claim(namespace_name_key(tenant_id, name), wanted.id)
            return plan

        return await self._records.change(think)

    async def namespace(self, tenant_id: bytes, name: str) -> Namespace:
        """The tenant's namespace of this name. Raises InvalidArgument: there is none."""
        return (await self._namespace(tenant_id, name)).record

    async def namespaces(self, tenant_id: bytes, *, deleted: bool = False) -> list[Namespace]:
        """A tenant's namespaces by name; with ``deleted``, those that are known to have been as well."""
        found = await self._records.all(Namespace, namespaces_prefix(tenant_id))
        kept = (item.record for item in found if deleted or not item.record.deleted)
        return sorted(kept, key=lambda namespace: (namespace.name, namespace.created_s, namespace.id))

    async def set_namespace(
        self, tenant_id: bytes, name: str, change: Callable[[Namespace], Namespace]
    ) -> Namespace:
        """The namespace, changed: lifetime and copies of chunks that are put from now on. ``change`` may be called more
        than once.

        Raises:
            InvalidArgument: there is none, a value is out of range, or something else would change.
        """

        def changed(was: Namespace) -> Namespace:
            new = change(was)
            if replace(new, lifetime=was.lifetime, copies=was.copies) != was:
                raise InvalidArgument("of a namespace only lifetime and copies can be changed")
            _check_lifetime(new.lifetime)
            return new

        return await self._change_namespace(tenant_id, name, changed)

    async def purge_namespace(self, tenant_id: bytes, name: str) -> Namespace:
        """The namespace, empty: the chunks that were in it cannot be read any more."""
        return await self._change_namespace(
            tenant_id, name, lambda was: replace(was, generation=was.generation + 1)
        )

    async def delete_namespace(self, tenant_id: bytes, name: str) -> Namespace:
        """The namespace, deleted: its chunks cannot be read any more, and its name is free."""
        if name == DEFAULT_NAMESPACE:
            raise InvalidArgument(f"every tenant has the namespace {DEFAULT_NAMESPACE!r}: it can be purged")

        def gone(was: Namespace) -> Namespace:
            return replace(was, deleted=True, generation=was.generation + 1)

        namespace = await self._change_namespace(tenant_id, name, gone)
        await self._records.clear_up(self.tidy)
        return namespace

    async def tidy(self) -> None:
        """Clear away what deletions left over: what belongs to deleted tenants, and the oldest records of them.

        Every deletion does so; it may be cut short at any point, and done again.
        """
        # In this order: a tenant that is made meanwhile has no namespace among these.
        namespaces = await self._records.all(Namespace, NAMESPACES)
        tenants = await self._records.all(Tenant, TENANTS)
        dead = sorted((f for f in tenants if f.record.deleted), key=lambda found: found.revision)
        dead_ids = {found.record.id for found in dead}
        gone: list[Namespace] = []
        by_tenant: dict[bytes, list[Found[Namespace]]] = {}
        for found in namespaces:
            if found.record.tenant_id in dead_ids:
                gone.append(found.record)
            elif found.record.deleted:
                by_tenant.setdefault(found.record.tenant_id, []).append(found)
        for deleted in by_tenant.values():
            deleted.sort(key=lambda found: found.revision)
            gone += [found.record for found in deleted[:-DELETED_NAMESPACES_MAX]]
        keys = [namespace_key(record.tenant_id, record.id) for record in gone]
        for tenant_id in sorted({record.tenant_id for record in gone} & dead_ids):
            scan = await self._engine.scan(namespace_names_prefix(tenant_id))
            keys += [entry.key for entry in scan.entries]
        await self._records.remove(keys)
        await self.credentials.remove_of(dead_ids)
        await self._records.remove([tenant_key(f.record.id) for f in dead[:-DELETED_TENANTS_MAX]])

    # -- below

    def _new_namespace(self, tenant_id: bytes, name: str, identity: Identity | None) -> Namespace:
        return Namespace(
            id=self._random(ID_BYTES),
            tenant_id=tenant_id,
            name=name,
            identity=identity,
            created_s=int(self._now()),
        )

    async def _find_tenant(self, name: str) -> Found[Tenant] | None:
        _check_name("tenant", name)
        tenant_id = await self._records.named(tenant_name_key(name))
        return None if tenant_id is None else await self._records.find(Tenant, tenant_key(tenant_id))

    async def _tenant(self, name: str) -> Found[Tenant]:
        found = await self._find_tenant(name)
        if found is None or found.record.deleted:
            raise InvalidArgument(f"there is no tenant {name!r}")
        return found

    async def _find_namespace(self, tenant_id: bytes, name: str) -> Found[Namespace] | None:
        _check_name("namespace", name)
        namespace_id = await self._records.named(namespace_name_key(tenant_id, name))
        if namespace_id is None:
            return None
        return await self._records.find(Namespace, namespace_key(tenant_id, namespace_id))

    async def _namespace(self, tenant_id: bytes, name: str) -> Found[Namespace]:
        found = await self._find_namespace(tenant_id, name)
        if found is None or found.record.deleted:
            raise InvalidArgument(f"there is no namespace {name!r}")
        return found

    async def _change_namespace(
        self, tenant_id: bytes, name: str, change: Callable[[Namespace], Namespace]
    ) -> Namespace:
        async def think() -> Plan[Namespace]:
            found = await self._namespace(tenant_id, name)
            new = change(found.record)
            plan = Plan(new)
            if new != found.record:
                plan.put(new, found.revision)
            if new.deleted:
                plan.writes.append(Write(namespace_name_key(tenant_id, name), None))
            return plan

        return await self._records.change(think)


def _check_tenant_name(name: str) -> None:
    if not re.fullmatch(NAME_FORM, name):
        raise InvalidArgument(
            f"{name!r} cannot be a tenant's name, which has 1 to {NAME_CHARACTERS_MAX} letters, digits and . _ -, "
            "and begins with a letter or a digit"
        )


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidArgument(f"a {what}'s name has 1 to {NAME_CHARACTERS_MAX} printable characters")


def _check_quota(quota: Quota) -> None:
    for field in quota.__struct_fields__:
        limit: Limit = getattr(quota, field)
        if limit.hard and limit.soft > limit.hard:
            raise InvalidArgument(
                f"{field}: the soft limit ({limit.soft}) is over the hard one ({limit.hard})"
            )


def _check_lifetime(lifetime: Lifetime) -> None:
    for field in lifetime.__struct_fields__:
        ttl_s: int = getattr(lifetime, field)
        if ttl_s > TTL_S_MAX:
            raise InvalidArgument(f"{field}: {ttl_s} s are over {TTL_S_MAX:.0f} s; 0 is no end")
