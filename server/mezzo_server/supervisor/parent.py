"""A child's side: it ends when its supervisor does, whatever that dies of, and runs where that wants it to."""

from __future__ import annotations

import ctypes
import os
import signal

import structlog

from mezzo.errors import Unavailable

log = structlog.get_logger("mezzo.supervisor")

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with(parent: int) -> None:
    """Let the kernel kill this process when the one that started it ends (prctl(2), PR_SET_PDEATHSIG).

    SIGKILL, because whoever takes the supervisor's place must find devices and addresses free at once;
    nothing that was acknowledged is lost by it.  Called in the child itself: code between fork and exec
    (``preexec_fn``) is not safe beside threads.

    Raises:
        Unavailable: the parent has ended already, or the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise Unavailable(f"cannot tie this process to {parent}: {os.strerror(ctypes.get_errno())}")
    # It may have ended before the call: then nothing would ever tell.
    if os.getppid() != parent:
        raise Unavailable(f"process {parent}, which started this one, has ended")


def run_on(cores: str) -> None:
    """Run this process, and the threads that it starts, on these cores: ``0-3,8``.

    Memory that they touch first is then near to them.  Cores that have gone since are no reason not to start.
    """
    from mezzo_server.machine.cores import parse_cores

    try:
        os.sched_setaffinity(0, parse_cores(cores))
    except (OSError, ValueError) as error:
        log.warning("this process runs on all cores", wanted=cores, reason=str(error))
