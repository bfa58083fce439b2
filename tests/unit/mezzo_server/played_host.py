"""A machine that a test makes up: files, devices, limits and what the kernel would answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from mezzo_server.machine import Host
from mezzo_server.machine.host import Room
from mezzo_server.machine.uring import FEATURES, FLAGS, OPERATIONS, UringProbe

GIB = 1 << 30
ALL_OF_URING = UringProbe(
    features=frozenset(FEATURES), operations=frozenset(OPERATIONS), flags=frozenset(FLAGS)
)


@dataclass
class Blob:
    """A file or block device."""

    size: int = 0
    data: dict[int, bytes] = field(default_factory=dict)
    """what is not zero, by offset"""
    block: bool = False
    mine: bool = True
    readable: bool = True

    def read(self, offset: int, length: int) -> bytes:
        out = bytearray(max(0, min(length, self.size - offset)))
        for at, piece in self.data.items():
            for index, byte in enumerate(piece):
                if 0 <= at + index - offset < len(out):
                    out[at + index - offset] = byte
        return bytes(out)


class PlayedHost(Host):
    """By default a good server: 16 cores, 64 GiB, ext4 with 1 TiB of which 600 GiB are free."""

    def __init__(self, *, user: int = 1000, disks: dict[str, Blob] | None = None) -> None:
        self.environ = {"HOME": "/home/me", "XDG_RUNTIME_DIR": f"/run/user/{user}"}
        self.uid = user
        self.files: dict[str, str] = {
            "/proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {60 * 2**20} kB\nHugePages_Total: 0\n",
            "/proc/self/mountinfo": "22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n",
            "/proc/self/status": "Name:\tmezzo\nCapEff:\t0000000000000000\nSeccomp:\t0\n",
            "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size [advise] never deny force",
            "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        }
        self.folders = {"/", "/var", "/var/lib", "/var/tmp", "/tmp", "/home", "/home/me", "/home/me/.local",
                        "/home/me/.local/state", f"/run/user/{user}", "/dev"}  # fmt: skip
        own = {
            "/home/me",
            "/home/me/.local",
            "/home/me/.local/state",
            "/var/tmp",
            "/tmp",
            f"/run/user/{user}",
        }
        self.writable = set(self.folders) if user == 0 else own
        self.blobs: dict[str, Blob] = {}
        self.owners: dict[str, int] = {}
        self.rooms = {"/": Room(1024 * GIB, 600 * GIB), "/dev/shm": Room(32 * GIB, 32 * GIB)}
        self.release = "6.8.0-45-generic"
        self.cores_usable = 16
        self.limits = {8: (-1, -1), 7: (1024, 1048576)}
        self.absent: set[str] = set()
        self.variant: str | None = "avx512"
        self.ring = ALL_OF_URING
        self.sealing: str | None = None
        self.direct: str | OSError | None = None
        self.told: tuple[int, int] | None = (4, 512)
        for name, disk in (disks or {}).items():
            self.add_disk(name, disk)

    def add_disk(self, name: str, disk: Blob, **facts: str) -> None:
        self.blobs[f"/dev/{name}"] = disk
        disk.block = True
        for fact, value in {
            "size": str(disk.size // 512),
            "queue/rotational": "0",
            "dev": "259:77",
            **facts,
        }.items():
            self.files[f"/sys/block/{name}/{fact}"] = value

    def add_memory(self, gib: float, available_gib: float | None = None) -> None:
        available = gib * 0.9 if available_gib is None else available_gib
        self.files["/proc/meminfo"] = (
            f"MemTotal: {int(gib * 2**20)} kB\nMemAvailable: {int(available * 2**20)} kB\n"
        )

    def read(self, path: str) -> str | None:
        text = self.files.get(path)
        return None if text is None else text.strip()

    def names(self, folder: str) -> list[str]:
        below = [path.removeprefix(folder + "/") for path in self.files if path.startswith(folder + "/")]
        return sorted({name.partition("/")[0] for name in below})

    def kind(self, path: str):
        if path in self.blobs:
            return "block device" if self.blobs[path].block else "file"
        if path in self.folders:
            return "folder"
        return "other" if path in self.files else None

    def size_bytes(self, path: str) -> int | None:
        blob = self.blobs.get(path)
        return blob.size if blob and blob.readable else None

    def owner(self, path: str) -> int | None:
        return self.owners.get(path)

    def sample(self, path: str, offset: int, length: int) -> bytes | None:
        blob = self.blobs.get(path)
        return blob.read(offset, length) if blob and blob.readable else None

    def may_write(self, path: str) -> bool:
        return self.blobs[path].mine if path in self.blobs else path in self.writable

    def room(self, path: str) -> Room | None:
        points = [point for point in self.rooms if path == point or path.startswith(point.rstrip("/") + "/")]
        if not points or (path not in self.folders and path not in self.rooms):
            return None
        return self.rooms[max(points, key=len)]

    def kernel(self) -> str:
        return self.release

    def architecture(self) -> str:
        return "x86_64"

    def user(self) -> int:
        return self.uid

    def cores(self) -> int:
        return self.cores_usable

    def cores_of_machine(self) -> int:
        return max(16, self.cores_usable)

    def limit(self, number: int) -> tuple[int, int]:
        return self.limits[number]

    def module(self, name: str) -> str | None:
        return f"No module named '{name}'" if name in self.absent else None

    def version(self, distribution: str) -> str | None:
        return "1.0"

    def hash_variant(self) -> str | None:
        return self.variant

    def uring(self) -> UringProbe:
        return self.ring

    def seal(self) -> str | None:
        return self.sealing

    def alignments(self, path: str) -> tuple[int, int] | None:
        return self.told

    def try_direct(self, path: str, *, write: bool) -> str | None:
        if isinstance(self.direct, OSError):
            raise self.direct
        return self.direct
