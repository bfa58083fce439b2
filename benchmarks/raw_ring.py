"""The least io_uring that lets two orders of writes be compared, linked requests included.

Straight system calls through ctypes, no liburing: one thread, no polling, writes only.  The store's
own ring (mezzo_server._native) needs no links and so has none.  Layouts: <linux/io_uring.h>.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # numbers of the calls; the same on x86-64 and arm64
_REGISTER_BUFFERS = 0
_ENTER_GETEVENTS = 1
_OP_WRITEV, _OP_WRITE_FIXED = 2, 5
_LINK = 1 << 2
_OFFSET_SQES = 0x10000000
_FEATURE_SINGLE_MMAP = 1

_PARAMS = struct.Struct("<10I 8IQ 8IQ")
_SQE = struct.Struct("<BBHiQQIIQHHi16x")
_CQE = struct.Struct("<QiI")
_U32 = struct.Struct("<I")
_IOVEC = struct.Struct("<QQ")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    words = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class RawRing:
    """A ring over descriptor ``fd`` with one registered buffer, ``memory``. OSError if there can be none."""

    def __init__(self, fd: int, entries: int, memory: mmap.mmap) -> None:
        params = ctypes.create_string_buffer(_PARAMS.size)
        self._ring_fd = _call(_SETUP, entries, params)
        fields = _PARAMS.unpack(params.raw)
        self._entries, features = fields[0], fields[5]
        if not features & _FEATURE_SINGLE_MMAP:
            os.close(self._ring_fd)
            raise OSError(95, "this io_uring is older than Linux 5.4")
        sq, cq = fields[10:19], fields[19:28]
        ring_bytes = max(sq[6] + 4 * fields[0], cq[5] + _CQE.size * fields[1])
        self._rings = mmap.mmap(self._ring_fd, ring_bytes, offset=0)
        self._sqes = mmap.mmap(self._ring_fd, 64 * fields[0], offset=_OFFSET_SQES)
        self._sq_tail, self._cq_head, self._cq_tail = sq[1], cq[0], cq[1]
        self._cq_mask, self._cqes = fields[1] - 1, cq[5]
        for index in range(fields[0]):
            _U32.pack_into(self._rings, sq[6] + 4 * index, index)
        self._fd = fd
        self._tail = 0
        self._queued = 0
        self._anchor = ctypes.c_char.from_buffer(memory)
        self.address = ctypes.addressof(self._anchor)
        """of ``memory``"""
        self._iovecs = mmap.mmap(-1, 4096)
        self._iovec_anchor = ctypes.c_char.from_buffer(self._iovecs)
        self._iovec_address = ctypes.addressof(self._iovec_anchor)
        buffer = ctypes.create_string_buffer(_IOVEC.pack(self.address, len(memory)), _IOVEC.size)
        _call(_REGISTER, self._ring_fd, _REGISTER_BUFFERS, buffer, 1)

    def write(self, offset: int, start: int, length: int, tag: int, *, link: bool = False) -> None:
        """Queue a write of memory's ``[start, start + length)``; the next one waits for it if ``link``."""
        flags = _LINK if link else 0
        sqe = _SQE.pack(
            _OP_WRITE_FIXED, flags, 0, self._fd, offset, self.address + start, length, 0, tag, 0, 0, 0
        )
        self._push(sqe)

    def gather(
        self, offset: int, pieces: tuple[tuple[int, int], tuple[int, int]], tag: int, slot: int
    ) -> None:
        """Queue one write of two ``(start, length)`` pieces; ``slot`` (0..127) keeps its vector until it ends."""
        at = slot * 2 * _IOVEC.size
        for index, (start, length) in enumerate(pieces):
            _IOVEC.pack_into(self._iovecs, at + index * _IOVEC.size, self.address + start, length)
        address = self._iovec_address + at
        self._push(_SQE.pack(_OP_WRITEV, 0, 0, self._fd, offset, address, 2, 0, tag, 0, 0, 0))

    def _push(self, sqe: bytes) -> None:
        at = (self._tail % self._entries) * 64
        self._sqes[at : at + 64] = sqe
        self._tail = (self._tail + 1) & 0xFFFFFFFF
        self._queued += 1

    def submit_and_wait(self, count: int) -> list[tuple[int, int]]:
        """Submit what is queued, wait for ``count`` completions; (tag, result) of all that there are."""
        _U32.pack_into(self._rings, self._sq_tail, self._tail)
        self._queued -= _call(_ENTER, self._ring_fd, self._queued, count, _ENTER_GETEVENTS, None, 0)
        (head,) = _U32.unpack_from(self._rings, self._cq_head)
        (tail,) = _U32.unpack_from(self._rings, self._cq_tail)
        ended = []
        while head != tail:
            tag, result, _ = _CQE.unpack_from(self._rings, self._cqes + (head & self._cq_mask) * _CQE.size)
            ended.append((tag, result))
            head = (head + 1) & 0xFFFFFFFF
        _U32.pack_into(self._rings, self._cq_head, head)
        return ended

    def close(self) -> None:
        """Give the ring back; nothing is in flight."""
        del self._anchor, self._iovec_anchor
        self._rings.close()
        self._sqes.close()
        self._iovecs.close()
        os.close(self._ring_fd)
