"""From entries of the metadata to a `Catalog`, and from one catalog to the next. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from mezzo.errors import InternalError
from mezzo_server.metadata.engine import Change, Scan
from mezzo_server.tenancy.catalog import Catalog
from mezzo_server.tenancy.entries import (
    CATALOG,
    CREDENTIALS,
    NAMESPACES,
    TENANT_KEYS,
    TENANTS,
    TICKET_KEYS,
    R,
    decode,
    key_of,
)
from mezzo_server.tenancy.model import Credential, Namespace, Tenant, TenantKey, TicketKey

N = TypeVar("N", Tenant, Namespace)


class CatalogLoader:
    """Follows the records under `CATALOG`. Owner of them; `catalog` makes an immutable copy.

    A record that is malformed, or of a kind that a newer release has, is told to ``complain`` (its key, and
    why) and left out: what one record says must not take the others away.
    """

    def __init__(self, complain: Callable[[str, str], None]) -> None:
        self._complain = complain
        self._revision = 0
        self._revisions: dict[str, int] = {}
        """of each entry, malformed ones too"""
        self._tenants: dict[str, Tenant] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._credentials: dict[str, Credential] = {}
        self._ticket_keys: dict[str, TicketKey] = {}
        self._tenant_keys: dict[str, TenantKey] = {}

    @property
    def revision(self) -> int:
        """The revision that the records are of."""
        return self._revision

    def load(self, scan: Scan) -> bool:
        """All records, of a scan of `CATALOG`; whether any is another than before.

        Entries that are known in their revision are not decoded again.
        """
        found = {entry.key: entry.revision for entry in scan.entries}
        # Revisions that fall are those of a restored backup: then an equal number says nothing.
        known = self._revisions if scan.revision >= self._revision else {}
        changes = [
            Change(entry.key, entry.value, entry.revision)
            for entry in scan.entries
            if known.get(entry.key) != entry.revision
        ]
        changes += [Change(key, None, scan.revision) for key in self._revisions if key not in found]
        self._revision = 0
        self.apply(changes)
        self._revision = scan.revision
        return bool(changes)

    def apply(self, changes: Iterable[Change]) -> None:
        """Changes of keys under `CATALOG`, in order."""
        for change in changes:
            self._revision = max(self._revision, change.revision)
            if change.value is None:
                self._revisions.pop(change.key, None)
            else:
                self._revisions[change.key] = change.revision
            self._apply(change)

    def _apply(self, change: Change) -> None:
        key = change.key
        if key.startswith(TENANTS):
            self._set(self._tenants, Tenant, change)
        elif key.startswith(NAMESPACES):
            self._set(self._namespaces, Namespace, change)
        elif key.startswith(CREDENTIALS):
            self._set(self._credentials, Credential, change)
        elif key.startswith(TICKET_KEYS):
            self._set(self._ticket_keys, TicketKey, change)
        elif key.startswith(TENANT_KEYS):
            self._set(self._tenant_keys, TenantKey, change)
        elif key.startswith(CATALOG) and change.value is not None:
            self._complain(key, "this release knows no such records")

    def _set(self, records: dict[str, R], kind: type[R], change: Change) -> None:
        # What cannot be read is not known any more either: what it said may have been taken back.
        records.pop(change.key, None)
        if change.value is None:
            return
        try:
            records[change.key] = decode(kind, change.key, change.value)
        except InternalError as error:
            self._complain(change.key, str(error))

    def catalog(self) -> Catalog:
        """What is known now."""
        tenants = {tenant.id: tenant for tenant in self._tenants.values()}
        namespaces = {namespace.id: namespace for namespace in self._namespaces.values()}
        tenant_ids: dict[str, bytes] = {}
        namespace_ids: dict[tuple[bytes, str], bytes] = {}
        for tenant in _oldest_first(self._tenants.values()):
            if not tenant.deleted and tenant_ids.setdefault(tenant.name, tenant.id) != tenant.id:
                self._complain(key_of(tenant), f"an older tenant is named {tenant.name!r} as well")
        for namespace in _oldest_first(self._namespaces.values()):
            owner = tenants.get(namespace.tenant_id)
            if namespace.deleted or owner is None or owner.deleted:
                continue
            name = (namespace.tenant_id, namespace.name)
            if namespace_ids.setdefault(name, namespace.id) != namespace.id:
                self._complain(key_of(namespace), f"an older namespace is named {namespace.name!r} as well")
        return Catalog(
            revision=self._revision,
            tenants=tenants,
            namespaces=namespaces,
            credentials={credential.id: credential for credential in self._credentials.values()},
            ticket_keys={key.id: key for key in self._ticket_keys.values()},
            tenant_keys={key.tenant_id: key for key in self._tenant_keys.values()},
            tenant_ids=tenant_ids,
            namespace_ids=namespace_ids,
        )


def _oldest_first(records: Iterable[N]) -> Sequence[N]:
    return sorted(records, key=lambda record: (record.created_s, record.id))
