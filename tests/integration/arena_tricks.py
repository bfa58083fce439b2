"""What a client could try to write to an arena, or to change its size: one function for each trick.

A trick gets the arena's descriptor and a mapping of it for reading, and returns normally if the kernel
let it through; an OSError is a refusal.  Each runs in a forked process, since some end it by a signal:
arena_tricks.py ADDRESS KEY, and their names as lines of standard input.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import sys
from collections.abc import Callable

import mezzo
from mezzo.arenas import ArenaChannel

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
NULL = ctypes.c_void_p(None)
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
EVIL = b"EVIL" * (PAGE // 4)

Trick = Callable[[int, int, int], None]
TRICKS: dict[str, Trick] = {}


def trick(function: Trick) -> Trick:
    """Registers ``function(descriptor, size, address)``: ``address`` is that of a shared mapping to read."""
    TRICKS[function.__name__] = function
    return function


def system(name: str, *arguments: object) -> int:
    """A call of libc; raises OSError with its errno."""
    function = getattr(LIBC, name)
    function.restype = ctypes.c_long
    result = int(function(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]))
    if result & 0xFFFFFFFF == 0xFFFFFFFF:  # an int that may or may not be sign-extended
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def map_it(descriptor: int, size: int, prot: int, flags: int) -> int:
    """mmap(2) itself; the address."""
    return system("mmap", NULL, size, prot, flags, descriptor, 0)


def reopen(descriptor: int, flags: int) -> int:
    """A new description of the same file."""
    return os.open(f"/proc/self/fd/{descriptor}", flags)


@trick
def map_for_writing(descriptor: int, size: int, address: int) -> None:
    ctypes.memmove(map_it(descriptor, size, READ | WRITE, SHARED), EVIL, len(EVIL))


@trick
def map_for_writing_only(descriptor: int, size: int, address: int) -> None:
    ctypes.memmove(map_it(descriptor, size, WRITE, SHARED), EVIL, len(EVIL))


@trick
def map_shared_validate(descriptor: int, size: int, address: int) -> None:
    ctypes.memmove(map_it(descriptor, size, READ | WRITE, 0x03), EVIL, len(EVIL))


@trick
def make_the_mapping_writable(descriptor: int, size: int, address: int) -> None:
    system("mprotect", address, size, READ | WRITE)
    ctypes.memmove(address, EVIL, len(EVIL))


@trick
def map_without_rights_then_widen(descriptor: int, size: int, address: int) -> None:
    there = map_it(descriptor, size, 0, SHARED)
    system("mprotect", there, size, READ | WRITE)
    ctypes.memmove(there, EVIL, len(EVIL))


@trick
def write(descriptor: int, size: int, address: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, EVIL)


@trick
def pwrite(descriptor: int, size: int, address: int) -> None:
    os.pwrite(descriptor, EVIL, 0)


@trick
def writev(descriptor: int, size: int, address: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.writev(descriptor, [EVIL, EVIL])


@trick
def pwritev(descriptor: int, size: int, address: int) -> None:
    os.pwritev(descriptor, [EVIL], 0)


@trick
def append(descriptor: int, size: int, address: int) -> None:
    os.write(reopen(descriptor, os.O_WRONLY | os.O_APPEND), EVIL)


@trick
def reopen_and_write(descriptor: int, size: int, address: int) -> None:
    os.write(reopen(descriptor, os.O_RDWR), EVIL)


@trick
def reopen_and_pwrite(descriptor: int, size: int, address: int) -> None:
    os.pwrite(reopen(descriptor, os.O_WRONLY), EVIL, PAGE)


@trick
def reopen_and_map(descriptor: int, size: int, address: int) -> None:
    map_for_writing(reopen(descriptor, os.O_RDWR), size, address)


@trick
def reopen_and_truncate(descriptor: int, size: int, address: int) -> None:
    os.ftruncate(reopen(descriptor, os.O_RDWR), 0)


@trick
def open_truncating(descriptor: int, size: int, address: int) -> None:
    reopen(descriptor, os.O_RDWR | os.O_TRUNC)


@trick
def truncate_by_path(descriptor: int, size: int, address: int) -> None:
    os.truncate(f"/proc/self/fd/{descriptor}", PAGE)


@trick
def shrink(descriptor: int, size: int, address: int) -> None:
    os.ftruncate(descriptor, size - PAGE)


@trick
def grow(descriptor: int, size: int, address: int) -> None:
    os.ftruncate(descriptor, size + PAGE)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with a mode."""
    system("fallocate", descriptor, mode, offset, length)


@trick
def fallocate_beyond_the_end(descriptor: int, size: int, address: int) -> None:
    fallocate(descriptor, 0, size, PAGE)


@trick
def punch_a_hole(descriptor: int, size: int, address: int) -> None:
    fallocate(descriptor, 0x02 | 0x01, 0, size)


