"""Where records of tenants lie in the metadata, and the way from bytes to records."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mezzo.errors import InternalError, Unsupported
from mezzo_server.stored import decode_stored, encode_stored
from mezzo_server.tenancy.model import Credential, Namespace, Tenant, TenantKey, TicketKey

Record = Tenant | Namespace | Credential | TicketKey | TenantKey
R = TypeVar("R", Tenant, Namespace, Credential, TicketKey, TenantKey)

CATALOG = "catalog/"
"""What is under it makes up the catalog; a key's second part says what kind of record it has."""
TENANTS = CATALOG + "tenants/"
NAMESPACES = CATALOG + "namespaces/"
CREDENTIALS = CATALOG + "credentials/"
TICKET_KEYS = CATALOG + "ticket-keys/"
TENANT_KEYS = CATALOG + "tenant-keys/"
NAMES = "names/"
"""Keys that exist so that a name exists once; each holds the id of what has the name."""


def tenant_key(tenant_id: bytes) -> str:
    """Of a `Tenant`."""
    return f"{TENANTS}{tenant_id.hex()}"


def namespaces_prefix(tenant_id: bytes) -> str:
    """Of all of a tenant's."""
    return f"{NAMESPACES}{tenant_id.hex()}/"


def namespace_key(tenant_id: bytes, namespace_id: bytes) -> str:
    """Of a `Namespace`."""
    return f"{namespaces_prefix(tenant_id)}{namespace_id.hex()}"


def credential_key(credential_id: str) -> str:
    """Of a `Credential`."""
    return f"{CREDENTIALS}{credential_id}"


def ticket_key_key(key_id: bytes) -> str:
    """Of a `TicketKey`."""
    return f"{TICKET_KEYS}{key_id.hex()}"


def tenant_key_key(tenant_id: bytes) -> str:
    """Of a `TenantKey`. Removing it destroys what was encrypted with it."""
    return f"{TENANT_KEYS}{tenant_id.hex()}"


def tenant_name_key(name: str) -> str:
    """Held by the tenant that has this name."""
    return f"{NAMES}tenants/{name}"


def namespace_names_prefix(tenant_id: bytes) -> str:
    """Of the names of all of a tenant's namespaces."""
    return f"{NAMES}namespaces/{tenant_id.hex()}/"


def namespace_name_key(tenant_id: bytes, name: str) -> str:
    """Held by the tenant's namespace that has this name."""
    return namespace_names_prefix(tenant_id) + name


def key_of(record: Record) -> str:
    """Where a record lies."""
    if isinstance(record, Tenant):
        return tenant_key(record.id)
    if isinstance(record, Namespace):
        return namespace_key(record.tenant_id, record.id)
    if isinstance(record, Credential):
        return credential_key(record.id)
    if isinstance(record, TicketKey):
        return ticket_key_key(record.id)
    return tenant_key_key(record.tenant_id)


def encode(record: Record) -> bytes:
    """A record as it is stored."""
    return encode_stored(record)


def decode(kind: type[R], key: str, value: bytes) -> R:
    """A record of this kind, which lies where it should.

    Raises:
        InternalError: it is malformed; the message names its key.
        Unsupported: only a later release may act by it.
    """
    try:
        record = decode_stored(kind, value)
    except Unsupported as error:
        raise Unsupported(f"the metadata record {key} is a later release's: {error}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InternalError(f"the metadata record {key} is malformed: {error}") from None
    if key_of(record) != key:
        raise InternalError(f"the metadata record {key} has another's id")
    return record
