"""Replays request traces against a shard and checks every byte that comes back.

`read_trace` or `workload` gives the requests, `Pattern` the bytes of each block, `Replay` runs
them, `report` and `plot` show what happened. `mezzo replay` and `mezzo demo` are made of these.
"""

from __future__ import annotations

from mezzo.replay.trace import Request, Trace, TraceSummary, read_trace

__all__ = ["Request", "Trace", "TraceSummary", "read_trace"]
