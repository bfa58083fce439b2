"""Whether the process at the other end of a Unix socket still lives: what has ended writes nowhere any more."""

from __future__ import annotations

import os
import select
import socket
import struct

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): process, user, group
_SO_PEERPIDFD = 77
"""of Linux from 6.5 on: a descriptor of the process, also of one in another PID namespace; the number is that of all
architectures but alpha, parisc and sparc, where it means something else"""
_MACHINES = ("x86_64", "aarch64", "riscv64", "ppc64le", "s390x")


class Peer:
    """The process that listened, as the kernel knows it. Owner of a descriptor of it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def of(cls, sock: socket.socket) -> Peer | None:
        """Of a connected socket; None where that cannot be told: of another host, or, before Linux 6.5, from a container
        with process ids of its own.
        """
        if sock.family != socket.AF_UNIX:
            return None
        if os.uname().machine in _MACHINES:
            try:
                return cls(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
            except OSError:
                pass  # an older kernel, or the process has ended
        try:
            told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            process = _CREDENTIALS.unpack(told)[0]
            return cls(os.pidfd_open(process)) if process > 0 else None
        except OSError:
            return None

    def gone(self) -> bool:
        """Whether the process has ended."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(0))
