"""The network without us: one stream of iperf3, and a bare echo of frames."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import Sample, Skipped
from benchmarks.processes import free_port, output_of, serving, tool


@contextmanager
def iperf(sample_s: float) -> Iterator[Callable[[], Sample]]:
    """A server of iperf3 on the loopback; each call is one stream to it, in GB/s."""
    program = tool("iperf3", "iperf3")
    port = free_port()
    command = [program, "--server", "--bind", "127.0.0.1", "--port", str(port), "--forceflush"]
    seconds = max(1, round(sample_s))  # whole seconds are what it takes

    def take() -> Sample:
        call = [program, "--client", "127.0.0.1", "--port", str(port), "--time", str(seconds), "--json"]
        return parse_iperf(output_of(call, 30 + seconds))

    with serving(command, b"Server listening"):
        yield take


def parse_iperf(output: str) -> Sample:
    """Bytes received in iperf3's JSON, in GB/s."""
    end = json.loads(output)["end"]
    return Sample(end["sum_received"]["bits_per_second"] / 8e9)


class Echo:
    """A blocking client of `benchmarks.echo`: one frame out, one frame of fixed size back."""

    def __init__(self, path: Path, request_bytes: int, answer_bytes: int, pid: int) -> None:
        self.pid = pid
        """of the server"""
        self._frame = struct.pack("<I", request_bytes) + bytes(request_bytes - 4)
        self._answer = bytearray(answer_bytes)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def exchange(self) -> None:
        """Send, and wait for the answer."""
        self._socket.sendall(self._frame)
        left = len(self._answer)
        while left:
            got = self._socket.recv_into(self._answer, left)
            if not got:
                raise Skipped("the echo server hung up")
            left -= got


@contextmanager
def echo(folder: Path, request_bytes: int, answer_bytes: int) -> Iterator[Echo]:
    """An echo server in a process of its own, over the shard's loop (uvloop), and a client of it."""
    path = folder / "echo.socket"
    command = [sys.executable, "-m", "benchmarks.echo", str(path), str(answer_bytes)]
    with serving(command, b"ready") as server:
        client = Echo(path, request_bytes, answer_bytes, server.pid)
        try:
            yield client
        finally:
            client.close()
