"""``mezzo doctor``: what this kernel and machine offer, and what to do about what is missing.

Each check is a function from a `mezzo_server.machine.Host` to findings; `examine` runs them all.
"""

from __future__ import annotations

from mezzo_server.doctor.examine import Examination, Subject, examine
from mezzo_server.doctor.finding import Finding, State

__all__ = ["Examination", "Finding", "State", "Subject", "examine"]
