"""How a sample gets from an event loop to the thread that wants it.

Invariant: the sample is made in the loop, by whoever owns the state; the asking thread waits for it
for a bounded time.  A loop that hangs is asked once, not once for each scrape.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from mezzo_server.metrics.catalog import Sample

WAIT_S = 1.5
"""A scrape is answered within 2 s, whatever the loop does."""


class LoopGatherer:
    """Asks an event loop for samples, from any thread. Owner of the last one."""

    def __init__(
        self,
        call: Callable[[Callable[[], None]], object],
        make: Callable[[], Sample],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        """``call`` lets the loop call something (RuntimeError: it is closed); ``make`` is called there."""
        self._call = call
        self._make = make
        self._wait_s = wait_s
        self._came = threading.Condition()
        self._asked = False
        self._number = 0
        self._sample = Sample()

    def __call__(self) -> Sample:
        """A new sample, or the last one with ``loop_stalled`` set."""
        with self._came:
            number = self._number
            if not self._asked:
                self._asked = True
                try:
                    self._call(self._gather)
                except RuntimeError:
                    self._asked = False
            came = self._came.wait_for(lambda: self._number != number, self._wait_s if self._asked else 0)
            sample = self._sample
        return replace(sample, numbers={**sample.numbers, "loop_stalled": int(not came)})

    def healthy(self) -> bool:
        """Whether the loop answers."""
        return not self().numbers["loop_stalled"]

    def _gather(self) -> None:
        try:
            sample = self._make()
        finally:
            with self._came:
                self._asked = False
        with self._came:
            self._sample = sample
            self._number += 1
            self._came.notify_all()
