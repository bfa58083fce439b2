"""Options of gRPC channels to a front-end."""

from __future__ import annotations

from mezzo.address import Address
from mezzo.tls import TLS

MESSAGE_BYTES_MAX = 66 * 1024 * 1024
"""largest message received: a piece has at most 64 MiB"""


def name_options(address: Address, tls: TLS) -> list[tuple[str, str]]:
    """Of an encrypted channel: the name that the certificate must have, where it is not the address's."""
    if not tls.server_name:
        return []
    return [
        ("grpc.ssl_target_name_override", tls.server_name),
        ("grpc.default_authority", tls.server_name),
    ]


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
