"""Receives the descriptors of a shard's arenas, and maps them for reading.

They come over a socket pair of their own: the client's end of the connection goes on receiving into
buffers as before, and event loops whose sockets cannot take descriptors will do.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket

from mezzo.errors import ProtocolError, Unavailable
from mezzo.in_place import Arena
from mezzo.protocol.messages import ArenaOpened

_WORD = array.array("i").itemsize
_SPACE = socket.CMSG_SPACE(4 * _WORD)


class ArenaChannel:
    """A socket pair: one end for the shard, the other to receive one descriptor. Owner of both ends."""

    def __init__(self) -> None:
        """Raises Unavailable: the system gives no descriptors."""
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"no socket pair for the hot tier: {error}") from error
        self._ours.setblocking(False)

    @property
    def descriptor(self) -> int:
        """The end that goes to the shard."""
        return self._theirs.fileno()

    def receive(self, opened: ArenaOpened) -> Arena:
        """Map what the shard has sent. Never waits: the shard sends before it answers.

        Raises:
            ProtocolError: nothing came, or something that is no arena as ``opened`` says.
            Unavailable: it cannot be mapped.
        """
        try:
            _, ancillary, _, _ = self._ours.recvmsg(1, _SPACE, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ProtocolError(f"the shard sent no arena: {error}") from error
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % _WORD])
        try:
            if len(descriptors) != 1:
                raise ProtocolError(f"the shard sent {len(descriptors)} descriptors for one arena")
            return map_arena(descriptors[0], opened)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Give both ends up."""
        self._ours.close()
        self._theirs.close()


def map_arena(descriptor: int, opened: ArenaOpened) -> Arena:
    """Map an arena shared and for reading; the descriptor stays the caller's.

    Raises:
        ProtocolError: its size can still change, so that reading it could be a fault; or it is not as
            ``opened`` says.
        Unavailable: it cannot be mapped.
    """
    needed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & needed != needed:
            raise ProtocolError("the shard sent an arena whose size is not sealed")
        size = os.fstat(descriptor).st_size
    except OSError as error:
        raise ProtocolError(f"the shard sent something that is no arena: {error}") from error
    if not 0 < opened.bytes == size:
        raise ProtocolError(f"the shard sent an arena of {size} bytes, and says {opened.bytes}")
    try:
        mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot map an arena of {size} bytes: {error}") from error
    # A core dump of an engine must not carry gigabytes of the cache.
    mapping.madvise(mmap.MADV_DONTDUMP)
    return Arena(memoryview(mapping), opened.data_offset, opened.page_bytes)
