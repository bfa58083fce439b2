"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct


class Machine(Struct, frozen=True):
    """Cores, kernel and the versions of what we compare with."""

    cores: int
    processor: str
    memory_bytes: int
    kernel: str
    python: str
    tools: dict[str, str]


class Place(Struct, frozen=True):
    """Where a folder's files lie."""

    filesystem: str
    device: str
    """kernel name and model, where there is one"""


def machine() -> Machine:
    """This one."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=_processor(),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        tools={
            tool: version
            for tool in ("fio", "iperf3", "redis-server")
            if (version := _version(tool)) is not None
        },
    )


def place(folder: Path) -> Place:
    """Filesystem and device under ``folder``."""
    best, filesystem, source = -1, "unknown", ""
    resolved = folder.resolve()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        name, point, kind, *_ = line.split()
        point = point.encode().decode("unicode_escape")
        if resolved.is_relative_to(point) and len(point) >= best:
            best, filesystem, source = len(point), kind, name
    return Place(filesystem, _device(source))


def _device(source: str) -> str:
    if not source.startswith("/dev/"):
        return "memory" if source in {"tmpfs", "shm", "none"} else source
    name = Path(source).resolve().name
    block = Path("/sys/class/block") / name
    whole = block.resolve().parent if (block / "partition").exists() else block
    try:
        model = (whole / "device" / "model").read_text().strip()
    except OSError:
        try:
            driver = (whole / "device" / "driver").resolve().name
        except OSError:
            driver = ""
        model = driver.replace("_", "-")
    return f"{name} ({model})" if model else name


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _version(tool: str) -> str | None:
    path = shutil.which(tool)
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"\d+\.[\d.]+", done.stdout)
    return found.group() if found else "unknown"
