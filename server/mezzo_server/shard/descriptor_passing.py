"""Passes a descriptor to a client over a socket that the client gave, and closes what clients gave. Never waits.

What a client gives may be anything: a file of a filesystem that answers late, a socket that lingers
when it is closed.  None of it may hold the loop.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING

from mezzo.errors import RegionError

if TYPE_CHECKING:
    from mezzo_server.shard.regions import Offload

_NO_LINGER = struct.pack("ii", 0, 0)
_FLAGS = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)
_WANTED = "ARENA_OPEN wants one end of a Unix stream socket pair"


def pass_descriptor(channel: int, descriptor: int) -> None:
    """Send ``descriptor`` with one byte over ``channel``; both stay the caller's.

    Raises:
        RegionError: ``channel`` is no Unix stream socket, or its other end takes nothing.
    """
    try:
        # Of a descriptor that is no socket this asks the kernel for nothing but that.
        sock = socket.socket(fileno=channel)
    except OSError:
        raise RegionError(f"{_WANTED}, and got something that is no socket") from None
    try:
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            raise RegionError(f"{_WANTED}, and got a socket of another kind")
        rights = array.array("i", [descriptor])
        sock.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _FLAGS)
    except OSError as error:
        raise RegionError(f"the arena cannot be sent: {os.strerror(error.errno or 0)}") from None
    finally:
        sock.detach()


def close_in(apart: Offload, descriptor: int) -> None:
    """Close what a client gave, by ``apart`` unless it is known not to wait: in a thread that may never end."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        apart(lambda: os.close(descriptor), lambda: None)
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass  # a kind of socket that knows no lingering
    sock.close()
