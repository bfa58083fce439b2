"""A trivial gRPC server: python -m benchmarks.grpc_plain PIECE_BYTES.

The same methods as the front-end's, on the same loop, through the generated classes, with answers that are
there already: the floor under any call through Python's gRPC.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from mezzo.v1 import store_pb2


async def serve(piece_bytes: int) -> None:
    """Until the process is ended."""
    payload = bytes(range(256)) * (piece_bytes // 256)

    async def get(request: Any, context: Any) -> AsyncIterator[Any]:
        for index in range(len(request.keys)):
            length = request.capacities[index]
            for offset in range(0, length, piece_bytes):
                piece = store_pb2.Piece(index=index, offset=offset, data=payload[: length - offset])
                message = store_pb2.GetResponse(pieces=[piece])
                if offset + piece_bytes >= length:
                    message.result.found.append(True)
                    message.result.lengths.append(length)
                yield message

    async def lookup(request: Any, context: Any) -> Any:
        return store_pb2.LookupResponse(prefix=len(request.keys), bytes=4096 * len(request.keys), load_us=1)

    methods: dict[str, Any] = {
        "Get": grpc.unary_stream_rpc_method_handler(
            get,
            request_deserializer=store_pb2.GetRequest.FromString,
            response_serializer=store_pb2.GetResponse.SerializeToString,
        ),
        "Lookup": grpc.unary_unary_rpc_method_handler(
            lookup,
            request_deserializer=store_pb2.LookupRequest.FromString,
            response_serializer=store_pb2.LookupResponse.SerializeToString,
        ),
    }
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("mezzo.v1.StoreService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
