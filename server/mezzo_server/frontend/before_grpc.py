"""What a process with a gRPC server of ours says to gRPC's core. Imports no grpc: the core reads it once, when it starts.

A variable that somebody has set wins.
"""

from __future__ import annotations

import os

from mezzo_server.tls.grpc_version import only_tls_1_3

EXPERIMENTS_VARIABLE = "GRPC_EXPERIMENTS"
READ_WHERE_AWAITED = "-event_engine_listener"
"""Sockets are read by the thread that waits for what they bring.  With gRPC's "event engine" other threads read them,
and wake that thread for each thing that came: one wake-up more on the way of every call (docs/performance.md)."""


def before_grpc() -> None:
    """To be called before grpc is imported."""
    # What goes wrong is told by us, in one line; gRPC's own core would print a second one.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault(EXPERIMENTS_VARIABLE, READ_WHERE_AWAITED)
    only_tls_1_3()
