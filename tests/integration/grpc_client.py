"""A stock gRPC client of a front-end: the generated classes, and nothing of the SDK."""

from contextlib import contextmanager

import grpc

from mezzo.v1 import session_pb2, store_pb2

STORE = "/mezzo.v1.StoreService/"


class Stock:
    def __init__(self, channel):
        for name in ("Lookup", "Acquire", "Renew", "Release", "Delete", "Stat", "ShardStat", "PollEvents"):
            setattr(self, name.lower(), self._unary(channel, name))
        self.get = channel.unary_stream(
            STORE + "Get", store_pb2.GetRequest.SerializeToString, store_pb2.GetResponse.FromString
        )
        self.put = channel.stream_unary(
            STORE + "Put", store_pb2.PutRequest.SerializeToString, store_pb2.PutResponse.FromString
        )
        self.events = channel.unary_stream(
            STORE + "Events", store_pb2.EventsRequest.SerializeToString, store_pb2.EventsResponse.FromString
        )
        self.open_session = channel.unary_unary(
            "/mezzo.v1.SessionService/OpenSession",
            session_pb2.OpenSessionRequest.SerializeToString,
            session_pb2.OpenSessionResponse.FromString,
        )
        self.raw = channel.unary_unary

    @staticmethod
    def _unary(channel, name):
        request = getattr(store_pb2, f"{name}Request")
        response = getattr(store_pb2, f"{name}Response")
        return channel.unary_unary(STORE + name, request.SerializeToString, response.FromString)

    def put_one(self, key, data, namespace="default", timeout=20):
        header = store_pb2.PutHeader(namespace=namespace, keys=[key], lengths=[len(data)])
        piece = store_pb2.Piece(data=data)
        return self.put(iter([store_pb2.PutRequest(header=header, pieces=[piece])]), timeout=timeout)

    def get_all(self, keys, namespace="default", **more):
        """The bytes of each key; None for a miss."""
        chunks = {}
        result = None
        request = store_pb2.GetRequest(namespace=namespace, keys=keys, **more)
        for message in self.get(request, timeout=20):
            assert result is None, "something came after the result"
            for piece in message.pieces:
                assert piece.offset == len(chunks.get(piece.index, b""))
                chunks[piece.index] = chunks.get(piece.index, b"") + piece.data
            if message.HasField("result"):
                result = message.result
        assert list(result.lengths) == [len(chunks.get(index, b"")) for index in range(len(keys))]
        return [chunks.get(index) if found else None for index, found in enumerate(result.found)]


@contextmanager
def stock(target):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(target, [*options, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Stock(channel)


def metadata_of(error):
    return dict(error.trailing_metadata() or ())
