"""From entries of the metadata to a `Catalog`, and from one catalog to the next. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from mezzo.errors import InternalError, Unsupported
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
    Record,
    decode,
    key_of,
)
from mezzo_server.tenancy.model import Credential, Namespace, Tenant, TenantKey, TicketKey

N = TypeVar("N", Tenant, Namespace)


class CatalogLoader:
    """Follows the records under `CATALOG`. Owner of them; `catalog` makes an immutable copy.

    A record that is malformed, or of a kind that a newer release has, or that only that may act by, is told to
    ``complain`` (its key, and why) and left out: what one record says must not take the others away.
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
        self._changed: set[type[Record]] = set()
        """kinds of records that are not as in the last catalog"""
        self._last = Catalog()

    @property
    def revision(self) -> int:
        """The revision that the records are of."""
        return self._revision

    def distrust(self) -> None:
        """Revisions say nothing any more: it may be another file, with another past."""
        self._revisions = dict.fromkeys(self._revisions, 0)

    def load(self, scan: Scan) -> bool:
        """All records, of a scan of `CATALOG`; whether any is another than in the last `catalog`.

        Entries that are known in their revision are not decoded again.
        """
        found = {entry.key: entry.revision for entry in scan.entries}
        if scan.revision < self._revision:
            self.distrust()  # a backup was restored
        changes = [
            Change(entry.key, entry.value, entry.revision)
            for entry in scan.entries
            if self._revisions.get(entry.key) != entry.revision
        ]
        changes += [Change(key, None, scan.revision) for key in self._revisions if key not in found]
        self._revision = 0
        self.apply(changes)
        self._revision = scan.revision
        return bool(self._changed)

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
        before = records.get(change.key)
        after = None
        if change.value is not None:
            try:
                after = decode(kind, change.key, change.value)
            except (InternalError, Unsupported) as error:
                # What cannot be read is not known any more either: what it said may have been taken back.
                self._complain(change.key, str(error))
        if after == before:
            return
        self._changed.add(kind)
        if after is None:
            del records[change.key]
        else:
            records[change.key] = after

    def catalog(self) -> Catalog:
        """What is known now. Parts that are as before are the same objects as before."""
        last, changed = self._last, self._changed
        tenants, namespaces, credentials = last.tenants, last.namespaces, last.credentials
        ticket_keys, tenant_keys = last.ticket_keys, last.tenant_keys
        tenant_ids, namespace_ids = last.tenant_ids, last.namespace_ids
        if Tenant in changed:
            tenants = {tenant.id: tenant for tenant in self._tenants.values()}
            tenant_ids = self._tenant_ids()
        if Namespace in changed:
            namespaces = {namespace.id: namespace for namespace in self._namespaces.values()}
        if Tenant in changed or Namespace in changed:
            namespace_ids = self._namespace_ids(tenants)
        if Credential in changed:
            credentials = {credential.id: credential for credential in self._credentials.values()}
        if TicketKey in changed:
            ticket_keys = {key.id: key for key in self._ticket_keys.values()}
        if TenantKey in changed:
            tenant_keys = {key.tenant_id: key for key in self._tenant_keys.values()}
        self._last = Catalog(
            revision=self._revision,
            tenants=tenants,
            namespaces=namespaces,
            credentials=credentials,
            ticket_keys=ticket_keys,
            tenant_keys=tenant_keys,
            tenant_ids=tenant_ids,
            namespace_ids=namespace_ids,
        )
        self._changed = set()
        return self._last

    def _tenant_ids(self) -> dict[str, bytes]:
        ids: dict[str, bytes] = {}
        for tenant in _oldest_first(self._tenants.values()):
            if not tenant.deleted and ids.setdefault(tenant.name, tenant.id) != tenant.id:
                self._complain(key_of(tenant), f"an older tenant is named {tenant.name!r} as well")
        return ids

    def _namespace_ids(self, tenants: Mapping[bytes, Tenant]) -> dict[tuple[bytes, str], bytes]:
        ids: dict[tuple[bytes, str], bytes] = {}
        for namespace in _oldest_first(self._namespaces.values()):
            owner = tenants.get(namespace.tenant_id)
            if namespace.deleted or owner is None or owner.deleted:
                continue
            name = (namespace.tenant_id, namespace.name)
            if ids.setdefault(name, namespace.id) != namespace.id:
                self._complain(key_of(namespace), f"an older namespace is named {namespace.name!r} as well")
        return ids


def _oldest_first(records: Iterable[N]) -> Sequence[N]:
    return sorted(records, key=lambda record: (record.created_s, record.id))
