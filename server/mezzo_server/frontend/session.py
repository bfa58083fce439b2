"""Opening sessions: a ticket, and the map that says where the shards are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import grpc

from mezzo import AsyncClient
from mezzo.errors import InvalidArgument, MezzoError
from mezzo.frontend.exchange import SESSION_SERVICE
from mezzo.pod import MapHad, MapTold
from mezzo.protocol.messages import KEYS_MAX, Welcome
from mezzo.v1 import session_pb2
from mezzo_server.config import FrontendConfig
from mezzo_server.frontend.caller import caller
from mezzo_server.frontend.calls import Calls
from mezzo_server.frontend.metadata import FrontendMetadata
from mezzo_server.frontend.numbers import FrontendNumbers
from mezzo_server.frontend.pod import FrontendPod
from mezzo_server.frontend.shards import ANSWER_S_MAX, NodeShards
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
        pod: FrontendPod | None = None,
        others: AsyncClient | None = None,
    ) -> None:
        """No ``office``: no tickets; no ``metadata``: every name is a namespace; no ``pod``: the node is its own.
        ``others``: a connection to all shards of the pod.
        """
        self._pod = pod
        self._others = others
        self._limits: Welcome | None = None
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
        limits, pod_map = await self._seen(MapHad(request.pod_had, request.epoch_had), timeout_s)
        ticket, ticket_s = b"", config.session_s
        if self._office is not None:
            signed = self._office.sign(caller())
            ticket, ticket_s = signed.ticket, max(0.0, signed.expires - self._office.now())
        self._numbers.sessions += 1
        if pod_map.as_had or pod_map.difference:
            self._numbers.maps["as_had" if pod_map.as_had else "difference"] += 1
        elif pod_map.encoded:
            self._numbers.maps["whole"] += 1
        return session_pb2.OpenSessionResponse(
            ticket=ticket,
            ticket_ms=round(ticket_s * 1000),
            map=pod_map,
            limits=session_pb2.Limits(
                keys_max=KEYS_MAX,
                chunk_bytes_max=min(limits.chunk_bytes_max, config.put_bytes_max, config.staging_bytes),
                put_bytes_max=config.put_bytes_max,
                message_bytes_max=config.message_bytes_max,
                piece_bytes_max=config.piece_bytes,
                lease_ms_max=limits.lease_ms_max,
            ),
            server=limits.server,
        )

    async def _seen(self, had: MapHad, timeout_s: float) -> tuple[Welcome, session_pb2.PlacementMap]:
        """What shards allow, and the map of them all for who has that one."""
        if self._pod is None:
            seen = await self._shards.look(timeout_s)
            return seen.limits, _map(seen.epoch, seen.shards, MapTold(seen.encoded))
        known = self._pod.known
        limits = self._limits = await self._limits_in_pod(min(timeout_s / 4, ANSWER_S_MAX))
        return limits, _map(known.pod_map.epoch, known.shards, known.told(had))

    async def _limits_in_pod(self, answer_s: float) -> Welcome:
        """What the node's own shards allow, or, if they are away, what they or others of the pod did."""
        if self._limits is not None and self._shards.away:
            return self._limits
        try:
            return (await self._shards.look(answer_s)).limits
        except MezzoError:
            limits = self._limits
            if limits is None and self._others is not None:
                with suppress(MezzoError):  # one that answers is enough
                    await self._others.ping(timeout_s=answer_s)
                limits = self._others.welcome
            if limits is None:
                raise
            return limits


class _Told(Protocol):
    """A shard, as clients are told of it."""

    @property
    def incarnation(self) -> bytes: ...
    @property
    def addresses(self) -> Sequence[str]: ...
    @property
    def capacity_bytes(self) -> int: ...


def _map(epoch: int, shards: Sequence[_Told], told: MapTold) -> session_pb2.PlacementMap:
    if told.as_had or told.difference:
        return session_pb2.PlacementMap(epoch=epoch, difference=told.difference, as_had=told.as_had)
    return session_pb2.PlacementMap(
        epoch=epoch,
        shards=[
            session_pb2.Shard(
                incarnation=shard.incarnation,
                addresses=shard.addresses,
                capacity_bytes=shard.capacity_bytes,
            )
            for shard in shards
        ],
        encoded=told.encoded,
    )


def session_service(calls: Calls, handlers: SessionHandlers) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    handler = calls.unary("OpenSession", session_pb2.OpenSessionRequest, handlers.open_session)
    return grpc.method_handlers_generic_handler(
        SESSION_SERVICE, {"OpenSession": grpc.stream_unary_rpc_method_handler(handler)}
    )
