"""Where KV chunks are put today: Redis, and one file per chunk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.harness import Skipped
from benchmarks.processes import free_port, serving, tool

if TYPE_CHECKING:
    import redis

PIPELINE = 8
"""Commands of one Redis pipeline, as many as chunks of ours are in a call."""


class Redis:
    """A Redis of its own without persistence, through pipelines of redis-py."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """SET all of them, `PIPELINE` at a time."""
        for start in range(0, len(keys), PIPELINE):
            pipeline = self._client.pipeline(transaction=False)
            for key, value in zip(
                keys[start : start + PIPELINE], values[start : start + PIPELINE], strict=True
            ):
                pipeline.set(key, value)
            if not all(pipeline.execute()):
                raise Skipped("redis refused a SET")

    def get(self, keys: Sequence[bytes], length: int) -> None:
        """GET all of them, `PIPELINE` at a time."""
        for start in range(0, len(keys), PIPELINE):
            pipeline = self._client.pipeline(transaction=False)
            for key in keys[start : start + PIPELINE]:
                pipeline.get(key)
            answers: list[Any] = pipeline.execute()
            if any(answer is None or len(answer) != length for answer in answers):
                raise Skipped("redis lost a value")


@contextmanager
def redis_server(folder: Path, transport: Literal["unix", "tcp"]) -> Iterator[Redis]:
    """A Redis on a Unix socket or the loopback."""
    program = tool("redis-server", "redis-server")
    try:
        import redis
    except ImportError:
        raise Skipped("redis-py is not installed: pip install redis") from None
    port = free_port() if transport == "tcp" else 0
    path = folder / "redis.socket"
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    command += ["--unixsocket", str(path), "--dir", str(folder), "--maxmemory", "4gb"]
    with serving(command, b"eady to accept connections"):
        client = (
            redis.Redis(host="127.0.0.1", port=port)
            if transport == "tcp"
            else redis.Redis(unix_socket_path=str(path))
        )
        try:
            yield Redis(client)
        finally:
            client.close()


class Files:
    """One file per chunk through the page cache: what many offload backends do today."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """Write each under a temporary name and rename it, so that no reader meets half of one."""
        for key, value in zip(keys, values, strict=True):
            path = self._folder / key.hex()
            fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                written = os.write(fd, value)
            finally:
                os.close(fd)
            if written != len(value):
                raise Skipped("a file took less than was written")
            os.rename(f"{path}.new", path)

    def get(self, keys: Sequence[bytes], targets: Sequence[memoryview]) -> None:
        """Read each into its target."""
        for key, target in zip(keys, targets, strict=True):
            fd = os.open(self._folder / key.hex(), os.O_RDONLY)
            try:
                if os.readv(fd, [target]) != len(target):
                    raise Skipped("a file is shorter than what was written")
            finally:
                os.close(fd)
