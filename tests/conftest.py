"""For all tests: processes that they start take any free port for their metrics, not the default one."""

from __future__ import annotations

import os

for part in ("SHARD", "FRONTEND", "SUPERVISOR"):
    os.environ.setdefault(f"MEZZO_METRICS_{part}", "127.0.0.1:0")
