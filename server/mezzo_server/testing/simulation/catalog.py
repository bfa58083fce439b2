"""The tenant and the namespace of a simulated pod: everybody is of the one, and uses the other."""

from __future__ import annotations

from mezzo_server.shard.directory import SEVERAL_SHARDS, Directory
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.model import Namespace, Tenant

NAME = "default"
SCOPE = Directory(SEVERAL_SHARDS).scope_without_catalog(NAME)
CATALOG = Catalog(
    revision=1,
    tenants={SCOPE.tenant: Tenant(id=SCOPE.tenant, name=NAME)},
    namespaces={SCOPE.namespace: Namespace(id=SCOPE.namespace, tenant_id=SCOPE.tenant, name=NAME)},
    tenant_ids={NAME: SCOPE.tenant},
    namespace_ids={(SCOPE.tenant, NAME): SCOPE.namespace},
)
