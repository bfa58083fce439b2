"""The command line in processes of its own that start in milliseconds: forked from one that has all imports done.

What they do is real: their streams, their environment, their signals and how they end.  Only `python -m mezzo.cli`
itself is left out, which takes longer than most of what tests ask of it; some tests start that as well.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Timer

COMMAND_S = 110.0
"""just less than a test may take"""

_PROGRAM = """
import json, os, sys
import matplotlib.pyplot, numpy
import mezzo.cli.app, mezzo.cli.bench, mezzo.cli.demo, mezzo.cli.device, mezzo.cli.replay
import mezzo.replay.plot, mezzo.replay.payload
import mezzo_server.cli, mezzo_server.frontend.main, mezzo_server.shard.main, mezzo_server.supervisor.main

asked, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")

def child(order):
    asked.close()
    for number, path in enumerate(order["files"]):
        fd = os.open(path, os.O_RDWR | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin = open(0)
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.argv = ["mezzo", *order["arguments"]]
    try:
        mezzo.cli.app.main()
    except SystemExit as done:
        return done.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    return 1

for line in asked:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            status = child(json.loads(line))
            sys.stdout.flush()
        finally:
            os._exit(status)
    print(pid, file=answers, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)
"""


def run_mezzo(
    *arguments: object, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """See `run_mezzo_bytes`; what it said as text."""
    done = run_mezzo_bytes(*arguments, environ=environ)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def run_mezzo_bytes(
    *arguments: object, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, in this environment with changes; killed after `COMMAND_S`."""
    process = _nursery()
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.TemporaryDirectory(prefix="mezzo-command-") as name:
        files = [Path(name) / stream for stream in ("stdin", "stdout", "stderr")]
        for file in files:
            file.write_bytes(stdin if file.name == "stdin" else b"")
        order = {
            "arguments": list(map(str, arguments)),
            "environ": {**os.environ, **(environ or {})},
            "files": list(map(str, files)),
        }
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            killer = Timer(COMMAND_S, os.kill, (pid, signal.SIGKILL))
            killer.start()
            status = int(process.stdout.readline())
            killer.cancel()
        except BaseException:
            # Whatever it still says would be taken for the answer to the next one.
            process.kill()
            _nursery.cache_clear()
            raise
        out, err = (file.read_bytes() for file in files[1:])
    return subprocess.CompletedProcess(list(arguments), status, out, err)


@functools.cache
def _nursery() -> subprocess.Popen[str]:
    path = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    # It ends when its standard input does.
    atexit.register(process.communicate)
    return process
