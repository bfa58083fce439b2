"""What placement costs a client, and how even and how steady the map of a pod is."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import xxhash

from benchmarks.harness import Row, Sample, compared, take_pairs
from benchmarks.settings import Settings
from mezzo.placement.slots import SLOTS_LOG2, hash_key, namespace_seed
from mezzo_server.pod.table import make_table
from mezzo_server.pod.tuning import TUNING_ONE, contenders, tune

KEYS = 4096
CALLS = 64
"""between two looks at the clock"""


def rows(settings: Settings) -> Iterator[Row]:
    """One row: from a key to its owner, beside a hash of 32 bytes and a look-up."""
    keys = [os.urandom(32) for _ in range(KEYS)]
    known = dict.fromkeys(keys, 1)
    table = make_table(
        contenders([os.urandom(16) for _ in range(16)], [1] * 16, [TUNING_ONE] * 16), SLOTS_LOG2
    )
    seed, shift = namespace_seed(bytes(16), bytes(16)), 64 - SLOTS_LOG2

    def reference() -> None:
        digest = xxhash.xxh3_64_intdigest
        for key in keys:
            digest(key)
            known[key]

    def ours() -> None:
        for key in keys:
            table[hash_key(key, seed) >> shift]

    samples = take_pairs(
        lambda: _ns_a_key(reference, settings.sample_s),
        lambda: _ns_a_key(ours, settings.sample_s),
        settings.pairs,
    )
    yield compared(
        samples,
        name="From a key to its shard",
        unit="ns",
        reference="XXH3-64 of 32 bytes, and one look-up in a dictionary",
        ours="slot and owner",
        better="lower",
        target=2.0,
    )


def _ns_a_key(work: Callable[[], None], sample_s: float) -> Sample:
    began = time.perf_counter_ns()
    until = began + int(sample_s * 1e9)
    rounds = 0
    while (now := time.perf_counter_ns()) < until or not rounds:
        work()
        rounds += 1
    now = time.perf_counter_ns()
    return Sample((now - began) / rounds / KEYS, {})


def shares(nodes: int, shards_a_node: int, seed: int) -> tuple[float, float, float]:
    """How far the worst shard is off by chance, and tuned; and what one more node moves, over the least possible."""
    draw = random.Random(seed)
    count, more = nodes * shards_a_node, shards_a_node
    ids = [draw.randbytes(16) for _ in range(count + more)]
    raw = Counter(make_table(contenders(ids[:count], [1 << 20] * count, [TUNING_ONE] * count), SLOTS_LOG2))
    due = (1 << SLOTS_LOG2) / count
    chance = max(abs(raw[index] / due - 1) for index in range(count))
    now = tune(ids[:count], [1 << 20] * count, [TUNING_ONE] * count, SLOTS_LOG2)
    later = tune(ids, [1 << 20] * (count + more), [*now.tunings, *[TUNING_ONE] * more], SLOTS_LOG2)
    moved = sum(was != new for was, new in zip(now.table, later.table, strict=True))
    return chance, max(now.worst, later.worst), moved * (count + more) / (1 << SLOTS_LOG2) / more


def main() -> None:
    """The table of docs/placement.md: ``python -m benchmarks.placement``."""
    for nodes, shards in ((4, 1), (16, 1), (16, 4), (64, 1), (64, 4), (64, 9)):
        found = [shares(nodes, shards, seed) for seed in range(3)]
        chance, tuned, moved = (max(each) for each in zip(*found, strict=True))
        print(f"| {nodes} nodes of {shards} | {chance:.1%} | {tuned:.1%} | {moved:.2f} |")


if __name__ == "__main__":
    main()
