"""Bytes over TLS and nothing else: python -m benchmarks.tls_source PORT CERTIFICATE KEY CHUNK_BYTES CHUNKS.

Each connection has a thread that sends all chunks, again and again, with ``SSLSocket.send``: what Python's ssl
moves without any protocol on top.
"""

from __future__ import annotations

import mmap
import os
import socket
import ssl
import sys
import threading
from itertools import cycle

from mezzo.connecting import prepare_tcp


def send_for_ever(context: ssl.SSLContext, sock: socket.socket, chunks: list[memoryview]) -> None:
    """Until the other side has gone."""
    try:
        prepare_tcp(sock)
        with context.wrap_socket(sock, server_side=True) as wrapped:
            for chunk in cycle(chunks):
                sent = 0
                while sent < len(chunk):
                    sent += wrapped.send(chunk[sent:])
    except OSError:
        pass


def main() -> None:
    """Until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    chunk_bytes, count = int(sys.argv[4]), int(sys.argv[5])
    memory = memoryview(mmap.mmap(-1, chunk_bytes * count))
    block = os.urandom(chunk_bytes)
    chunks = [memory[i * chunk_bytes : (i + 1) * chunk_bytes] for i in range(count)]
    for chunk in chunks:
        chunk[:] = block
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        print("ready", flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=send_for_ever, args=(context, sock, chunks), daemon=True).start()


if __name__ == "__main__":
    main()
