"""Options of gRPC channels to a front-end."""

from __future__ import annotations

MESSAGE_BYTES_MAX = 66 * 1024 * 1024
"""largest message received: a piece has at most 64 MiB"""


def channel_options() -> list[tuple[str, int]]:
    """For `grpc.insecure_channel` and its asynchronous kin."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", -1),
        # A connection of its own, with no wait left over from another channel's failures.
        ("grpc.use_local_subchannel_pool", 1),
        # A front-end is reached directly, whatever the environment says of the web.
        ("grpc.enable_http_proxy", 0),
        # No thread for each stream.
        ("SingleThreadedUnaryStream", 1),
    ]
