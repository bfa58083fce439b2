"""What servers of gRPC have in common: options, how one listens, its metrics, the event loop, and when it stops."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from typing import Protocol, TypeVar

import grpc.aio

from mezzo.errors import Unavailable
from mezzo_server.config.addresses import Address, host_and_port
from mezzo_server.frontend.tls import server_credentials
from mezzo_server.metrics.catalog import Sample
from mezzo_server.metrics.endpoint import Endpoint
from mezzo_server.metrics.gathering import LoopGatherer
from mezzo_server.tls.certificates import Certificates

Said_co = TypeVar("Said_co", covariant=True)
Said = TypeVar("Said")

KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
IDLE_MS = 300_000
"""A connection without a call is ended after so long, so that those that are left alone keep nobody out."""
HANDSHAKE_MS = 10_000
STREAMS_BESIDE = 16
"""calls of one connection over ``calls_max``: so that it is us who say that there are too many"""


def server_options(message_bytes_max: int, calls_max: int, connections_max: int) -> list[tuple[str, int]]:
    """Options of a gRPC server that takes messages of so many bytes, and so many calls and connections at a time."""
    return [
        ("grpc.max_allowed_incoming_connections", connections_max),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", calls_max + STREAMS_BESIDE),
        # A second server on the same port is a mistake, not a way to share load.
        ("grpc.so_reuseport", 0),
        # A caller that vanished without a word is noticed, and its calls end.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def bind(server: grpc.aio.Server, address: Address, certificates: Certificates | None, setting: str) -> int:
    """Listen; the port that was taken. Raises Unavailable, with the name of the setting that says where."""
    text = host_and_port(address.host, address.port)
    try:
        if certificates is None:
            port = server.add_insecure_port(text)
        else:
            port = server.add_secure_port(text, server_credentials(certificates))
    except RuntimeError:
        port = 0
    if not port:
        raise Unavailable(f"cannot listen on {text} ({setting}): it is in use, or no address of this host")
    return port


class Server(Protocol[Said_co]):
    """Within a running loop: `start`, then `stop`."""

    async def start(self) -> Said_co:
        """Listen; what is said then."""

    async def stop(self) -> None:
        """Let go of everything. May follow a failed start."""


def open_endpoint(
    address: str, process: str, sample: Callable[[], Sample], *, insecure: bool
) -> Endpoint | None:
    """The metrics of what serves in the running loop; ``sample`` is called in it. None: the ``address`` is empty."""
    if not address:
        return None
    gatherer = LoopGatherer(asyncio.get_running_loop().call_soon_threadsafe, sample)
    return Endpoint(address, process, gatherer, gatherer.healthy, insecure=insecure)


def run_until_stopped(make: Callable[[], Server[Said]], announce: Callable[[Said], None]) -> None:
    """Run a server in this process until SIGTERM or SIGINT.

    Raises:
        MezzoError: it could not start; the message says why in one line.
    """
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_stopped(make, announce))


async def _until_stopped(make: Callable[[], Server[Said]], announce: Callable[[Said], None]) -> None:
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    server = make()
    try:
        readiness = await server.start()
        # What is there now stays: the collector need not look at it again and again between calls.
        gc.collect()
        gc.freeze()
        announce(readiness)
        await asked_to_stop.wait()
    finally:
        await server.stop()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an event loop: of uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
