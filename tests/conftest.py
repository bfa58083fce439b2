"""For all tests: free ports for the metrics of processes that they start, and Hypothesis that looks at no clock."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

for part in ("SHARD", "FRONTEND", "SUPERVISOR"):
    os.environ.setdefault(f"MEZZO_METRICS_{part}", "127.0.0.1:0")

# How long an example takes is the machine's affair; what hangs ends with pytest's own limit.
settings.register_profile("mezzo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mezzo")
