"""A whole pod simulated in one thread, from one seed, in virtual time; docs/simulation.md.

The code that decides is the product's own: clients, front-ends' planning, shards with their stores, membership.  What
is simulated lies below it: time, the network, devices, the engine under the metadata, and what goes wrong with them.
"""

from __future__ import annotations

from mezzo_server.testing.simulation.options import KINDS, Options
from mezzo_server.testing.simulation.pod import Outcome, simulate

__all__ = ["KINDS", "Options", "Outcome", "simulate"]
