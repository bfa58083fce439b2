"""Processes that references and shards run in: found, started, waited for, measured, ended."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Skipped

READY_S = 20.0
STOP_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tool(name: str, package: str) -> str:
    """Path of a program. Skipped, with what to install, if it is not there."""
    path = shutil.which(name)
    if path is None:
        raise Skipped(f"{name} is not installed: apt-get install {package}")
    return path


def output_of(command: Sequence[str], timeout_s: float) -> str:
    """What a program writes. Skipped, with its last words, if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise Skipped(f"{command[0]} did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Skipped(f"{Path(command[0]).name} failed: {' / '.join(words[-3:])}")
    return done.stdout


@contextmanager
def serving(command: Sequence[str], ready: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from the line of its output that has ``ready`` in it until the block ends."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    drain: threading.Thread | None = None
    try:
        _await(process, ready, Path(command[0]).name)
        drain = threading.Thread(target=_drain, args=(process,), daemon=True)
        drain.start()
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if drain is not None:
            drain.join()
        if process.stdout is not None:
            process.stdout.close()


def _await(process: subprocess.Popen[bytes], ready: bytes, name: str) -> None:
    if process.stdout is None:
        raise Skipped(f"{name} has no output")
    fd = process.stdout.fileno()
    deadline = time.monotonic() + READY_S
    said = b""
    while ready not in said:
        readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(fd, 65536) if readable else b""
        if not piece:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise Skipped(f"{name} did not start: {' '.join(last) or 'no word from it'}")
        said += piece


def _drain(process: subprocess.Popen[bytes]) -> None:
    """Read on, so that a talkative server does not stop at a full pipe."""
    if process.stdout is not None:
        while os.read(process.stdout.fileno(), 65536):
            pass


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, all of its threads, user and kernel (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def threads_cpu_s(pid: int) -> float:
    """As `cpu_s`, to the nanosecond, of the threads that are there (/proc/PID/task/TID/schedstat)."""
    total_ns = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            total_ns += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return total_ns / 1e9


@contextmanager
def placed(servers: Sequence[int], *, apart: bool) -> Iterator[None]:
    """While the block runs: this process on one core, and the servers on another one, or on the same.

    Where the scheduler puts two processes that talk to each other decides how long a wake-up takes, tenfold
    on some machines; left to itself it decides anew in each run.  Skipped if there is no second core.
    """
    allowed = os.sched_getaffinity(0)
    cores = sorted(allowed)
    if apart and len(cores) < 2:
        raise Skipped("one core only: client and server cannot be apart")
    theirs = {cores[1] if apart else cores[0]}
    try:
        os.sched_setaffinity(0, {cores[0]})
        for pid in servers:
            _place(pid, theirs)
        yield
    finally:
        for pid in (os.getpid(), *servers):
            _place(pid, allowed)


def _place(pid: int, cores: set[int]) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Skipped(f"process {pid} has no VmRSS")
