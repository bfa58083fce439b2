"""TLS without us: a certificate, and ``SSLSocket.recv_into`` in as many threads as there are connections."""

from __future__ import annotations

import ipaddress
import mmap
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.harness import Sample
from benchmarks.processes import cpu_s, free_port, serving
from mezzo.connecting import prepare_tcp


class Files(NamedTuple):
    """A certificate that is its own authority, and its key."""

    certificate: Path
    key: Path


def certificate(folder: Path) -> Files:
    """For the loopback address, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mezzo benchmark")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Files(folder / "tls.crt", folder / "tls.key")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


@contextmanager
def bare(
    files: Files, connections: int, chunk_bytes: int, chunks: int
) -> Iterator[Callable[[float], Sample]]:
    """Connections to a `benchmarks.tls_source`; each call receives from all of them for so many seconds, GB/s.

    Source and target are ``chunks`` of memory each, so that neither lies in a cache.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "benchmarks.tls_source",
        str(port),
        str(files.certificate),
        str(files.key),
        str(chunk_bytes),
        str(chunks),
    ]
    with serving(command, b"ready") as source:
        memory = memoryview(mmap.mmap(-1, chunk_bytes * chunks))
        readers = [_Reader(files, port, memory, chunk_bytes) for _ in range(connections)]
        try:
            yield lambda seconds: _take(readers, source.pid, seconds)
        finally:
            for reader in readers:
                reader.close()


def _take(readers: list[_Reader], source: int, seconds: float) -> Sample:
    source_began, own_began = cpu_s(source), time.process_time()
    began = time.perf_counter()
    until = began + seconds
    threads = [threading.Thread(target=reader.read, args=(until,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moved = sum(reader.moved for reader in readers)
    took_s = time.perf_counter() - began
    cpu = cpu_s(source) - source_began + time.process_time() - own_began
    return Sample(moved / took_s / 1e9, {"cpu_s_per_gb": cpu / moved * 1e9})


class _Reader:
    """One connection, and memory for chunks."""

    def __init__(self, files: Files, port: int, memory: memoryview, chunk_bytes: int) -> None:
        context = ssl.create_default_context(cafile=str(files.certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        sock = socket.create_connection(("127.0.0.1", port))
        prepare_tcp(sock)
        self._sock = context.wrap_socket(sock, server_hostname="127.0.0.1")
        self._places = [memory[at : at + chunk_bytes] for at in range(0, len(memory), chunk_bytes)]
        self.moved = 0

    def read(self, until: float) -> None:
        """Whole chunks, until that reading of the clock."""
        self.moved = 0
        receive_into = self._sock.recv_into
        places = cycle(self._places)
        while time.perf_counter() < until:
            place = next(places)
            got = 0
            while got < len(place):
                got += receive_into(place[got:])
            self.moved += got

    def close(self) -> None:
        """Hang up."""
        self._sock.close()
