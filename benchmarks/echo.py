"""A bare framed echo: python -m benchmarks.echo SOCKET ANSWER_BYTES.

A frame is its length (32 bits, little endian, itself included) and whatever follows; each is answered
with a frame of a fixed size.  No decoding, no work: the floor under any request over this loop.
"""

from __future__ import annotations

import asyncio
import struct
import sys


class EchoProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        while len(self._data) >= 4:
            (size,) = struct.unpack_from("<I", self._data)
            if len(self._data) < size:
                return
            self._data = self._data[size:]
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def serve(path: str, answer_bytes: int) -> None:
    """Until the process is ended."""
    answer = struct.pack("<I", answer_bytes) + bytes(answer_bytes - 4)
    server = await asyncio.get_running_loop().create_unix_server(lambda: EchoProtocol(answer), path)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Run on uvloop where it is installed, as the shard does."""
    loop: asyncio.AbstractEventLoop
    try:
        import uvloop

        loop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    loop.run_until_complete(serve(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
