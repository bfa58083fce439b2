"""For all tests: how processes start and on which ports, and Hypothesis that looks at no clock."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from mezzo_server.testing import RunningProcess
from tests.integration.nursery import start

for part in ("SHARD", "FRONTEND", "SUPERVISOR"):
    os.environ.setdefault(f"MEZZO_METRICS_{part}", "127.0.0.1:0")

RunningProcess.starter = staticmethod(start)

# How long an example takes is the machine's affair; what hangs ends with pytest's own limit.
settings.register_profile("mezzo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mezzo")
