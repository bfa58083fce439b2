"""What a run can be told. One place for the defaults, and for the names of all faults."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

KINDS = (
    "kill",
    "power",
    "stop",
    "pause",
    "hang",
    "slow_device",
    "lies",
    "cut",
    "cut_metadata",
    "reset",
    "slow_network",
    "away",
    "slow_metadata",
    "lost_answers",
    "compact",
    "leader",
    "clock",
    "join",
    "drain",
    "leave",
    "frontend",
    "pause_client",
    "erase",
)
"""of faults; docs/simulation.md says what each does"""


@dataclass(frozen=True, slots=True)
class Options:
    """Of a run."""

    faults: int = 12
    seconds: float = 20.0
    """for which faults strike, of virtual time"""
    kinds: tuple[str, ...] | None = None
    """of faults; None: a choice from the seed"""

    def command(self, seed: int) -> str:
        """The command that plays a seed with these."""
        words = ["mezzo", "simulate", "faults", "--seed", str(seed)]
        if self.faults != DEFAULTS.faults:
            words += ["--faults", str(self.faults)]
        if self.seconds != DEFAULTS.seconds:
            words += ["--seconds", f"{self.seconds:g}"]
        if self.kinds is not None:
            words += ["--kinds", ",".join(self.kinds)]
        return shlex.join(words)


DEFAULTS = Options()
