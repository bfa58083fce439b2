"""Opening namespaces: names, and the identities that belong to them."""

from __future__ import annotations

import grpc

from mezzo.errors import Denied, InvalidArgument
from mezzo.frontend.naming import NAMESPACE_SERVICE, OPEN_NAMESPACE, identity_of
from mezzo.identity import bound_name, derived_name
from mezzo.v1 import namespace_pb2
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Calls
from mezzo_server.frontend.metadata import FrontendMetadata
from mezzo_server.frontend.namespaces import check_name


class NamespaceHandlers:
    """Handlers of ``mezzo.v1.NamespaceService``."""

    def __init__(self, metadata: FrontendMetadata | None) -> None:
        """``metadata``: where names are registered; None: nobody keeps them."""
        self._metadata = metadata

    async def open_namespace(
        self, request: namespace_pb2.OpenNamespaceRequest, timeout_s: float
    ) -> namespace_pb2.OpenNamespaceResponse:
        """See ``OpenNamespace``."""
        identity = identity_of(request.identity) if request.HasField("identity") else None
        name = request.name
        if not name:
            if identity is None:
                raise InvalidArgument("a namespace needs a name, an identity or both")
            name = derived_name(identity)
        check_name(name)
        if self._metadata is not None:
            if caller().is_operator:
                raise Denied("an operator's credential belongs to no tenant, and so has no namespaces")
            await self._metadata.open_namespace(caller(), name, identity)
        elif identity is not None:
            # Nobody keeps which identity a name has, so the identity is part of the name.
            name = bound_name(name, identity)
        return namespace_pb2.OpenNamespaceResponse(name=name)


def namespace_service(calls: Calls, handlers: NamespaceHandlers) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    handler = calls.unary(OPEN_NAMESPACE, namespace_pb2.OpenNamespaceRequest, handlers.open_namespace)
    return grpc.method_handlers_generic_handler(
        NAMESPACE_SERVICE, {OPEN_NAMESPACE: grpc.stream_unary_rpc_method_handler(handler)}
    )
