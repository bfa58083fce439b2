"""From a node's settings to what administration needs of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mezzo_server.admin.audit import Audit, make_audit
from mezzo_server.config import NodeConfig
from mezzo_server.metadata.urls import SQLITE
from mezzo_server.tenancy.keys import new_tenant_key, read_master_keys
from mezzo_server.tenancy.model import TenantKey


def audit_of(node: NodeConfig) -> Audit:
    """The audit log that is configured; beside the file of the metadata if nothing is said."""
    url = node.metadata.engine
    beside = Path(url.removeprefix(SQLITE)).parent if url.startswith(SQLITE) else None
    settings = node.admin
    return make_audit(
        settings.audit_log, beside, bytes_max=settings.audit_bytes_max, files=settings.audit_files
    )


def tenant_keys_of(node: NodeConfig) -> Callable[[bytes], TenantKey] | None:
    """Makes a tenant's key, wrapped with the master key; None: there is no master key.

    The file is read when a key is made: InvalidArgument then if it cannot be used.
    """
    settings = node.encryption
    if not settings.master_key:
        return None

    def make(tenant_id: bytes) -> TenantKey:
        keys = read_master_keys(settings.master_key, settings.former_master_keys)
        return keys.current.wrap(tenant_id, new_tenant_key(os.urandom), os.urandom)

    return make
