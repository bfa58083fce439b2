"""Addresses that a shard listens on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mezzo.connecting import keep_in_cache
from mezzo.errors import Busy, Denied, MezzoError, Unavailable
from mezzo.protocol.connection import refusal
from mezzo_server.config import ShardConfig
from mezzo_server.config.addresses import Address, parse_address
from mezzo_server.config.reach import check_reach, shard_guard
from mezzo_server.shard.connection import Connection, peer_user
from mezzo_server.shard.tls_connection import TlsConnection

if TYPE_CHECKING:
    from mezzo_server.shard.runtime import Runtime
    from mezzo_server.shard.tls_pipe import TlsPipe
    from mezzo_server.shard.tls_server import TlsServer

log = structlog.get_logger("mezzo.listener")

BACKLOG = 512
ACCEPTS_PER_TURN = 16
ACCEPT_PAUSE_S = 0.1
TOLD_MAX = 64
"""Connections over TLS beyond the limit that are told so at a time; they are open for that long."""
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3


@dataclass(frozen=True, slots=True)
class UnixRules:
    """Who may connect to Unix sockets. What he may ask is another matter: his ticket says that."""

    mode: int = 0o600
    """permissions of the socket's file: who may write to it may connect"""
    users: frozenset[int] = frozenset()
    """user ids, as the kernel tells them; empty: whoever the permissions allow"""


class Listener:
    """One listening socket. Owner of it, and of the socket's file."""

    def __init__(self, address: Address, unix: UnixRules) -> None:
        """Bind and listen.

        Raises:
            Unavailable: the address is in use or cannot be bound; the message says why.
        """
        self._path = address.path
        self._users = unix.users
        self._sock = _bind_unix(address.path, unix.mode) if address.path is not None else _bind_tcp(address)
        self._sock.setblocking(False)
        self._inode = os.stat(address.path).st_ino if address.path is not None else 0
        if address.path is None:
            host, port = self._sock.getsockname()[:2]
            address = Address(host=host, port=port, tls=address.tls)
        self.address = address
        self._runtime: Runtime | None = None
        self._tls: TlsServer | None = None
        self._connections_max = 0

    def start(self, runtime: Runtime, connections_max: int, tls: TlsServer) -> None:
        """Accept clients from now on; ``tls`` is for those of a ``tcps://`` address."""
        self._runtime = runtime
        self._tls = tls if self.address.tls else None
        self._connections_max = connections_max
        runtime.watch_input(self._sock.fileno(), self._on_readable)

    def stop(self) -> None:
        """Accept no more, and remove the socket's file if it is still ours."""
        if self._sock.fileno() < 0:
            return
        if self._runtime is not None:
            self._runtime.unwatch_input(self._sock.fileno())
        self._sock.close()
        if self._path is not None:
            try:
                if os.stat(self._path).st_ino == self._inode:
                    os.unlink(self._path)
            except OSError:
                pass  # somebody took it away already

    def _on_readable(self) -> None:
        runtime = self._runtime
        if runtime is None:
            return
        for _ in range(ACCEPTS_PER_TURN):
            if self._tls is not None and self._tls.full:
                # They wait in the kernel's queue; a handshake ends within its time.
                runtime.unwatch_input(self._sock.fileno())
                self._tls.when_room(self._resume)
                return
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                # Out of descriptors or memory: the socket stays readable, so look away for a while.
                log.warning("cannot accept", error=str(error))
                fd = self._sock.fileno()
                runtime.unwatch_input(fd)
                runtime.after(ACCEPT_PAUSE_S, self._resume)
                return
            self._take(
                runtime, sock, f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(self.address)
            )

    def _resume(self) -> None:
        if self._runtime is not None and self._sock.fileno() >= 0:
            self._runtime.watch_input(self._sock.fileno(), self._on_readable)

    def _take(self, runtime: Runtime, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        if self._tls is not None:
            self._shake(runtime, self._tls, sock, peer)
            return
        if self._path is not None and self._users and peer_user(sock) not in self._users:
            runtime.service.counters["refused_connections"] += 1
            log.info("a user was refused", address=str(self.address), user=peer_user(sock))
            _turn_away(sock, Denied("this socket is not for processes of your user (access.unix_users)"))
            return
        if len(runtime.connections) >= self._connections_max:
            runtime.service.counters["refused_connections"] += 1
            _turn_away(sock, Busy(f"{self._connections_max} connections are open (connections_max)", 1.0))
            return
        try:
            if sock.family != socket.AF_UNIX:
                _tune_tcp(sock)
        except OSError:
            sock.close()  # it has gone already
            return
        runtime.connections.add(Connection(runtime, sock, peer))

    def _shake(self, runtime: Runtime, tls: TlsServer, sock: socket.socket, peer: str) -> None:
        try:
            _tune_tcp(sock)
        except OSError:
            sock.close()  # it has gone already
            return

        def shaken(pipe: TlsPipe) -> None:
            over = len(runtime.connections) - self._connections_max
            connection = TlsConnection(runtime, pipe, lambda: tls.ended(pipe))
            runtime.connections.add(connection)
            if over >= TOLD_MAX:
                connection.close()
            elif over >= 0:
                connection.refuse(
                    Busy(f"{self._connections_max} connections are open (connections_max)", 1.0)
                )

        tls.shake(sock, peer, shaken)


def _turn_away(sock: socket.socket, error: MezzoError) -> None:
    """Tell why, and close."""
    try:
        sock.send(refusal(error))
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # told as well as could be
    sock.close()


def open_listeners(
    config: ShardConfig, *, authenticated: bool = False, unix: UnixRules | None = None
) -> list[Listener]:
    """Listen on all addresses, or on none. ``authenticated``: callers without a credential are refused.

    Raises:
        InvalidArgument: an address that other hosts can reach, and that nothing protects.
        Unavailable: an address cannot be bound.
    """
    addresses = [parse_address(text) for text in config.listen]
    for address in addresses:
        check_reach("shard.listen", address, shard_guard(config, address, authenticated=authenticated))
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners.append(Listener(address, unix or UnixRules()))
    except BaseException:
        for listener in listeners:
            listener.stop()
        raise
    return listeners


def _bind_unix(path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)  # before it listens: until then nobody can connect
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen on unix://{path}: {os.strerror(error.errno or 0)}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the file of a socket on which nobody listens. Unavailable if it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable(f"cannot listen on unix://{path}: it is a file, not a socket")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(path)
    except OSError as error:
        if error.errno != errno.ECONNREFUSED:
            raise Unavailable(f"unix://{path} is in use") from None
        Path(path).unlink(missing_ok=True)
    else:
        raise Unavailable(f"another process listens on unix://{path}")
    finally:
        probe.close()


def _bind_tcp(address: Address) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise Unavailable(f"cannot listen on {address}: {error.strerror}") from None
    family, kind, protocol, _, sockaddr = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen on {address}: {os.strerror(error.errno or 0)}") from None
    return sock


def _tune_tcp(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A peer that vanished without a word is noticed within a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    keep_in_cache(sock)
