"""For tests of what uses a Mezzo server: real shards and nodes in processes of their own, and a whole pod simulated.

`running_shard`, `running_node` and `running_frontend` start processes; `simulation` plays a pod in one thread, in
virtual time, with faults from one seed (docs/simulation.md).
"""

from __future__ import annotations

from mezzo_server.testing.processes import (
    FREE_PORTS,
    RunningFrontend,
    RunningNode,
    RunningProcess,
    RunningShard,
    Started,
    running_frontend,
    running_node,
    running_shard,
    start_command,
)

__all__ = [
    "FREE_PORTS",
    "RunningFrontend",
    "RunningNode",
    "RunningProcess",
    "RunningShard",
    "Started",
    "running_frontend",
    "running_node",
    "running_shard",
    "start_command",
]
