"""What a catalog says of the scopes in which chunks were stored."""

from __future__ import annotations

from mezzo_server.blockstore.api import Scope, Standing, StandingOf
from mezzo_server.tenancy.catalog import Catalog


def standing_of(catalog: Catalog) -> StandingOf:
    """For `BlockStore.open` and `BlockStore.heed`; costs nothing to make.

    A scope with a generation higher than the catalog's is alive: the catalog is behind, or was restored.
    """

    def standing(scope: Scope) -> Standing:
        tenant = catalog.tenants.get(scope.tenant)
        namespace = catalog.namespaces.get(scope.namespace)
        if tenant is not None and (tenant.deleted or scope.tenant_generation < tenant.generation):
            return Standing.ERASED
        if tenant is None or namespace is None or namespace.tenant_id != tenant.id:
            return Standing.UNKNOWN
        if namespace.deleted or scope.namespace_generation < namespace.generation:
            return Standing.ERASED
        return Standing.ALIVE

    return standing
