"""What gRPC's core is told before it starts, in processes of their own: it listens once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STARTED = """
import os
from mezzo_server.frontend.before_grpc import EXPERIMENTS_VARIABLE, before_grpc
before_grpc()
import grpc
grpc.insecure_channel("localhost:1").close()
print(os.environ[EXPERIMENTS_VARIABLE], os.environ["GRPC_VERBOSITY"])
"""


def started(**environ: str) -> tuple[str, str]:
    told = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    done = subprocess.run(
        [sys.executable, "-c", STARTED], env=told | environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_grpc_knows_what_it_is_told() -> None:
    # A release of gRPC that has no such switch any more says so on stderr: then ours goes, and is measured anew.
    assert started() == ("-event_engine_listener NONE", "")


@pytest.mark.parametrize("said", ["event_engine_listener", ""])
def test_what_somebody_has_set_wins(said: str) -> None:
    assert started(GRPC_EXPERIMENTS=said, GRPC_VERBOSITY="ERROR") == (f"{said} ERROR".strip(), "")
