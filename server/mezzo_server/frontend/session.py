"""Opening sessions: a ticket, and the map that says where the shards are."""

from __future__ import annotations

import grpc

from mezzo.errors import InvalidArgument
from mezzo.frontend.exchange import SESSION_SERVICE
from mezzo.protocol.messages import KEYS_MAX
from mezzo.v1 import session_pb2
from mezzo_server.config import FrontendConfig
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Calls
from mezzo_server.frontend.metadata import FrontendMetadata
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.shards import NodeShards
from mezzo_server.frontend.ticket_office import TicketOffice

CLIENT_CHARACTERS_MAX = 128


class SessionHandlers:
    """Handlers of ``mezzo.v1.SessionService``."""

    def __init__(
        self,
        shards: NodeShards,
        config: FrontendConfig,
        numbers: FrontendNumbers,
        office: TicketOffice | None = None,
        metadata: FrontendMetadata | None = None,
    ) -> None:
        """No ``office``: no tickets; no ``metadata``: every name is a namespace."""
        self._metadata = metadata
        self._office = office
        self._shards = shards
        self._config = config
        self._numbers = numbers

    async def open_session(
        self, request: session_pb2.OpenSessionRequest, timeout_s: float
    ) -> session_pb2.OpenSessionResponse:
        """See ``OpenSession``."""
        if len(request.client) > CLIENT_CHARACTERS_MAX:
            raise InvalidArgument(
                f"client has {len(request.client)} characters, over {CLIENT_CHARACTERS_MAX}"
            )
        config = self._config
        if request.namespace and self._metadata is not None:
            await self._metadata.open_namespace(caller(), request.namespace)
        seen = await self._shards.look(timeout_s)
        ticket, ticket_s = b"", config.session_s
        if self._office is not None:
            signed = self._office.sign(caller())
            ticket, ticket_s = signed.ticket, max(0.0, signed.expires - self._office.now())
        self._numbers.sessions += 1
        return session_pb2.OpenSessionResponse(
            ticket=ticket,
            ticket_ms=round(ticket_s * 1000),
            map=session_pb2.PlacementMap(
                epoch=seen.epoch,
                shards=[
                    session_pb2.Shard(
                        incarnation=shard.incarnation,
                        addresses=shard.addresses,
                        capacity_bytes=shard.capacity_bytes,
                    )
                    for shard in seen.shards
                ],
                encoded=seen.encoded,
            ),
            limits=session_pb2.Limits(
                keys_max=KEYS_MAX,
                chunk_bytes_max=min(seen.limits.chunk_bytes_max, config.put_bytes_max, config.staging_bytes),
                put_bytes_max=config.put_bytes_max,
                message_bytes_max=config.message_bytes_max,
                piece_bytes_max=config.piece_bytes,
                lease_ms_max=seen.limits.lease_ms_max,
            ),
            server=seen.limits.server,
        )


def session_service(calls: Calls, handlers: SessionHandlers) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    handler = calls.unary("OpenSession", session_pb2.OpenSessionRequest, handlers.open_session)
    return grpc.method_handlers_generic_handler(
        SESSION_SERVICE, {"OpenSession": grpc.unary_unary_rpc_method_handler(handler)}
    )