@trick
def zero_a_range(descriptor: int, size: int, address: int) -> None:
    fallocate(descriptor, 0x10, 0, size)


@trick
def collapse_a_range(descriptor: int, size: int, address: int) -> None:
    fallocate(descriptor, 0x08, 0, PAGE)


@trick
def insert_a_range(descriptor: int, size: int, address: int) -> None:
    fallocate(descriptor, 0x20, 0, PAGE)


@trick
def add_a_seal(descriptor: int, size: int, address: int) -> None:
    """One that would keep the shard itself from writing."""
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@trick
def remove_pages(descriptor: int, size: int, address: int) -> None:
    system("madvise", address, size, 9)  # MADV_REMOVE


@trick
def populate_for_writing(descriptor: int, size: int, address: int) -> None:
    system("madvise", address, size, 23)  # MADV_POPULATE_WRITE


@trick
def write_to_own_memory_file(descriptor: int, size: int, address: int) -> None:
    """The way debuggers write to mappings for reading."""
    memory = os.open("/proc/self/mem", os.O_RDWR)
    os.pwrite(memory, EVIL, address)


@trick
def process_vm_writev(descriptor: int, size: int, address: int) -> None:
    source = ctypes.create_string_buffer(EVIL, len(EVIL))
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(source), len(EVIL))
    target = (ctypes.c_ulong * 2)(address, len(EVIL))
    system("process_vm_writev", os.getpid(), vector, 1, target, 1, 0)


@trick
def read_into_the_mapping(descriptor: int, size: int, address: int) -> None:
    """Let the kernel write there as the target of a read."""
    reading, writing = os.pipe()
    os.write(writing, EVIL)
    system("read", reading, address, len(EVIL))


@trick
def receive_into_the_mapping(descriptor: int, size: int, address: int) -> None:
    ours, theirs = socket.socketpair()
    theirs.send(EVIL)
    system("recv", ours.fileno(), address, len(EVIL), 0)


@trick
def splice_into_it(descriptor: int, size: int, address: int) -> None:
    reading, writing = os.pipe()
    os.write(writing, EVIL)
    os.splice(reading, reopen(descriptor, os.O_RDWR), len(EVIL), offset_dst=0)


@trick
def sendfile_into_it(descriptor: int, size: int, address: int) -> None:
    source = os.memfd_create("source")
    os.write(source, EVIL)
    os.sendfile(reopen(descriptor, os.O_RDWR), source, 0, len(EVIL))


@trick
def copy_file_range_into_it(descriptor: int, size: int, address: int) -> None:
    source = os.memfd_create("source")
    os.write(source, EVIL)
    os.copy_file_range(source, reopen(descriptor, os.O_RDWR), len(EVIL), 0, 0)


@trick
def vmsplice_out_of_a_pipe(descriptor: int, size: int, address: int) -> None:
    """A pipe's pages are copied into the memory that the vector names."""
    reading, writing = os.pipe()
    os.write(writing, EVIL)
    vector = (ctypes.c_ulong * 2)(address, len(EVIL))
    system("vmsplice", reading, vector, 1, 0)


@trick
def splice_its_pages_and_write_to_the_pipe(descriptor: int, size: int, address: int) -> None:
    """Pages of the file lie in a pipe; what is written to it afterwards must not be merged into them."""
    _reading, writing = os.pipe()
    os.splice(descriptor, writing, 16, offset_src=0)
    os.write(writing, b"EVIL" * 16)
    if os.pread(descriptor, 80, 0)[16:] == b"EVIL" * 16:
        return
    raise PermissionError(errno.EPERM, "what was written to the pipe stayed in the pipe")


@trick
def aio_write(descriptor: int, size: int, address: int) -> None:
    """Linux AIO, on a description open for writing."""
    context = ctypes.c_ulong(0)
    numbers = {"x86_64": (206, 209, 208), "aarch64": (0, 2, 4)}[os.uname().machine]
    system("syscall", numbers[0], 1, ctypes.byref(context))
    source = ctypes.create_string_buffer(EVIL, len(EVIL))

    class Control(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_uint64),
            ("key", ctypes.c_uint32),
            ("flags", ctypes.c_uint32),
            ("opcode", ctypes.c_uint16),
            ("priority", ctypes.c_int16),
            ("descriptor", ctypes.c_uint32),
            ("buffer", ctypes.c_uint64),
            ("bytes", ctypes.c_uint64),
            ("offset", ctypes.c_int64),
            ("reserved", ctypes.c_uint64),
            ("more_flags", ctypes.c_uint32),
            ("event", ctypes.c_uint32),
        ]

    control = Control(opcode=1, descriptor=reopen(descriptor, os.O_RDWR), bytes=len(EVIL))
    control.buffer = ctypes.addressof(source)
    system("syscall", numbers[1], int(context.value), 1, ctypes.byref(ctypes.pointer(control)))
    event = (ctypes.c_int64 * 4)()
    system("syscall", numbers[2], int(context.value), 1, 1, ctypes.byref(event), NULL)
    if event[2] < 0:
        raise OSError(-event[2], os.strerror(-event[2]))


