"""Many seeds, in several processes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from mezzo_server.testing.simulation.options import Options
from mezzo_server.testing.simulation.pod import Outcome, simulate

BATCH = 8
"""Seeds that a process is given at a time."""


def play(
    seeds: Iterable[int],
    options: Options,
    jobs: int = 1,
    stop_after_s: float = 0.0,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Outcome]:
    """How each seed ended, in their order; no other is begun after ``stop_after_s`` (0: all are).

    ``tell`` gets each line of the traces as it comes, with one process.
    """
    until = time.monotonic() + stop_after_s if stop_after_s else float("inf")
    if jobs <= 1:
        for seed in seeds:
            if time.monotonic() >= until:
                return
            yield simulate(seed, options, tell=tell)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for batch in pool.map(partial(_batch, options=options, until=until), _batches(list(seeds))):
            yield from batch


def play_alone(seeds: Iterable[int], options: Options) -> Iterator[Outcome]:
    """How each seed ended, in a process that does nothing else.

    A run leaves what refers to itself, all of it at its end: to look for garbage meanwhile finds none, and took a
    tenth of the time.
    """
    gc.disable()
    for seed in seeds:
        gc.collect()
        if not gc.get_freeze_count():
            gc.freeze()  # all that was imported: it stays
        yield simulate(seed, options)


def _batches(seeds: list[int]) -> list[list[int]]:
    return [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]


def _batch(seeds: list[int], options: Options, until: float) -> list[Outcome]:
    # The clock is the same for all processes of a machine.
    return list(play_alone((seed for seed in seeds if time.monotonic() < until), options))
