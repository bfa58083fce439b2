"""Opening a namespace through a front-end, and identities as messages. No I/O."""

from __future__ import annotations

import msgspec

from mezzo.errors import InvalidArgument, ProtocolError
from mezzo.frontend.exchange import parse
from mezzo.identity import NAME_CHARACTERS_MAX, Identity, check_identity
from mezzo.v1 import namespace_pb2

NAMESPACE_SERVICE = "mezzo.v1.NamespaceService"
OPEN_NAMESPACE = "OpenNamespace"


def open_request(name: str, identity: Identity) -> bytes:
    """The message that opens a namespace."""
    request = namespace_pb2.OpenNamespaceRequest(name=name, identity=identity_message(identity))
    return bytes(request.SerializeToString())


def opened_name(answer: bytes) -> str:
    """What the front-end calls the namespace. Raises ProtocolError."""
    name = str(parse(namespace_pb2.OpenNamespaceResponse, answer).name)
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        raise ProtocolError(f"the front-end calls a namespace by a name of {len(name)} characters")
    return name


def identity_message(identity: Identity) -> namespace_pb2.Identity:
    """An identity as a message."""
    return namespace_pb2.Identity(**msgspec.structs.asdict(identity))


def identity_of(message: namespace_pb2.Identity) -> Identity:
    """The identity in a message. Raises InvalidArgument if it is not valid."""
    fields = {name: getattr(message, name) for name in Identity.__struct_fields__}
    for size in ("tp_size", "pp_size"):
        fields[size] = fields[size] or 1
    try:
        return check_identity(Identity(**fields))
    except TypeError as error:
        raise InvalidArgument(f"identity: {error}") from None
