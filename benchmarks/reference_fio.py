"""fio: what a C program gets out of the same file, with the same depth."""

from __future__ import annotations

import json
import resource
from functools import cache
from pathlib import Path
from typing import Literal

from msgspec import Struct

from benchmarks.harness import Sample, Skipped
from benchmarks.processes import output_of, tool


class FioJob(Struct, frozen=True, kw_only=True):
    """One job on one file. ``engine`` "null" moves nothing: what fio itself costs."""

    pattern: Literal["randread", "write"]
    block_bytes: int
    depth: int
    path: Path | None = None
    size_bytes: int
    sample_s: float
    direct: bool = True
    fixed_buffers: bool = True
    engine: Literal["io_uring", "null"] = "io_uring"
    sync_blocks: int = 0
    """fdatasync after so many blocks; 0: never"""


def fio(job: FioJob) -> Sample:
    """GB/s of one run, and its CPU seconds per GB and microseconds per block."""
    command = [
        tool("fio", "fio"),
        "--name=reference",
        "--output-format=json",
        f"--ioengine={job.engine}",
        f"--rw={job.pattern}",
        f"--bs={job.block_bytes}",
        f"--iodepth={job.depth}",
        f"--size={job.size_bytes}",
        f"--runtime={round(job.sample_s * 1000)}ms",
        "--time_based=1",
        "--randrepeat=0",
        "--norandommap=1",
    ]
    if job.path is not None:
        command += [f"--filename={job.path}", f"--direct={int(job.direct)}", "--registerfiles=1"]
        command += [f"--fixedbufs={int(job.fixed_buffers)}", "--overwrite=1", "--fallocate=none"]
        if job.pattern == "randread":
            command.append("--readonly")
    if job.sync_blocks:
        command.append(f"--fdatasync={job.sync_blocks}")
    # What fio says of its CPU leaves out the kernel's workers, which do all of its writes to a tmpfs.
    before = _children_cpu_s()
    output = output_of(command, 60 + 4 * job.sample_s)
    return parse_fio(output, job, max(0.0, _children_cpu_s() - before - _fio_start_cpu_s()))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@cache
def _fio_start_cpu_s() -> float:
    """CPU seconds that fio needs to start and to report."""
    command = [tool("fio", "fio"), "--name=nothing", "--ioengine=null", "--rw=read", "--size=4k"]
    before = _children_cpu_s()
    for _ in range(3):
        output_of([*command, "--output-format=json"], 60)
    return (_children_cpu_s() - before) / 3


def parse_fio(output: str, job: FioJob, cpu_s: float) -> Sample:
    """The figures in fio's JSON, which took ``cpu_s``. Skipped if it moved nothing."""
    # Warnings may stand before the document.
    report = json.loads(output[output.index("{") :])["jobs"][0]
    side = report["write" if job.pattern == "write" else "read"]
    moved = side["io_bytes"]
    if report.get("error") or not moved:
        raise Skipped(f"fio moved nothing (error {report.get('error')})")
    chunks = moved / job.block_bytes
    detail = {"cpu_s_per_gb": cpu_s / moved * 1e9, "cpu_us_per_chunk": cpu_s / chunks * 1e6}
    return Sample(side["bw_bytes"] / 1e9, detail)


@cache
def fixed_buffers(path: Path) -> bool:
    """Whether fio can register its buffers here (RLIMIT_MEMLOCK may forbid it, to us likewise)."""
    job = FioJob(
        pattern="randread",
        block_bytes=1 << 20,
        depth=8,
        path=path,
        size_bytes=path.stat().st_size,
        sample_s=0.05,
    )
    try:
        fio(job)
    except Skipped:
        return False
    return True