@trick
def grow_the_mapping_and_write(descriptor: int, size: int, address: int) -> None:
    there = system("mremap", address, size, 2 * size, 1)
    ctypes.memmove(there + size, EVIL, len(EVIL))


@trick
def copy_the_mapping_and_write(descriptor: int, size: int, address: int) -> None:
    """An old length of 0 makes a second mapping of the same memory."""
    there = system("mremap", address, 0, size, 1)
    system("mprotect", there, size, READ | WRITE)


@trick
def remap_pages_for_writing(descriptor: int, size: int, address: int) -> None:
    system("remap_file_pages", address, PAGE, READ | WRITE, 0, 0)


@trick
def write_protect_with_userfaultfd(descriptor: int, size: int, address: int) -> None:
    """Register the mapping, then have the kernel copy a page into it."""
    number = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
    try:
        faults = system("syscall", number, os.O_CLOEXEC | 1)
    except PermissionError:
        faults = system("syscall", number, os.O_CLOEXEC)
    api = (ctypes.c_uint64 * 3)(0xAA, 0, 0)
    fcntl.ioctl(faults, 0xC018AA3F, api)
    fcntl.ioctl(faults, 0xC020AA00, (ctypes.c_uint64 * 4)(address, size, 1, 0))
    source = ctypes.create_string_buffer(EVIL * 2)
    start = -(-ctypes.addressof(source) // PAGE) * PAGE
    fcntl.ioctl(faults, 0xC028AA03, (ctypes.c_uint64 * 5)(address, start, PAGE, 0, 0))


@trick
def write_through_the_shard_s_descriptor(descriptor: int, size: int, address: int) -> None:
    """The shard's own descriptor of the same file, where this user may see it."""
    wanted = os.fstat(descriptor).st_ino
    shard = int(os.environ["SHARD_PID"])
    for name in os.listdir(f"/proc/{shard}/fd"):
        path = f"/proc/{shard}/fd/{name}"
        if os.stat(path).st_ino == wanted:
            os.pwrite(os.open(path, os.O_RDWR), EVIL, 0)
            return
    raise FileNotFoundError(errno.ENOENT, "the shard keeps no such descriptor")


@trick
def write_to_the_shard_s_own_descriptor(descriptor: int, size: int, address: int) -> None:
    """The same through pidfd_getfd(2): the very description that the shard has."""
    wanted = os.fstat(descriptor).st_ino
    shard = int(os.environ["SHARD_PID"])
    process = os.pidfd_open(shard)
    for name in os.listdir(f"/proc/{shard}/fd"):
        if os.stat(f"/proc/{shard}/fd/{name}").st_ino == wanted:
            os.pwrite(system("syscall", 438, process, int(name), 0), EVIL, 0)
            return
    raise FileNotFoundError(errno.ENOENT, "the shard keeps no such descriptor")


@trick
def map_private_and_write(descriptor: int, size: int, address: int) -> None:
    """Allowed: a copy of one's own. The shard's bytes must not change."""
    ctypes.memmove(map_it(descriptor, size, READ | WRITE, PRIVATE), EVIL, len(EVIL))


ALLOWED = {"map_private_and_write"}
"""Harmless, so that the kernel lets them through."""


class KeptChannel(ArenaChannel):
    """Keeps the descriptor that the SDK closes after mapping."""

    kept = -1

    def receive(self, opened: object) -> object:
        """As the SDK's, on a copy."""
        real_close = os.close

        def keep(descriptor: int) -> None:
            KeptChannel.kept = os.dup(descriptor)
            real_close(descriptor)

        os.close = keep
        try:
            return super().receive(opened)  # type: ignore[arg-type]
        finally:
            os.close = real_close


def attempt(name: str, descriptor: int, size: int) -> str:
    """What comes of a trick in a process of its own."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {0: "let through", 1: "refused"}.get(status, f"signal {-status}")
    status = 2
    try:
        TRICKS[name](descriptor, size, map_it(descriptor, size, READ, SHARED))
        status = 0
    except OSError as error:
        sys.stderr.write(f"{name}: {error}\n")
        status = 1
    finally:
        os._exit(status)


def main(address: str, key: str) -> None:
    """Get the arena as any client does; then try the tricks whose names come in, and say what came of each."""
    with mezzo.Client(address) as client:
        client._context = client._context._replace(open_channel=KeptChannel)  # type: ignore[arg-type]
        lease = client.acquire([key.encode()], 600.0, in_place=True, load=True)
        descriptor = KeptChannel.kept
        size = os.fstat(descriptor).st_size
        tell(f"ready {lease.hot}")
        for line in sys.stdin:
            tell(attempt(line.strip(), descriptor, size))


def tell(line: str) -> None:
    """To the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
