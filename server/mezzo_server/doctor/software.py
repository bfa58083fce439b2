"""Is everything installed that a node is made of?"""

from __future__ import annotations

from mezzo_server.doctor.finding import Finding, State
from mezzo_server.machine import Host

INSTALL = "pip install 'mezzo[server]'"
BUILD = (
    "apt-get install gcc liburing-dev libxxhash-dev && pip install --force-reinstall --no-deps "
    "--no-binary mezzo mezzo"
)
VECTOR_VARIANTS = ("avx512", "avx2", "neon", "sve")

_GRPC = ("grpc", "google.protobuf", "grpc_health", "grpc_reflection", "grpc_channelz")


def native(host: Host) -> Finding:
    """The compiled part: the ring, and checksums without the interpreter lock."""
    missing = [
        f"{name}: {why}"
        for name in ("ring", "pool")
        if (why := host.module(f"mezzo_server._native.{name}")) is not None
    ]
    if missing:
        seen = f"not built ({'; '.join(missing)}): I/O and checksums go through threads of the interpreter"
        return Finding("native module", State.MISSING, seen, BUILD)
    return Finding("native module", State.GOOD, "ring and pool are built")


def checksums(host: Host) -> Finding:
    """Which variant of XXH3 the processor gets."""
    variant = host.hash_variant()
    if variant is None:
        return Finding("checksums", State.MISSING, "no native module: one thread at a time", BUILD)
    if variant in VECTOR_VARIANTS:
        return Finding("checksums", State.GOOD, f"XXH3 with {variant}")
    return Finding("checksums", State.GOOD, f"XXH3, {variant}: what this processor has")


def server_modules(host: Host) -> Finding:
    """Modules without which no shard starts."""
    missing = [name for name in ("structlog", "prometheus_client") if host.module(name) is not None]
    if missing:
        return Finding("server extra", State.BROKEN, f"not installed: {', '.join(missing)}", INSTALL)
    return Finding("server extra", State.GOOD, "logs and metrics are installed")


def event_loop(host: Host) -> Finding:
    """Uvloop."""
    if host.module("uvloop") is not None:
        seen = "not installed: asyncio's own loop takes more of the processor for each request"
        return Finding("uvloop", State.MISSING, seen, INSTALL)
    return Finding("uvloop", State.GOOD, f"uvloop {host.version('uvloop') or ''}".rstrip())


def grpc(host: Host) -> Finding:
    """What a front-end needs."""
    missing = [name for name in _GRPC if host.module(name) is not None]
    if missing:
        seen = f"not installed: {', '.join(missing)}; there can be no front-end (frontend.enabled = false)"
        return Finding("gRPC", State.MISSING, seen, INSTALL)
    return Finding("gRPC", State.GOOD, f"grpcio {host.version('grpcio') or ''}".rstrip())


CHECKS = (native, checksums, server_modules, event_loop, grpc)
