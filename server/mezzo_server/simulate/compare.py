"""Runs a workload under many settings, and says what came of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import msgspec
from msgspec import Struct

from mezzo.errors import InvalidArgument
from mezzo_server.blockstore.admission.admission import AdmissionOptions, Mode
from mezzo_server.blockstore.arrivals import GROUP_SEGMENT_SHARE
from mezzo_server.blockstore.attach import SEGMENTS_MIN
from mezzo_server.blockstore.format.block import BLOCK_BYTES
from mezzo_server.blockstore.format.superblock import SEGMENT_BYTES_MIN
from mezzo_server.blockstore.join import SEGMENT_OVERHEAD_BYTES
from mezzo_server.blockstore.options import StoreOptions
from mezzo_server.simulate.node import SimulatedNode
from mezzo_server.simulate.optimum import optimum
from mezzo_server.simulate.workload import Workload

SEGMENTS_DEFAULT = 256
CHUNK_BYTES_DEFAULT = 64 << 10


class Setting(Struct, frozen=True):
    """One run."""

    policy: str
    budget: float
    """write amplification that is allowed"""
    capacity_share: float
    """of the workload's distinct bytes"""
    seed: int = 1
    admission: str = "none"
    """admission mode"""


class Outcome(Struct, frozen=True):
    """What came of it."""

    setting: Setting
    capacity_bytes: int
    """of the device, headers, tables, reserve and open segments included"""
    hit_rate: float
    """share of the references that were hits: a chunk counts only if all before it in its request did"""
    of_optimum: float
    """hit rate over Belady's"""
    byte_hit_rate: float
    write_amplification: float
    """bytes written to the device, headers and tables included, for each byte that was put"""
    put_bytes: int
    written_bytes: int
    rewritten_bytes: int
    evicted_bytes: int
    refused: int
    """chunks that were put and not taken"""


class Comparison(Struct, frozen=True):
    """All runs of one workload, with the optimum for each capacity."""

    trace: str
    sha256: str
    references: int
    distinct_bytes: int
    chunk_bytes: int
    segments: int
    optima: dict[str, float]
    """Belady's hit rate by capacity, in percent as text"""
    outcomes: list[Outcome]

    def encode(self) -> bytes:
        """As JSON; the same for the same trace, settings and seeds."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def settings(
    policies: Sequence[str],
    budgets: Sequence[float],
    capacities: Sequence[float],
    seeds: int,
    admissions: Sequence[str] = ("none",),
) -> list[Setting]:
    """Every combination, capacity by capacity."""
    return [
        Setting(policy, budget, capacity, seed, admission)
        for capacity, policy, admission, budget, seed in product(
            capacities, policies, admissions, budgets, range(1, seeds + 1)
        )
    ]


def simulate(
    workload: Workload,
    setting: Setting,
    *,
    chunk_bytes: int = CHUNK_BYTES_DEFAULT,
    segments: int = SEGMENTS_DEFAULT,
    best: float | None = None,
    admission: AdmissionOptions | None = None,
) -> Outcome:
    """One run. ``best`` is the optimum, if it is known; ``admission`` more than the setting's mode."""
    distinct = workload.distinct_bytes(chunk_bytes)
    longest = max((max(r.sizes) for r in workload.requests if r.sizes), default=chunk_bytes)
    segment_bytes = _segment_bytes(distinct * setting.capacity_share, segments, longest)
    count = int(distinct * setting.capacity_share) // segment_bytes
    if count < SEGMENTS_MIN:
        raise InvalidArgument(
            f"{100 * setting.capacity_share:g}% of {distinct} bytes are {count} segments of {segment_bytes} bytes; "
            f"{SEGMENTS_MIN} are the least: take larger chunks, or a larger share"
        )
    options = StoreOptions(
        policy=setting.policy,
        write_amplification=setting.budget,
        admission=admission or AdmissionOptions(Mode(setting.admission)),
        segment_bytes=segment_bytes,
        scrub_bytes_per_s=0,
        chunk_bytes_max=max(longest, BLOCK_BYTES),
        inline_bytes=1 << 62,
        waiting_bytes_max=1 << 62,
    )
    node = SimulatedNode(
        options, segments=count, segment_bytes=segment_bytes, chunk_bytes_max=longest, seed=setting.seed
    )
    for request in workload.requests:
        node.serve(request, request.sizes or (chunk_bytes,) * len(request.ids))
    counters = node.store.report().counters
    put_bytes = counters["bytes_put"]
    hit_rate = node.hits / max(node.references, 1)
    if best is None:
        best = optimum(workload.requests, count * segment_bytes, chunk_bytes)[0]
    outcome = Outcome(
        setting,
        count * segment_bytes,
        hit_rate,
        hit_rate / best if best else 1.0,
        node.hit_bytes / max(node.asked_bytes, 1),
        node.written_bytes / put_bytes if put_bytes else 0.0,
        put_bytes,
        node.written_bytes,
        counters["rewritten_bytes"],
        counters["bytes_evicted"],
        node.refused,
    )
    node.close()
    return outcome


def compare(
    workload: Workload,
    wanted: Sequence[Setting],
    *,
    chunk_bytes: int = CHUNK_BYTES_DEFAULT,
    segments: int = SEGMENTS_DEFAULT,
    jobs: int = 1,
    progress: Callable[[int], object] = lambda done: None,
) -> Comparison:
    """All runs, ``jobs`` of them at a time in processes of their own."""
    distinct = workload.distinct_bytes(chunk_bytes)
    shares = dict.fromkeys(setting.capacity_share for setting in wanted)
    best = {share: optimum(workload.requests, int(distinct * share), chunk_bytes)[0] for share in shares}
    outcomes = []
    for outcome in _run(workload, wanted, chunk_bytes, segments, best, jobs):
        outcomes.append(outcome)
        progress(len(outcomes))
    return Comparison(
        workload.name,
        workload.sha256,
        workload.references,
        distinct,
        chunk_bytes,
        segments,
        {f"{100 * share:g}": rate for share, rate in best.items()},
        outcomes,
    )


def _run(
    workload: Workload,
    wanted: Sequence[Setting],
    chunk_bytes: int,
    segments: int,
    best: dict[float, float],
    jobs: int,
) -> Iterator[Outcome]:
    if jobs <= 1:
        for setting in wanted:
            yield _one((setting, chunk_bytes, segments, best[setting.capacity_share]), workload)
        return
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_take, initargs=(msgspec.msgpack.encode(workload),)
    ) as pool:
        tasks = [(setting, chunk_bytes, segments, best[setting.capacity_share]) for setting in wanted]
        yield from pool.map(_one, tasks)


Run = tuple[Setting, int, int, float]
_workload: Workload | None = None
"""of a process that runs tasks of a pool"""


def _take(encoded: bytes) -> None:
    global _workload
    _workload = msgspec.msgpack.decode(encoded, type=Workload)


def _one(run: Run, workload: Workload | None = None) -> Outcome:
    setting, chunk_bytes, segments, best = run
    given = workload or _workload
    if given is None:
        raise RuntimeError("a process of the pool was given no workload")
    return simulate(given, setting, chunk_bytes=chunk_bytes, segments=segments, best=best)


def _segment_bytes(capacity_bytes: float, segments: int, longest: int) -> int:
    """So that there are ``segments``, of whole blocks, none too small for the longest chunk."""
    least = max(SEGMENT_BYTES_MIN, longest + SEGMENT_OVERHEAD_BYTES, GROUP_SEGMENT_SHARE * BLOCK_BYTES)
    size = max(int(capacity_bytes) // segments, least)
    return size - size % BLOCK_BYTES
