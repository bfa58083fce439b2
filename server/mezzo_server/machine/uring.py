"""What io_uring offers, asked of the kernel itself: works where the native module was not built.

Numbers are those of <linux/io_uring.h>; the system calls have the same numbers on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass

_SYS_SETUP = 425
_SYS_REGISTER = 427
_PARAMS_BYTES = 120
_FEATURES_OFFSET = 20
_REGISTER_BUFFERS = 0
_REGISTER_PROBE = 8
_OPS_MAX = 128
_OP_SUPPORTED = 1
_BUFFER_BYTES = 64 * 1024

FEATURES = {"NODROP": 1 << 1, "SUBMIT_STABLE": 1 << 2, "NATIVE_WORKERS": 1 << 9, "RSRC_TAGS": 1 << 10}
"""that the ring uses"""
FEATURES_NEEDED = ("NODROP", "SUBMIT_STABLE")
OPERATIONS = {"READV": 1, "WRITEV": 2, "FSYNC": 3, "READ_FIXED": 4, "WRITE_FIXED": 5, "READ": 22, "WRITE": 23}
"""that the ring submits"""
FLAGS = {"SUBMIT_ALL": 1 << 7, "COOP_TASKRUN": 1 << 8, "TASKRUN_FLAG": 1 << 8 | 1 << 9}
"""of a ring that is set up"""


@dataclass(frozen=True, slots=True)
class UringProbe:
    """Answer of the kernel. With an ``error`` all else is empty."""

    error: int = 0
    """errno of setting a ring up; 0: there can be one"""
    features: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    buffers_error: int = 0
    """errno of registering a buffer of 64 KiB"""


def probe() -> UringProbe:
    """Set up a small ring, ask what it knows, and close it."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    descriptor, features = _set_up(syscall, 0)
    if descriptor < 0:
        return UringProbe(error=-descriptor)
    try:
        operations = _operations(syscall, descriptor)
        buffers_error = _register_buffer(syscall, descriptor)
    finally:
        os.close(descriptor)
    flags = set()
    for name, flag in FLAGS.items():
        other, _ = _set_up(syscall, flag)
        if other >= 0:
            os.close(other)
            flags.add(name)
    return UringProbe(
        features=frozenset(name for name, bit in FEATURES.items() if features & bit),
        operations=operations,
        flags=frozenset(flags),
        buffers_error=buffers_error,
    )


def _set_up(syscall: ctypes._NamedFuncPointer, flags: int) -> tuple[int, int]:
    """The descriptor and its features, or a negative errno."""
    params = ctypes.create_string_buffer(bytes(8) + flags.to_bytes(4, "little"), _PARAMS_BYTES)
    descriptor = syscall(_SYS_SETUP, 4, params)
    if descriptor < 0:
        return -(ctypes.get_errno() or errno.ENOSYS), 0
    return descriptor, int.from_bytes(params.raw[_FEATURES_OFFSET : _FEATURES_OFFSET + 4], "little")


def _operations(syscall: ctypes._NamedFuncPointer, descriptor: int) -> frozenset[str]:
    answer = ctypes.create_string_buffer(16 + 8 * _OPS_MAX)
    if syscall(_SYS_REGISTER, descriptor, _REGISTER_PROBE, answer, _OPS_MAX) < 0:
        return frozenset()  # before Linux 5.6
    told = min(answer.raw[1], _OPS_MAX)
    return frozenset(
        name
        for name, number in OPERATIONS.items()
        if number < told and answer.raw[16 + 8 * number + 2] & _OP_SUPPORTED
    )


def _register_buffer(syscall: ctypes._NamedFuncPointer, descriptor: int) -> int:
    with mmap.mmap(-1, _BUFFER_BYTES) as memory:
        start = ctypes.c_char.from_buffer(memory)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(start), _BUFFER_BYTES)
        failed = syscall(_SYS_REGISTER, descriptor, _REGISTER_BUFFERS, vector, 1) < 0
        code = ctypes.get_errno() if failed else 0
        del start
        return code
