"""How long chunks take through the front-end: the shard, the copies and gRPC, all of it. No I/O, no clock.

A median of what loads took, for each byte that was under way with them: some callers that read slowly move it
no further than as many quick ones do.
"""

from __future__ import annotations

from mezzo_server.blockstore.loads import Quantile

RATE_START = 0.5e9
LATENCY_START_S = 0.001


class Way:
    """Fed by gets as they begin and end."""

    def __init__(self) -> None:
        self._factor = Quantile(0.5)
        self._under_way = 0

    def seconds(self, nbytes: int) -> float:
        """What a get of so many bytes would take now."""
        return self._expected_s(nbytes) * self._factor.value if nbytes else 0.0

    def begin(self, nbytes: int) -> float:
        """A get of so many bytes begins; for `end`."""
        expected_s = self._expected_s(nbytes)
        self._under_way += nbytes
        return expected_s

    def end(self, nbytes: int, expected_s: float, took_s: float, *, whole: bool) -> None:
        """It ended, well (``whole``) or not."""
        self._under_way -= nbytes
        if whole and nbytes and took_s > 0:
            self._factor.add(took_s / expected_s)

    def _expected_s(self, nbytes: int) -> float:
        return LATENCY_START_S + (self._under_way + nbytes) / RATE_START
