"""Opening sockets to a shard, and what clients take from their surroundings."""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from mezzo.address import Address

LOOPBACK_SEND_BYTES = 256 << 10


def open_socket(address: Address, timeout_s: float) -> socket.socket:
    """A connected socket. Raises OSError."""
    if address.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address.host)
        except BaseException:
            sock.close()
            raise
    else:
        sock = _open_tcp(address, timeout_s)
        try:
            prepare_tcp(sock)
        except BaseException:  # it was reset already, say
            sock.close()
            raise
    return sock


def _open_tcp(address: Address, timeout_s: float) -> socket.socket:
    """To the first of the host's addresses that answers; all of them share the time."""
    deadline = time.monotonic() + timeout_s
    failed: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            sock.connect(where)
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            failed = failed or error
        else:
            return sock
    raise failed or OSError(f"{address.host} has no address")


def prepare_tcp(sock: socket.socket) -> None:
    """Options of a TCP connection: requests are small and must not wait for one another."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    keep_in_cache(sock)


def keep_in_cache(sock: socket.socket) -> None:
    """Between two processes of one host there is no delay to fill: what waits should fit into a cache.

    `python -m benchmarks tcp` measures what it is worth.  To other hosts the kernel sizes the buffer by
    the path, and this does nothing.
    """
    host = sock.getpeername()[0]
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_SEND_BYTES)


class Surroundings(NamedTuple):
    """Clock, chance, patience and network; a test gives its own."""

    now: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep
    open_socket: Callable[[Address, float], socket.socket] = open_socket
